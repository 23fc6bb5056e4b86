#include "node/control_socket.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <stdexcept>

namespace godwit::node {

namespace {

[[noreturn]] void fail(const std::string& what, int error_number) {
  throw std::runtime_error(fmt::format("{}: {}", what, std::strerror(error_number)));
}

sockaddr_un address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    throw std::runtime_error(fmt::format("the socket path {} is too long: at most {} characters",
                                         path, sizeof address.sun_path - 1));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

sys::UniqueFd unix_socket() {
  sys::UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) fail("socket", errno);
  return fd;
}

int bind_to(const sys::UniqueFd& fd, const sockaddr_un& address) {
  return ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 ? 0
                                                                                            : errno;
}

/// The runtime directory is ours to create; the directory of an --api PATH is the user's.
void make_runtime_directory(const std::string& path) {
  const std::string directory = std::filesystem::path(path).parent_path().string();
  if (::geteuid() != 0 && std::getenv("XDG_RUNTIME_DIR") == nullptr) return;
  if (directory != runtime_directory()) return;
  if (::mkdir(directory.c_str(), 0700) < 0 && errno != EEXIST) fail(directory, errno);
}

ino_t inode_of(const std::string& path) {
  struct stat info {};
  return ::lstat(path.c_str(), &info) == 0 ? info.st_ino : 0;
}

/// Held while a path is claimed, so that two processes cannot both find it stale.
sys::UniqueFd lock_directory_of(const std::string& path) {
  const auto parent = std::filesystem::path(path).parent_path();
  const std::string directory = parent.empty() ? "." : parent.string();
  sys::UniqueFd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) fail("--api: " + directory, errno);  // no other is missing by now
  if (::flock(fd.get(), LOCK_EX) < 0) fail(directory, errno);
  return fd;
}

}  // namespace

void require_socket_directory(const std::string& path) {
  make_runtime_directory(path);
  lock_directory_of(path);
}

std::string runtime_directory() {
  if (::geteuid() == 0) return "/run/godwit";
  const char* base = std::getenv("XDG_RUNTIME_DIR");
  if (base == nullptr || *base != '/') {
    throw std::runtime_error("XDG_RUNTIME_DIR is not set: name the control socket with --api PATH");
  }
  return std::string(base) + "/godwit";
}

std::string socket_of(const std::string& name) {
  if (name.find('/') != std::string::npos) return name;
  if (const std::string why = name_complaint(name); !why.empty()) throw std::runtime_error(why);
  return fmt::format("{}/{}.sock", runtime_directory(), name);
}

std::string name_complaint(const std::string& name) {
  const auto allowed = [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
  };
  if (!name.empty() && name.size() <= 64 && name.front() != '.' && name.front() != '-' &&
      std::all_of(name.begin(), name.end(), allowed)) {
    return {};
  }
  return "a guest's name is 1 to 64 of A-Z a-z 0-9 . _ - and starts with none of . and -";
}

bool socket_is_live(const std::string& path) {
  const sockaddr_un address = address_of(path);
  const sys::UniqueFd fd = unix_socket();
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
    return true;
  }
  return errno != ECONNREFUSED && errno != ENOENT;  // EAGAIN: alive, its backlog is full
}

std::vector<std::string> live_sockets() {
  std::vector<std::string> paths;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(runtime_directory(), error)) {
    if (entry.path().extension() != ".sock") continue;
    std::error_code ignored;
    if (!entry.is_socket(ignored)) continue;
    if (socket_is_live(entry.path().string())) paths.push_back(entry.path().string());
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

ControlSocket::ControlSocket(const std::string& path, const std::string& who)
    : path_(std::filesystem::absolute(path).string()), listener_(unix_socket()) {
  const sockaddr_un address = address_of(path_);
  make_runtime_directory(path_);
  const sys::UniqueFd lock = lock_directory_of(path_);

  // On Linux the node takes its mode from the socket's inode; the umask of other threads is no
  // race.
  if (::fchmod(listener_.get(), 0600) < 0) fail("fchmod", errno);
  int error = bind_to(listener_, address);
  if (error == EADDRINUSE) {
    struct stat info {};
    if (::lstat(path_.c_str(), &info) == 0 && !S_ISSOCK(info.st_mode)) {
      throw std::runtime_error(fmt::format("{} exists and is not a socket", path_));
    }
    if (socket_is_live(path_)) {
      throw std::runtime_error(fmt::format("{} is already running ({})", who, path_));
    }
    ::unlink(path_.c_str());
    error = bind_to(listener_, address);
  }
  if (error != 0) fail("control socket " + path_, error);
  inode_ = inode_of(path_);
  if (::listen(listener_.get(), 64) < 0) {
    const int listen_error = errno;
    ::unlink(path_.c_str());
    fail("control socket " + path_, listen_error);
  }
}

void ControlSocket::rename(const std::string& path) {
  const std::string absolute = std::filesystem::absolute(path).string();
  if (::rename(path_.c_str(), absolute.c_str()) < 0) fail("control socket " + absolute, errno);
  path_ = absolute;
}

ControlSocket::~ControlSocket() {
  if (inode_of(path_) == inode_) ::unlink(path_.c_str());
}

}  // namespace godwit::node
