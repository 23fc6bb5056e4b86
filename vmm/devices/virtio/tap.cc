#include "vmm/devices/virtio/tap.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "vmm/sys/error.h"

namespace godwit::devices {
namespace {

ifreq request_for(const std::string& name) {
  ifreq request{};
  name.copy(request.ifr_name, IFNAMSIZ - 1);
  return request;
}

/// The bridge that the interface is a port of, or empty.
std::string bridge_of(const std::string& name) {
  std::array<char, 256> target{};
  const auto path = fmt::format("/sys/class/net/{}/master", name);
  const ssize_t size = ::readlink(path.c_str(), target.data(), target.size() - 1);
  if (size <= 0) return {};
  const std::string text(target.data(), static_cast<std::size_t>(size));
  return text.substr(text.rfind('/') + 1);
}

}  // namespace

std::string Tap::name_complaint(const std::string& name) {
  const auto bad = [](unsigned char c) {
    return c <= ' ' || c >= 0x7f || c == '/' || c == ':' || c == '%';
  };
  if (name.empty() || name.size() >= IFNAMSIZ || name == "." || name == ".." ||
      std::any_of(name.begin(), name.end(), bad)) {
    return "an interface's name has 1 to 15 characters, no spaces and no / : %";
  }
  return {};
}

Tap::Tap(std::string name, std::string bridge, unsigned mtu)
    : name_(std::move(name)),
      bridge_(std::move(bridge)),
      control_(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)) {
  if (const std::string why = name_complaint(name_); !why.empty()) fail(why);
  if (!bridge_.empty() && !name_complaint(bridge_).empty()) {
    fail("its bridge: " + name_complaint(bridge_));
  }
  if (mtu != 0 && (mtu < kMinMtu || mtu > kMaxMtu)) {
    fail(fmt::format("the MTU must be {} to {}, not {}", kMinMtu, kMaxMtu, mtu));
  }
  if (!control_) fail(fmt::format("socket: {}", std::strerror(errno)));
  open();
  if (mtu != 0) set_mtu(mtu);
  try {
    if (!bridge_.empty()) join_bridge();
    bring_up();
  } catch (...) {
    if (joined_) leave_bridge();
    throw;
  }
}

Tap::~Tap() {
  if (joined_) leave_bridge();
}

void Tap::open() {
  fd_ = sys::UniqueFd(::open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK));
  if (!fd_) {
    const int error = errno;
    fail(fmt::format("/dev/net/tun: {}{}", std::strerror(error),
                     error == ENOENT || error == ENODEV ? ": load its driver (modprobe tun)" : ""));
  }
  ifreq request = request_for(name_);
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
  if (::ioctl(fd_.get(), TUNSETIFF, &request) != 0) {
    switch (errno) {
      case EPERM:
        fail(
            "opening it needs CAP_NET_ADMIN: run as root, or have root make it for you "
            "(ip tuntap add NAME mode tap user YOU)");
      case EBUSY:
        fail("another process uses it: give this guest a tap of its own");
      case EINVAL:
        fail("an interface of that name exists and is no single-queue tap");
      default:
        fail(std::strerror(errno));
    }
  }
  int header = kHeaderSize;
  int little_endian = 1;
  sys::check(::ioctl(fd_.get(), TUNSETVNETHDRSZ, &header), "TUNSETVNETHDRSZ");
  sys::check(::ioctl(fd_.get(), TUNSETVNETLE, &little_endian), "TUNSETVNETLE");
  set_offloads({});
}

void Tap::set_mtu(unsigned mtu) const {
  ifreq request = request_for(name_);
  if (::ioctl(control_.get(), SIOCGIFMTU, &request) == 0 &&
      request.ifr_mtu == static_cast<int>(mtu)) {
    return;
  }
  request.ifr_mtu = static_cast<int>(mtu);
  if (::ioctl(control_.get(), SIOCSIFMTU, &request) != 0) {
    fail(fmt::format("its MTU cannot be {}: {}", mtu, std::strerror(errno)));
  }
}

void Tap::join_bridge() {
  ifreq request = request_for(bridge_);
  request.ifr_ifindex = static_cast<int>(::if_nametoindex(name_.c_str()));
  if (::ioctl(control_.get(), SIOCBRADDIF, &request) == 0) {
    joined_ = true;
    return;
  }
  switch (errno) {
    case EBUSY:
      if (bridge_of(name_) == bridge_) return;
      fail(fmt::format("it is a port of another bridge already, not of {}", bridge_));
    case ENODEV:
      fail(fmt::format("there is no bridge {} (ip link add {} type bridge)", bridge_, bridge_));
    case EOPNOTSUPP:
    case EINVAL:
      fail(fmt::format("{} is no bridge", bridge_));
    case EPERM:
      fail(fmt::format("attaching it to {} needs CAP_NET_ADMIN", bridge_));
    default:
      fail(fmt::format("attaching it to {}: {}", bridge_, std::strerror(errno)));
  }
}

void Tap::leave_bridge() const {
  ifreq request = request_for(bridge_);
  request.ifr_ifindex = static_cast<int>(::if_nametoindex(name_.c_str()));
  ::ioctl(control_.get(), SIOCBRDELIF, &request);
}

void Tap::bring_up() const {
  ifreq request = request_for(name_);
  if (::ioctl(control_.get(), SIOCGIFFLAGS, &request) == 0 && (request.ifr_flags & IFF_UP) != 0) {
    return;
  }
  request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
  if (::ioctl(control_.get(), SIOCSIFFLAGS, &request) != 0) {
    fail(fmt::format("bringing it up: {}{}", std::strerror(errno),
                     errno == EPERM ? ": it needs CAP_NET_ADMIN, or root does it before" : ""));
  }
}

void Tap::set_offloads(const NetOffloads& offloads) {
  unsigned long flags = 0;
  if (offloads.checksum) {
    flags = TUN_F_CSUM;  // the others are nothing without it
    if (offloads.tso4) flags |= TUN_F_TSO4;
    if (offloads.tso6) flags |= TUN_F_TSO6;
    if (offloads.ecn && (offloads.tso4 || offloads.tso6)) flags |= TUN_F_TSO_ECN;
  }
  sys::check(::ioctl(fd_.get(), TUNSETOFFLOAD, flags), "TUNSETOFFLOAD");
}

void Tap::fail(const std::string& why) const {
  throw std::runtime_error(fmt::format("tap {}: {}", name_, why));
}

}  // namespace godwit::devices
