#include "node/daemon/node_client.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <nlohmann/json.hpp>
#include <thread>
#include <utility>
#include <vector>

#include "node/daemon/tls_module.h"
#include "node/host_port.h"

namespace godwit::node {

using Kind = ClientError::Kind;

namespace {

struct Address {
  sockaddr_storage storage{};
  socklen_t size = 0;
};

/// getaddrinfo(); on failure no addresses and `why`.
std::vector<Address> look_up(const HostPort& where, int flags, std::string& why) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV | flags;
  addrinfo* found = nullptr;
  const int error =
      ::getaddrinfo(where.host.c_str(), std::to_string(where.port).c_str(), &hints, &found);
  if (error != 0) {
    why = ::gai_strerror(error);
    return {};
  }
  std::vector<Address> addresses;
  for (const addrinfo* next = found; next != nullptr; next = next->ai_next) {
    Address address;
    std::memcpy(&address.storage, next->ai_addr, next->ai_addrlen);
    address.size = next->ai_addrlen;
    addresses.push_back(address);
  }
  ::freeaddrinfo(found);
  return addresses;
}

/// 0, or errno; ETIMEDOUT at the deadline.
int connect_within(const sys::UniqueFd& fd, const Address& address, const Deadline& deadline) {
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address.storage), address.size) == 0) {
    return 0;
  }
  if (errno != EINPROGRESS && errno != EINTR) return errno;
  if (!wait_for(fd, POLLOUT, deadline)) return ETIMEDOUT;
  int error = 0;
  socklen_t size = sizeof error;
  if (::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &size) < 0) return errno;
  return error;
}

}  // namespace

/// Resolving a name has no time limit of its own: it is done on a thread that nobody waits for
/// longer than the deadline; at most one per client.
class NodeClient::Resolver : public std::enable_shared_from_this<Resolver> {
 public:
  explicit Resolver(HostPort where) : where_(std::move(where)) {}

  /// Throws ClientError.
  std::vector<Address> resolve(const Deadline& deadline, const std::string& who) {
    std::string why;
    auto numeric = look_up(where_, AI_NUMERICHOST, why);
    if (!numeric.empty()) return numeric;

    std::unique_lock lock(mutex_);
    if (!busy_) {
      std::thread([self = shared_from_this()] { self->work(); }).detach();
      busy_ = true;
      addresses_.clear();
    }
    if (!done_.wait_for(lock, std::chrono::milliseconds(deadline.left_ms()),
                        [this] { return !busy_; })) {
      throw ClientError(fmt::format("{}: the name is not resolved within {}", who, deadline.text()),
                        Kind::kTimeout);
    }
    if (addresses_.empty()) throw ClientError(fmt::format("{}: {}", who, why_));
    return addresses_;
  }

 private:
  void work() {
    std::string why;
    auto addresses = look_up(where_, 0, why);
    const std::lock_guard lock(mutex_);
    addresses_ = std::move(addresses);
    why_ = std::move(why);
    busy_ = false;
    done_.notify_all();
  }

  const HostPort where_;
  std::mutex mutex_;
  std::condition_variable done_;
  bool busy_ = false;
  std::vector<Address> addresses_;
  std::string why_;
};

NodeClient::NodeClient(const std::string& address, std::shared_ptr<const TlsContext> tls,
                       const std::string& name)
    : address_(address), tls_(std::move(tls)), name_(name), who_("node " + address) {
  if (address.find('/') != std::string::npos) return;
  const std::string complaint = destination_complaint(address);
  if (!complaint.empty()) throw std::invalid_argument(complaint);
  resolver_ = std::make_shared<Resolver>(parse_host_port(address));
}

NodeClient::~NodeClient() = default;

std::unique_ptr<ByteStream> NodeClient::connect(const Deadline& deadline) const {
  if (!resolver_) {
    try {
      return std::make_unique<SocketStream>(connect_unix(address_, deadline), deadline);
    } catch (const ClientError& error) {
      const bool hangs = error.kind() == Kind::kTimeout;
      throw ClientError(fmt::format("{}node: {}", hangs ? "" : "no ", error.what()), error.kind());
    }
  }
  int error = 0;
  const auto addresses = resolver_->resolve(deadline, who_);
  for (std::size_t i = 0; i < addresses.size(); ++i) {
    const Address& address = addresses[i];
    sys::UniqueFd fd(
        ::socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd) throw ClientError(fmt::format("socket: {}", std::strerror(errno)));
    const int on = 1;
    ::setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    // An address that swallows packets leaves time for the next.
    const auto share = deadline.left_ms() / static_cast<int>(addresses.size() - i);
    error = connect_within(fd, address, Deadline(std::chrono::milliseconds(share)));
    if (error != 0) continue;
    if (!tls_) return std::make_unique<SocketStream>(std::move(fd), deadline);
    return tls_->module().connect(std::move(fd), name_, deadline, who_);
  }
  if (error == ECONNREFUSED) throw ClientError(fmt::format("{}: nothing listens there", who_));
  if (error == ETIMEDOUT) {
    throw ClientError(fmt::format("{} cannot be reached within {}", who_, deadline.text()),
                      Kind::kTimeout);
  }
  throw ClientError(fmt::format("{} cannot be reached: {}", who_, std::strerror(error)));
}

std::unique_ptr<ByteStream> NodeClient::take_cached() const {
  const std::lock_guard lock(mutex_);
  auto cached = std::move(cached_);
  return cached && cached->quiet() ? std::move(cached) : nullptr;
}

nlohmann::json NodeClient::request(const std::string& method, const std::string& target,
                                   const nlohmann::json& body,
                                   std::chrono::milliseconds timeout) const {
  const Deadline deadline(timeout);
  // Only what may be asked twice goes over an old connection: the node may close it just now.
  const bool repeatable = method == "GET";
  const std::string text =
      body.is_null() ? "" : body.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  const HttpCall call{method, target, text, repeatable};
  std::unique_ptr<ByteStream> stream = repeatable ? take_cached() : nullptr;
  HttpAnswer answer;
  bool answered = false;
  if (stream) {
    try {
      answer = http_call(*stream, deadline, call, who_);
      answered = true;
    } catch (const ClientError& error) {
      if (error.kind() != Kind::kLost) throw;
    }
  }
  if (!answered) {
    stream = connect(deadline);
    answer = http_call(*stream, deadline, call, who_);
  }
  if (answer.keep_alive) {
    const std::lock_guard lock(mutex_);
    cached_ = std::move(stream);
  }
  return json_of(answer, who_);
}

}  // namespace godwit::node
