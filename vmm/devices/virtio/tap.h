// A tap interface of the host as a network card's port. One that does not exist is created, and
// goes with this object, also at kill -9, because it is not persistent; one that exists (made by
// `ip tuntap add`) is used and stays. Owned by Machine.
#pragma once

#include <string>

#include "vmm/devices/virtio/net_port.h"
#include "vmm/sys/unique_fd.h"

namespace godwit::devices {

class Tap final : public NetPort {
 public:
  static constexpr unsigned kMinMtu = 68, kMaxMtu = 65521;  // what Linux gives a tap

  /// Opens or creates the tap, sets its MTU unless `mtu` is 0, makes it a port of `bridge` unless
  /// that is empty, and brings it up. Nothing is read or written yet. Throws std::runtime_error
  /// with one line for the user.
  Tap(std::string name, std::string bridge, unsigned mtu);
  /// Leaves the bridge if the constructor joined it.
  ~Tap() override;
  Tap(const Tap&) = delete;
  Tap& operator=(const Tap&) = delete;

  int fd() const override { return fd_.get(); }
  void set_offloads(const NetOffloads& offloads) override;

  /// Why no interface can have this name; empty if one can.
  static std::string name_complaint(const std::string& name);

 private:
  void open();
  void set_mtu(unsigned mtu) const;
  void join_bridge();
  void leave_bridge() const;
  void bring_up() const;
  [[noreturn]] void fail(const std::string& why) const;

  std::string name_;
  std::string bridge_;
  bool joined_ = false;
  sys::UniqueFd control_;  // any socket: interface ioctls need one
  sys::UniqueFd fd_;
};

}  // namespace godwit::devices
