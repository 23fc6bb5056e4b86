#include "balancer/simulator/greedy.h"

namespace godwit::balancer::simulator {

namespace {

constexpr double kLeastGain = 1e-9;

class Loads {
 public:
  explicit Loads(const World& world)
      : world_(world),
        mips_(world.hosts().size()),
        ram_(world.hosts().size()),
        guests_(world.hosts().size()) {}

  void add(HostId host, GuestId guest) {
    sum_ += world_.guests()[guest].requested / capacity(host);
    mips_[host] += world_.guests()[guest].requested;
    ram_[host] += world_.guests()[guest].ram;
    guests_[host].push_back(guest);
  }
  void remove(HostId host, GuestId guest) {
    sum_ -= world_.guests()[guest].requested / capacity(host);
    mips_[host] -= world_.guests()[guest].requested;
    ram_[host] -= world_.guests()[guest].ram;
    std::erase(guests_[host], guest);
  }
  const std::vector<GuestId>& guests(HostId host) const { return guests_[host]; }
  double capacity(HostId host) const { return world_.hosts()[host].model->total_mips; }
  double load(HostId host) const { return mips_[host] / capacity(host); }
  bool fits(HostId host, const Guest& guest) const {
    return guest.requested <= world_.hosts()[host].model->core_mips &&
           (!world_.config().memory_binds ||
            ram_[host] + guest.ram <= world_.hosts()[host].model->ram);
  }
  // The variance of all hosts' loads times their number, before less after. The mean load changes
  // too where the capacities differ.
  double gain(HostId from, HostId to, double mips) const {
    const auto square = [](double x) { return x * x; };
    const double left = mips / capacity(from), came = mips / capacity(to);
    return square(load(from)) + square(load(to)) - square(load(from) - left) -
           square(load(to) + came) -
           (square(sum_) - square(sum_ - left + came)) / static_cast<double>(mips_.size());
  }
  // The best single move, if any helps; guests in `moved` stay.
  bool best_move(const std::vector<bool>& moved, Move& best, HostId& from) const {
    const std::vector<HostId> targets = lowest_of_each_model();
    double most = kLeastGain;
    for (HostId h = 0; h < mips_.size(); ++h) {
      for (const GuestId id : guests_[h]) {
        const Guest& guest = world_.guests()[id];
        if (moved[id] || guest.requested == 0) continue;
        for (const HostId target : targets) {
          if (target == h || !fits(target, guest)) continue;
          const double helped = gain(h, target, guest.requested);
          if (helped <= most) continue;
          most = helped;
          best = {id, target};
          from = h;
        }
      }
    }
    return most > kLeastGain;
  }

 private:
  // For one capacity the lowest load is the best target for any guest.
  std::vector<HostId> lowest_of_each_model() const {
    std::vector<HostId> lowest;
    for (const HostModel& model : kHostModels) {
      HostId found = 0;
      bool any = false;
      for (HostId h = 0; h < mips_.size(); ++h) {
        if (world_.hosts()[h].model != &model || (any && load(h) >= load(found))) continue;
        found = h;
        any = true;
      }
      if (any) lowest.push_back(found);
    }
    return lowest;
  }

  const World& world_;
  std::vector<double> mips_, ram_;
  double sum_ = 0;  // of the hosts' loads
  std::vector<std::vector<GuestId>> guests_;
};

}  // namespace

std::vector<Move> GreedyPolicy::plan(const World& world) {
  Loads loads(world);
  for (HostId h = 0; h < world.hosts().size(); ++h) {
    for (const GuestId guest : world.hosts()[h].guests) loads.add(h, guest);
  }
  std::vector<Move> moves;
  std::vector<bool> moved(world.guests().size());
  Move move{};
  HostId from = 0;
  while (loads.best_move(moved, move, from)) {
    loads.remove(from, move.guest);
    loads.add(move.target, move.guest);
    moved[move.guest] = true;
    moves.push_back(move);
  }
  return moves;
}

}  // namespace godwit::balancer::simulator
