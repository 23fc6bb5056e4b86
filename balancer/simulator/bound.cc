#include "balancer/simulator/bound.h"

#include <algorithm>
#include <cmath>
#include <queue>

namespace godwit::balancer::simulator {

namespace {

struct Item {
  double mips;
  GuestId id;
  HostId host;
};

double square(double x) { return x * x; }

class Packing {
 public:
  explicit Packing(const World& world) : hosts_(world.hosts()), mips_(hosts_.size()) {
    for (const Host& host : hosts_) {
      for (const GuestId id : host.guests) {
        const double mips = world.guests()[id].requested;
        if (mips > 0) items_.push_back({mips, id, 0});
      }
    }
    std::sort(items_.begin(), items_.end(), [](const Item& a, const Item& b) {
      return a.mips != b.mips ? a.mips > b.mips : a.id < b.id;
    });
  }

  void place() {
    // For one capacity the lowest load is the best host for any guest.
    using Entry = std::pair<double, HostId>;
    std::priority_queue<Entry, std::vector<Entry>, std::greater<>> lowest[std::size(kHostModels)];
    for (HostId h = 0; h < hosts_.size(); ++h) lowest[model(h)].emplace(0, h);
    for (Item& item : items_) {
      std::size_t best = std::size(kHostModels);
      double least = 0;
      for (std::size_t m = 0; m < std::size(kHostModels); ++m) {
        if (lowest[m].empty() || item.mips > kHostModels[m].core_mips) continue;
        const double after = lowest[m].top().first + item.mips / kHostModels[m].total_mips;
        if (best != std::size(kHostModels) && after >= least) continue;
        best = m;
        least = after;
      }
      if (best == std::size(kHostModels)) continue;  // too fast for any core: nowhere better
      item.host = lowest[best].top().second;
      lowest[best].pop();
      mips_[item.host] += item.mips;
      lowest[best].emplace(load(item.host), item.host);
    }
  }

  // The best single move, as long as one helps.
  void refine() {
    for (std::size_t i = 0; i < items_.size() && move_best(); ++i) {
    }
  }

  double deviation() const {
    double sum = 0, squares = 0;
    for (HostId h = 0; h < hosts_.size(); ++h) {
      sum += load(h);
      squares += square(load(h));
    }
    const auto n = static_cast<double>(hosts_.size());
    return std::sqrt(std::max(0.0, squares / n - square(sum / n)));
  }

 private:
  std::size_t model(HostId host) const {
    return static_cast<std::size_t>(hosts_[host].model - kHostModels);
  }
  double load(HostId host) const { return mips_[host] / hosts_[host].model->total_mips; }

  bool move_best() {
    HostId lowest[std::size(kHostModels)];
    bool any[std::size(kHostModels)] = {};
    double sum = 0;  // of the hosts' loads
    for (HostId h = 0; h < hosts_.size(); ++h) {
      const std::size_t m = model(h);
      if (!any[m] || load(h) < load(lowest[m])) lowest[m] = h;
      any[m] = true;
      sum += load(h);
    }
    double most = 1e-9;
    const auto n = static_cast<double>(hosts_.size());
    Item* best = nullptr;
    HostId target = 0;
    for (Item& item : items_) {
      for (std::size_t m = 0; m < std::size(kHostModels); ++m) {
        if (!any[m] || lowest[m] == item.host || item.mips > kHostModels[m].core_mips) continue;
        const double from = load(item.host), to = load(lowest[m]);
        const double left = item.mips / hosts_[item.host].model->total_mips;
        const double came = item.mips / kHostModels[m].total_mips;
        // Of the variance, times the hosts; the mean moves too.
        const double gain = square(from) + square(to) - square(from - left) - square(to + came) -
                            (square(sum) - square(sum - left + came)) / n;
        if (gain <= most) continue;
        most = gain;
        best = &item;
        target = lowest[m];
      }
    }
    if (best == nullptr) return false;
    mips_[best->host] -= best->mips;
    mips_[target] += best->mips;
    best->host = target;
    return true;
  }

  const std::vector<Host>& hosts_;
  std::vector<double> mips_;
  std::vector<Item> items_;
};

}  // namespace

double repacked_deviation(const World& world) {
  Packing packing(world);
  packing.place();
  if (world.hosts().size() <= kRefinedHosts) packing.refine();
  return packing.deviation();
}

}  // namespace godwit::balancer::simulator
