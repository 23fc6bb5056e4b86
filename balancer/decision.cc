#include "balancer/decision.h"

#include <fmt/core.h>

namespace godwit::balancer {

double gain_each(const Decision& decision) {
  return (decision.benefit - decision.cost) / (decision.action == Action::kSwap ? 2 : 1);
}

const char* name(Action action) {
  switch (action) {
    case Action::kStay:
      return "stay";
    case Action::kRefuse:
      return "refuse";
    case Action::kMove:
      return "move";
    case Action::kSwap:
      return "swap";
    case Action::kWake:
      return "wake";
  }
  return "?";
}

const char* name(Cause cause) {
  switch (cause) {
    case Cause::kNone:
      return "none";
    case Cause::kOverload:
      return "overload";
    case Cause::kImbalance:
      return "imbalance";
    case Cause::kConsolidation:
      return "consolidation";
    case Cause::kDrain:
      return "drain";
    case Cause::kHand:
      return "by hand";
  }
  return "?";
}

const char* name(Obstacle obstacle) {
  switch (obstacle) {
    case Obstacle::kNone:
      return "none";
    case Obstacle::kBalanced:
      return "nothing to gain";
    case Obstacle::kNotPersistent:
      return "the load is not persistent";
    case Obstacle::kNoTarget:
      return "no peer has room within its threshold and the rules";
    case Obstacle::kNotWorthIt:
      return "no move is worth its cost";
    case Obstacle::kCoolingDown:
      return "its guests moved too recently";
    case Obstacle::kBusy:
      return "moves in flight use up the limit";
    case Obstacle::kPinned:
      return "a guest is pinned or not measured";
    case Obstacle::kNonsense:
      return "its own figures are nonsense";
  }
  return "?";
}

namespace {
std::string figure(double value) {
  return value < 100 ? fmt::format("{:.3g}", value) : fmt::format("{:.0f}", value);
}

std::string worth(const Decision& decision, const char* unit) {
  return fmt::format("benefit {} {}, cost {}", figure(decision.benefit), unit,
                     figure(decision.cost));
}
}  // namespace

std::string explain(const Decision& decision) {
  const auto number = [](std::uint64_t id) { return std::to_string(id); };
  return explain(decision, number, number, "capacity-seconds");
}

std::string explain(const Decision& d, const std::function<std::string(GuestId)>& guest_name,
                    const std::function<std::string(HostId)>& host_name, const char* unit) {
  const auto percent = [](double load) { return load * 100; };
  switch (d.action) {
    case Action::kStay:
    case Action::kRefuse:
      return fmt::format("{} ({}): host {} at {:.1f} %: {}{}{}", name(d.action), name(d.cause),
                         host_name(d.source), percent(d.source_before), name(d.obstacle),
                         d.guest != 0 ? fmt::format(" (guest {})", guest_name(d.guest)) : "",
                         d.benefit != 0 || d.cost != 0 ? "; best " + worth(d, unit) : "");
    case Action::kWake:
      return fmt::format("wake host {} ({}): host {} at {:.1f} % and no awake peer has room",
                         host_name(d.target), name(d.cause), host_name(d.source),
                         percent(d.source_before));
    case Action::kMove:
    case Action::kSwap:
      break;
  }
  const std::string partner =
      d.action == Action::kSwap ? fmt::format(" against guest {}", guest_name(d.partner)) : "";
  return fmt::format(
      "{} guest {}{} from host {} to host {} ({}): expected source {:.1f} % -> {:.1f} %, target "
      "{:.1f} % -> {:.1f} %; {}; about {:.2g} s, paused {:.0f} ms",
      name(d.action), guest_name(d.guest), partner, host_name(d.source), host_name(d.target),
      name(d.cause), percent(d.source_before), percent(d.source_after), percent(d.target_before),
      percent(d.target_after), worth(d, unit), d.seconds, d.downtime * 1000);
}

}  // namespace godwit::balancer
