#include "balancer/simulator/reference.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>

namespace godwit::balancer::simulator {

namespace {

using History = std::array<double, kHistoryLength>;

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

double median_absolute_deviation(const History& history, std::size_t length) {
  std::vector<double> values(history.begin(),
                             history.begin() + static_cast<std::ptrdiff_t>(length));
  const double middle = median(values);
  for (double& value : values) value = std::abs(middle - value);
  return median(std::move(values));
}

double interquartile_range(History history, std::size_t length) {
  std::sort(history.begin(), history.begin() + static_cast<std::ptrdiff_t>(length));
  const auto quartile = [&](double q) {
    return static_cast<std::size_t>(std::floor(q * (static_cast<double>(length) + 1) + 0.5)) - 1;
  };
  return history[quartile(0.75)] - history[quartile(0.25)];
}

// The least squares line over x = 1..10 at x = 11: a host's largest RAM moves within one interval.
double regression_at_11(const History& newest_first) {
  constexpr double kMeanX = 5.5, kSquares = 82.5;
  double mean = 0, slope = 0;
  for (std::size_t i = 0; i < 10; ++i) mean += newest_first[i] / 10;
  for (std::size_t i = 0; i < 10; ++i) {
    slope += (10 - static_cast<double>(i) - kMeanX) * (newest_first[i] - mean);
  }
  slope /= kSquares;
  return mean + slope * (11 - kMeanX);
}

// The state of one host while a plan is made.
struct Draft {
  std::vector<GuestId> guests;
  double requested = 0;
  double allocated = 0;
  double available = 0;
  double power_now = 0;  // before the plan: CloudSim compares with the last measurement
  History history{};
  std::size_t length = 0;  // samples up to the oldest that is not zero
};

class Planner {
 public:
  Planner(const World& world, const ReferenceConfig& config) : world_(world), config_(config) {
    drafts_.resize(world.hosts().size());
    for (std::size_t h = 0; h < drafts_.size(); ++h) {
      drafts_[h].guests = world.hosts()[h].guests;
      drafts_[h].power_now = world.hosts()[h].model->power(world.hosts()[h].utilization());
      refresh(h);
    }
    lengths_.resize(world.guests().size());
    for (std::size_t g = 0; g < lengths_.size(); ++g)
      lengths_[g] = history_length(world.guests()[g]);
  }

  std::vector<Move> plan() {
    std::vector<bool> overloaded(drafts_.size());
    for (std::size_t h = 0; h < drafts_.size(); ++h) overloaded[h] = is_overloaded(h, nullptr);
    std::vector<GuestId> leaving;
    for (std::size_t h = 0; h < drafts_.size(); ++h) {
      if (overloaded[h]) relieve(h, leaving);
    }
    std::vector<Move> moves;
    place(leaving, overloaded, moves, false);
    empty_hosts(overloaded, moves);
    return moves;
  }

 private:
  const Guest& guest(GuestId id) const { return world_.guests()[id]; }
  const HostModel& model(std::size_t host) const { return *world_.hosts()[host].model; }

  static std::size_t history_length(const Guest& guest) {
    std::size_t length = guest.history_count;
    while (length > 0 && guest.past(length - 1) == 0) --length;
    return length;
  }

  void refresh(std::size_t host) {
    Draft& draft = drafts_[host];
    draft.requested = 0;
    draft.history.fill(0);
    double available = model(host).total_mips, needed = 0;
    bool over = false;
    for (const GuestId id : draft.guests) {
      const Guest& g = guest(id);
      draft.requested += g.requested;
      const double capped = std::min(g.requested, model(host).core_mips);
      needed += capped;
      over = over || available < capped;
      available -= capped;
      for (std::size_t i = 0; i < g.history_count; ++i) {
        draft.history[i] += g.past(i) * g.mips / model(host).total_mips;
      }
    }
    draft.available = over ? 0 : available;
    draft.allocated = 0;
    for (const GuestId id : draft.guests) {
      const double capped = std::min(guest(id).requested, model(host).core_mips);
      draft.allocated += over ? std::floor(capped * model(host).total_mips / needed) : capped;
    }
    draft.length = kHistoryLength;
    while (draft.length > 1 && draft.history[draft.length - 1] == 0) --draft.length;
  }

  // With `extra` on top of the guests that are there, when it is given.
  bool is_overloaded(std::size_t host, const Guest* extra, std::size_t extra_length = 0) const {
    const Draft& draft = drafts_[host];
    const double mips = model(host).total_mips;
    const double load = (draft.requested + (extra != nullptr ? extra->requested : 0)) / mips;
    if (config_.rule == OverloadRule::kThreshold) return load > config_.parameter;
    const std::size_t length = std::max(draft.length, extra_length);
    const bool regression = config_.rule == OverloadRule::kLocalRegression;
    if (length < (regression ? 10 : 12)) return load > 0.7;
    History history = draft.history;
    if (extra != nullptr) {
      const std::size_t used = regression ? 10 : kHistoryLength;
      for (std::size_t i = 0; i < std::min(used, extra->history_count); ++i) {
        history[i] += extra->past(i) * extra->mips / mips;
      }
    }
    if (regression) return config_.parameter * regression_at_11(history) >= 1;
    const double spread = config_.rule == OverloadRule::kMedianAbsoluteDeviation
                              ? median_absolute_deviation(history, length)
                              : interquartile_range(history, length);
    return load > 1 - config_.parameter * spread;
  }

