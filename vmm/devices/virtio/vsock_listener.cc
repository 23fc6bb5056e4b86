#include "vmm/devices/virtio/vsock_listener.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace godwit::devices {
namespace {

constexpr int kBacklog = 16;
constexpr std::size_t kPortDigits = 11;  // "_4294967295"

sockaddr_un address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  return address;
}

const sockaddr* generic(const sockaddr_un& address) {
  return reinterpret_cast<const sockaddr*>(&address);
}

sys::UniqueFd stream_socket() {
  return sys::UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

}  // namespace

VsockListener::VsockListener(std::string path) : path_(std::move(path)), fd_(stream_socket()) {
  const auto fail = [this](const std::string& why) {
    throw std::runtime_error(fmt::format("vsock socket {}: {}", path_, why));
  };
  const sockaddr_un address = address_of(path_);
  if (path_.empty() || path_.size() + kPortDigits >= sizeof address.sun_path) {
    fail(fmt::format("its path must have 1 to {} characters",
                     sizeof address.sun_path - kPortDigits - 1));
  }
  if (!fd_) fail(std::strerror(errno));
  struct stat info {};
  if (::lstat(path_.c_str(), &info) == 0) {
    if (!S_ISSOCK(info.st_mode)) fail("there is something else than a socket");
    const sys::UniqueFd probe = stream_socket();
    if (::connect(probe.get(), generic(address), sizeof address) == 0 || errno == EAGAIN) {
      fail("another process listens there: give this guest a path of its own");
    }
    ::unlink(path_.c_str());
  }
  if (::fchmod(fd_.get(), 0600) != 0 ||  // before bind(2): nobody gets in between
      ::bind(fd_.get(), generic(address), sizeof address) != 0) {
    fail(std::strerror(errno));
  }
  if (::listen(fd_.get(), kBacklog) != 0) {
    const int error = errno;
    ::unlink(path_.c_str());
    fail(std::strerror(error));
  }
}

VsockListener::~VsockListener() { ::unlink(path_.c_str()); }

sys::UniqueFd VsockListener::accept() const {
  return sys::UniqueFd(::accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
}

sys::UniqueFd VsockListener::connect(std::uint32_t port) const {
  const sockaddr_un address = address_of(fmt::format("{}_{}", path_, port));
  sys::UniqueFd socket = stream_socket();
  if (socket && ::connect(socket.get(), generic(address), sizeof address) == 0) return socket;
  return {};
}

}  // namespace godwit::devices
