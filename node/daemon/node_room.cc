// Whether Node has room for one guest more: what the machine has, what its owner's rules say; and
// who has it instead. All under the lock.
#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "balancer/rules.h"
#include "node/daemon/json_fields.h"
#include "node/daemon/node.h"

namespace godwit::node {

using nlohmann::json;

/// MB that new guests can have of the machine: what nobody uses, less what guests were given and
/// have not touched yet.
double Node::memory_available() const {
  if (!(host_.memory_mb > 0)) return std::numeric_limits<double>::max();  // it cannot be told
  if (host_.short_of_memory()) return 0;
  double left = host_.memory_available_mb;
  for (const auto& [name, guest] : guests_) {
    if (!guest.gone) left -= guest.reserved ? guest.memory : guest.memory - guest.memory_used;
  }
  return std::max(0.0, left);
}

/// Why there is no room for a guest of so many MB; empty if there is.
std::string Node::no_memory_for(double memory) const {
  const double given = memory_given();
  const double all = memory_for_guests();
  if (given + memory > all) return fmt::format("{:.0f} of {:.0f} MB are taken", given, all);
  if (host_.short_of_memory()) {
    return fmt::format("tasks of {} wait for memory {:.0f} % of the time", config_.name,
                       host_.memory_pressure->avg10 * 100);
  }
  if (memory <= memory_available()) return {};
  return fmt::format("the machine has {:.0f} MB left", memory_available());
}

double Node::memory_for_guests() const {
  return config_.memory > 0 ? config_.memory : host_.memory_mb;
}

double Node::memory_given() const {
  double given = 0;
  for (const auto& [name, guest] : guests_) given += guest.gone ? 0 : guest.memory;
  return given;
}

/// Of a guest that is to be here. Throws Conflict when its host's guests need too many already.
void Node::know_capabilities(const std::vector<std::string>& words) {
  if (capabilities_.add(words)) return;
  Capabilities in_use;  // those of guests that have gone are free again
  bool all = in_use.add(config_.capabilities);
  for (const auto& [name, guest] : guests_) all = in_use.add(guest.attributes.needs) && all;
  if (!all || !in_use.add(words)) {
    throw Conflict(fmt::format("{} and its guests name more than {} different capabilities",
                               config_.name, Capabilities::kMost));
  }
  capabilities_ = in_use;
}

/// What of its owner's rules keeps a guest off this host, in words; empty if nothing does.
std::string Node::rule_against(const Attributes& wanted) const {
  for (const std::string& need : wanted.needs) {
    if (capabilities_.bits({need}) & ~capabilities_.bits(config_.capabilities)) {
      return fmt::format("it needs {}, which {} does not have", need, config_.name);
    }
  }
  for (const auto& [name, guest] : guests_) {
    if (!guest.gone && !wanted.apart.empty() && guest.attributes.apart == wanted.apart) {
      return fmt::format("{} is here, and at most one of the group {} may be", name, wanted.apart);
    }
  }
  return {};
}

/// The same for where its group is.
std::string Node::group_elsewhere(const Attributes& wanted) const {
  const auto in_group = [&](const auto& entry) {
    return !entry.second.gone && entry.second.attributes.together == wanted.together;
  };
  if (wanted.together.empty() || std::any_of(guests_.begin(), guests_.end(), in_group)) return {};
  for (const PeerState& peer : peers_.states()) {
    const json& groups = list_in(field(peer.view, "host"), "together");
    if (peer.alive && std::find(groups.begin(), groups.end(), wanted.together) != groups.end()) {
      return fmt::format("its group {} is at {}: start it there", wanted.together, peer.name);
    }
  }
  return {};
}

/// For a guest that finds no room here: who has it, and is woken for that.
std::string Node::room_elsewhere(const ManagedGuest& wanted) {
  Names names;
  const balancer::ClusterView view = cluster_view(seconds(), names);
  const balancer::GuestView guest = guest_view(wanted, view.now, names);
  const balancer::HostView* sleeper = nullptr;
  for (const balancer::HostView& peer : view.peers) {
    if (!balancer::sane(peer) || !balancer::allowed(guest, peer)) continue;
    if (peer.awake) return fmt::format("; {} has room for it", names.hosts.at(peer.id));
    sleeper = &peer;
  }
  if (sleeper == nullptr) return {};
  const std::string peer = names.hosts.at(sleeper->id);
  if (mode_ != Mode::kAutomatic || !moves_.empty())
    return fmt::format("; {} has, and sleeps", peer);
  const std::uint64_t record = records_.add(
      {{"action", "wake"},
       {"cause", "start"},
       {"obstacle", "none"},
       {"mode", mode_name(mode_)},
       {"guest", wanted.name},
       {"from", config_.name},
       {"to", peer},
       {"text", fmt::format("wake host {} (start): neither {} nor a peer that is awake has room "
                            "for {}",
                            peer, config_.name, wanted.name)}});
  launch("", peer, [this, peer, record] { wake_peer(peer, record); });
  return fmt::format("; {} has, and is being woken: start it there", peer);
}

}  // namespace godwit::node
