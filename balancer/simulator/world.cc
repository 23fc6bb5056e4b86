#include "balancer/simulator/world.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <limits>
#include <numeric>
#include <stdexcept>

#include "balancer/simulator/bound.h"
#include "balancer/simulator/judge.h"

namespace godwit::balancer::simulator {

const HostModel kHostModels[2] = {
    {1860, 3720, 4096, {86, 89.4, 92.6, 96, 99.5, 102, 106, 108, 112, 114, 117}},
    {2660, 5320, 4096, {93.7, 97, 101, 105, 110, 116, 121, 125, 129, 133, 135}}};
const GuestModel kGuestModels[4] = {{2500, 870}, {2000, 1740}, {1000, 1740}, {500, 613}};

namespace {

// The standard deviation of hosts' loads between two events, averaged over the time: a load runs
// straight from one to the other, so the variance is a parabola.
class Spread {
 public:
  void add(double before, double after) {
    ++hosts_;
    before_ += before;
    after_ += after;
    before_squares_ += before * before;
    after_squares_ += after * after;
    products_ += before * after;
  }
  double deviation() const {
    const double first = covariance(before_squares_, before_, before_);
    const double last = covariance(after_squares_, after_, after_);
    const double both = covariance(products_, before_, after_);
    constexpr int kSteps = 16;
    double sum = 0;
    for (int step = 0; step < kSteps; ++step) {
      const double gone = (step + 0.5) / kSteps, left = 1 - gone;
      const double variance = left * left * first + 2 * left * gone * both + gone * gone * last;
      sum += std::sqrt(std::max(0.0, variance));
    }
    return sum / kSteps;
  }

 private:
  double covariance(double products, double left, double right) const {
    return products / hosts_ - left / hosts_ * (right / hosts_);
  }