  void relieve(std::size_t host, std::vector<GuestId>& leaving) {
    std::vector<GuestId>& guests = drafts_[host].guests;
    while (!guests.empty()) {
      const auto least = std::min_element(guests.begin(), guests.end(), [&](GuestId a, GuestId b) {
        return guest(a).ram < guest(b).ram;
      });
      leaving.push_back(*least);
      guests.erase(least);
      refresh(host);
      if (!is_overloaded(host, nullptr)) break;
    }
  }

  bool fits(std::size_t host, const Guest& g) const {
    if (model(host).core_mips < g.requested || drafts_[host].available < g.requested) return false;
    if (!world_.config().memory_binds) return true;
    double ram = g.ram;
    for (const GuestId id : drafts_[host].guests) ram += guest(id).ram;
    return ram <= model(host).ram;
  }

  std::size_t find_host(GuestId id, const std::vector<bool>& excluded) const {
    const Guest& g = guest(id);
    double best = std::numeric_limits<double>::max();
    std::size_t found = drafts_.size();
    for (std::size_t h = 0; h < drafts_.size(); ++h) {
      if (excluded[h] || !fits(h, g)) continue;
      const double increase =
          model(h).power((drafts_[h].allocated + g.requested) / model(h).total_mips) -
          drafts_[h].power_now;
      if (increase >= best) continue;
      if (drafts_[h].allocated != 0 && is_overloaded(h, &g, lengths_[id])) continue;
      best = increase;
      found = h;
    }
    return found;
  }

  // All or nothing when `all`; otherwise a guest that fits nowhere stays.
  bool place(std::vector<GuestId> guests, const std::vector<bool>& excluded,
             std::vector<Move>& moves, bool all) {
    std::stable_sort(guests.begin(), guests.end(),
                     [&](GuestId a, GuestId b) { return guest(a).requested > guest(b).requested; });
    const std::size_t before = moves.size();
    for (const GuestId id : guests) {
      const std::size_t host = find_host(id, excluded);
      if (host < drafts_.size()) {
        drafts_[host].guests.push_back(id);
        refresh(host);
        moves.push_back({id, static_cast<HostId>(host)});
      } else if (all) {
        for (; moves.size() > before; moves.pop_back()) {
          std::erase(drafts_[moves.back().target].guests, moves.back().guest);
          refresh(moves.back().target);
        }
        return false;
      }
    }
    return true;
  }

  void empty_hosts(const std::vector<bool>& overloaded, std::vector<Move>& moves) {
    std::vector<bool> no_target = overloaded;
    for (std::size_t h = 0; h < drafts_.size(); ++h) {
      if (world_.hosts()[h].used_mips == 0) no_target[h] = true;
    }
    std::vector<bool> done = no_target;
    while (true) {
      double least = 1;
      std::size_t host = drafts_.size();
      for (std::size_t h = 0; h < drafts_.size(); ++h) {
        const double u = world_.hosts()[h].utilization();
        if (done[h] || !(u > 0 && u < least) || drafts_[h].guests.empty()) continue;
        least = u;
        host = h;
      }
      if (host == drafts_.size()) return;
      done[host] = no_target[host] = true;
      const std::size_t before = moves.size();
      place(drafts_[host].guests, no_target, moves, true);
      for (std::size_t i = before; i < moves.size(); ++i) done[moves[i].target] = true;
    }
  }

  const World& world_;
  const ReferenceConfig& config_;
  std::vector<Draft> drafts_;
  std::vector<std::size_t> lengths_;
};

}  // namespace

ReferenceConfig parse_reference(const std::string& name) {
  static constexpr std::pair<const char*, OverloadRule> kRules[] = {
      {"thr-mmt-", OverloadRule::kThreshold},
      {"mad-mmt-", OverloadRule::kMedianAbsoluteDeviation},
      {"iqr-mmt-", OverloadRule::kInterquartileRange},
      {"lr-mmt-", OverloadRule::kLocalRegression}};
  for (const auto& [prefix, rule] : kRules) {
    if (name.rfind(prefix, 0) != 0) continue;
    const char* first = name.data() + std::string(prefix).size();
    double parameter = 0;
    const auto [end, error] = std::from_chars(first, name.data() + name.size(), parameter);
    if (error == std::errc{} && end == name.data() + name.size() && parameter > 0 &&
        parameter < 100) {
      return {rule, parameter};
    }
  }
  throw std::runtime_error("unknown reference policy '" + name +
                           "': use thr-mmt-0.8, mad-mmt-2.5, iqr-mmt-1.5 or lr-mmt-1.2");
}

std::vector<Move> ReferencePolicy::plan(const World& world) {
  return Planner(world, config_).plan();
}

}  // namespace godwit::balancer::simulator