  double hosts_ = 0, before_ = 0, after_ = 0;
  double before_squares_ = 0, after_squares_ = 0, products_ = 0;
};

// Of the time in which a load runs straight from one value to the other.
double part_above_one(double before, double after) {
  const auto [low, high] = std::minmax(before, after);
  if (low > 1) return 1;
  return high > 1 ? (high - 1) / (high - low) : 0;
}

}  // namespace

// Rounds exactly as CloudSim: on one segment of the curve all hosts cost the same per MIPS, and the
// last bit decides which of them its placement takes.
double HostModel::power(double utilization) const {
  const double u = std::clamp(utilization, 0.0, 1.0);
  const auto low = static_cast<std::size_t>(std::floor(u * 10));
  const auto high = static_cast<std::size_t>(std::ceil(u * 10));
  const double slope = (watts[high] - watts[low]) / 10;
  return watts[low] + slope * (u - static_cast<double>(low) / 10) * 100;
}

World::World(const std::vector<Trace>& traces, const WorldConfig& config) : config_(config) {
  hosts_.resize(config.hosts);
  for (std::size_t i = 0; i < hosts_.size(); ++i) hosts_[i].model = &kHostModels[i % 2];
  create_guests(traces);
  recorder_.resize(hosts_.size(), guests_.size());
  place_guests();
}

void World::create_guests(const std::vector<Trace>& traces) {
  if (traces.empty()) throw std::runtime_error("no traces to simulate");
  const std::size_t count = config_.guests == 0 ? traces.size() : config_.guests;
  std::vector<std::size_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  if (config_.seed != 0) {
    std::mt19937_64 random(config_.seed);
    // Not std::shuffle: its result differs between libraries.
    for (std::size_t i = count; i > 1; --i) std::swap(order[i - 1], order[random() % i]);
  }
  const std::size_t per_type = (count + 3) / 4;
  guests_.resize(count);
  for (std::size_t i = 0; i < count; ++i) {
    const Trace& trace = traces[order[i] % traces.size()];
    if (trace.percent.size() < kSamplesPerDay) {
      throw std::runtime_error(fmt::format("trace '{}' is shorter than a day", trace.name));
    }
    const GuestModel& model = kGuestModels[i / per_type];
    guests_[i].mips = model.mips;
    guests_[i].ram = model.ram;
    guests_[i].samples = trace.percent.data();
    guests_[i].sample_shift = order[i] / traces.size() * 37 % kSamplesPerDay;
  }
}

// CloudSim asks for every guest's full MIPS, RAM and bandwidth at creation, and takes the host
// whose power after the placement exceeds its *idle* power least (no host has been measured yet):
// this spreads.
HostId World::initial_host(const Guest& guest, std::vector<double>& used, std::vector<double>& ram,
                           std::vector<int>& count) const {
  double best = std::numeric_limits<double>::max();
  std::size_t found = hosts_.size();
  for (std::size_t h = 0; h < hosts_.size(); ++h) {
    const HostModel& model = *hosts_[h].model;
    if (guest.mips > model.core_mips || used[h] + guest.mips > model.total_mips ||
        ram[h] + guest.ram > model.ram || count[h] >= kGuestsByBandwidth) {
      continue;
    }
    const double increase = model.power((used[h] + guest.mips) / model.total_mips) - model.power(0);
    if (increase < best) {
      best = increase;
      found = h;
    }
  }
  if (found == hosts_.size()) {
    throw std::runtime_error(
        "a guest fits on no host at the start; give more hosts (--hosts) or fewer guests");
  }
  used[found] += guest.mips;
  ram[found] += guest.ram;
  ++count[found];
  return static_cast<HostId>(found);
}

void World::place_guests() {
  std::vector<double> used(hosts_.size()), ram(hosts_.size());
  std::vector<int> count(hosts_.size());
  for (GuestId id = 0; id < guests_.size(); ++id) {
    const HostId host = config_.spread_start ? static_cast<HostId>(id % hosts_.size())
                                             : initial_host(guests_[id], used, ram, count);
    take(host, id);
  }
}

double World::sample(const Guest& guest, double time) const {
  const auto at = [&](std::size_t i) {
    return guest.samples[(std::min(i, kSamplesPerDay - 1) + guest.sample_shift) % kSamplesPerDay] /
           100.0;
  };
  const auto index = static_cast<std::size_t>(time / kSampleSeconds);
  const double offset = time - static_cast<double>(index) * kSampleSeconds;
  if (offset == 0) return at(index);
  return at(index) + (at(index + 1) - at(index)) / kSampleSeconds * offset;
}

void World::update_guest(GuestId id) {
  Guest& guest = guests_[id];
  if (guest.updated == now_) return;
  guest.updated = now_;
  guest.utilization = sample(guest, now_);
  guest.requested = guest.utilization * guest.mips;
  // As CloudSim: exact comparison of doubles, so that the same samples are taken.
  if (std::fmod(now_ - 0.1, kSampleSeconds) == 0) {
    guest.newest = (guest.newest + 1) % kHistoryLength;
    guest.history[guest.newest] = guest.utilization;
    guest.history_count = std::min(guest.history_count + 1, kHistoryLength);
  }
}

// The rules of CloudSim's over-subscribing scheduler: a guest never gets more than one core; a
// guest on its way out gets 90 %, the target is charged 10 %; when demand exceeds the host all
// shares shrink alike, rounded down.
void World::update_host(HostId id) {
  Host& host = hosts_[id];
  host.previous_used_mips = host.used_mips;
  host.used_mips = host.requested_mips = host.resident_mips = 0;
  double needed = 0;
  double available = host.model->total_mips;
  bool over = false;
  allocation_.assign(host.guests.size(), 0);
  const auto is_incoming = [&](GuestId guest) {
    return !host.incoming.empty() &&
           std::find(host.incoming.begin(), host.incoming.end(), guest) != host.incoming.end();
  };
  for (const GuestId guest : host.guests) {
    update_guest(guest);
    const double capped = std::min(guests_[guest].requested, host.model->core_mips);
    const double need = is_incoming(guest) ? capped * 0.1 : capped;
    needed += need;
    if (available < need) over = true;
    available -= need;
  }
  const double scale = over ? host.model->total_mips / needed : 1;
  for (const GuestId id_of_guest : host.guests) {
    const Guest& guest = guests_[id_of_guest];
    const bool incoming = is_incoming(id_of_guest);
    double share = std::min(guest.requested, host.model->core_mips);
    if (over) share *= scale;
    if (incoming) {
      share *= 0.1;
    } else if (guest.migrating) {
      share *= 0.9;
    }
    if (over) share = std::floor(share);
    if (!incoming) {
      recorder_.guest_state(id_of_guest, now_, share, guest.requested, guest.migrating);
      if (guest.migrating) share /= 0.9;
      host.resident_mips += guest.requested;
    }
    host.used_mips += share;
    host.requested_mips += guest.requested;
  }
  recorder_.host_state(id, now_, host.used_mips, host.requested_mips);
}

void World::advance(double time) {
  now_ = time;
  const double seconds = now_ - last_processed_;
  double watt_seconds = 0;
  Spread spread;
  double overloaded = 0, active = 0, demand = 0;
  for (HostId id = 0; id < hosts_.size(); ++id) {
    update_host(id);
    Host& host = hosts_[id];
    const double before = host.previous_utilization(), after = host.utilization();
    if (seconds > 0 && before != 0) {
      const double from = host.model->power(before);
      watt_seconds += (from + (host.model->power(after) - from) / 2) * seconds;
    }
    // A guest on its way counts once, where it lives: moving must not raise the bound.
    const double load = host.load();
    spread.add(host.previous_load, load);
    overloaded += part_above_one(host.previous_load, load);
    host.previous_load = load;
    demand += host.resident_mips;
    if (!host.guests.empty()) ++active;
  }
  recorder_.energy(watt_seconds);
  // Both models are most efficient when full, and the G5 more so than the G4.
  const HostModel& best = kHostModels[1];
  recorder_.load(now_, spread.deviation(), overloaded, active,
                 demand / best.total_mips * best.watts.back());
  last_processed_ = now_;
  if (config_.remove_idle_guests) remove_idle();
}

void World::remove_idle() {
  for (HostId id = 0; id < hosts_.size(); ++id) {
    std::vector<GuestId>& guests = hosts_[id].guests;
    std::erase_if(guests, [&](GuestId guest) {
      if (guests_[guest].migrating || guests_[guest].requested != 0) return false;
      guests_[guest].removed = true;
      return true;
    });
  }
}

void World::take(HostId host, GuestId guest) {
  hosts_[host].guests.push_back(guest);
  guests_[guest].host = host;
}

void World::drop(HostId host, GuestId guest) { std::erase(hosts_[host].guests, guest); }

void World::start(const std::vector<Move>& moves) {
  for (const Move& move : moves) {
    Host& target = hosts_[move.target];
    const HostId source = guests_[move.guest].host;
    recorder_.moved(now_, move.guest, source, move.target);
    guests_[move.guest].migrating = true;
    if (std::find(target.incoming.begin(), target.incoming.end(), move.guest) !=
        target.incoming.end()) {
      continue;
    }
    target.incoming.push_back(move.guest);
    target.guests.push_back(move.guest);
    update_host(move.target);
    update_host(source);
  }
}

void World::finish(const Move& move) {
  Guest& guest = guests_[move.guest];
  drop(guest.host, move.guest);
  drop(move.target, move.guest);
  std::erase(hosts_[move.target].incoming, move.guest);
  guest.migrating = false;
  take(move.target, move.guest);
}

Metrics World::run(Policy& policy) {
  std::vector<std::vector<float>>
      demand;  // what the guests of each host asked for, sample by sample
  const double end = static_cast<double>(kSamplesPerDay) * kSampleSeconds;
  for (double time = kSampleSeconds + 0.1; time < end; time += kSampleSeconds) {
    advance(time);
    ++tick_;
    std::vector<float>& row = demand.emplace_back();
    double kilowatts = 0, active = 0, sum = 0, squares = 0;
    for (const Host& host : hosts_) {
      row.push_back(static_cast<float>(host.requested_mips));
      const double load = host.load();  // no move is in flight
      sum += load;
      squares += load * load;
      if (host.used_mips > 0) {
        kilowatts += host.model->power(host.utilization()) / 1000;
        ++active;
      }
    }
    if (config_.bounds) recorder_.deviation_bound(repacked_deviation(*this));
    const std::clock_t began = std::clock();
    std::vector<Move> moves = policy.plan(*this);
    recorder_.decided(static_cast<double>(std::clock() - began) / CLOCKS_PER_SEC, hosts_.size());
    const auto n = static_cast<double>(hosts_.size());
    recorder_.sample(std::sqrt(std::max(0.0, squares / n - sum / n * (sum / n))), active, kilowatts,
                     static_cast<double>(moves.size()));
    start(moves);
    // RAM decides when a move ends: guests of one model arrive together.
    std::stable_sort(moves.begin(), moves.end(), [&](const Move& a, const Move& b) {
      return guests_[a.guest].ram < guests_[b.guest].ram;
    });
    for (std::size_t i = 0; i < moves.size();) {
      const double ram = guests_[moves[i].guest].ram;
      advance(time + ram / kMigrationMegabytesPerSecond);
      while (i < moves.size() && guests_[moves[i].guest].ram == ram) finish(moves[i++]);
      advance(now_);
    }
  }
  recorder_.unprofitable(count_unprofitable(recorder_.moves(), demand, *this));
  return recorder_.result();
}

}  // namespace godwit::balancer::simulator
