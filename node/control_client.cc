#include "node/control_client.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <boost/asio/buffer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <nlohmann/json.hpp>

#include "node/control_socket.h"
#include "vmm/sys/unique_fd.h"

namespace godwit::node {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;

namespace {

/// A socket as Beast's synchronous stream, every call bounded by one deadline.
class TimedStream {
 public:
  TimedStream(sys::UniqueFd fd, int timeout_ms) : fd_(std::move(fd)), timeout_ms_(timeout_ms) {}

  template <typename Buffers>
  std::size_t read_some(const Buffers& buffers, error_code& error) {
    for (const auto buffer : beast::buffers_range_ref(buffers)) {
      const asio::mutable_buffer target = buffer;
      if (target.size() == 0) continue;
      return transfer(POLLIN, error, [&] {
        return ::recv(fd_.get(), target.data(), target.size(), MSG_DONTWAIT);
      });
    }
    return 0;
  }
  template <typename Buffers>
  std::size_t read_some(const Buffers& buffers) {
    return throwing([&](error_code& error) { return read_some(buffers, error); });
  }
  template <typename Buffers>
  std::size_t write_some(const Buffers& buffers, error_code& error) {
    for (const auto buffer : beast::buffers_range_ref(buffers)) {
      const asio::const_buffer source = buffer;
      if (source.size() == 0) continue;
      return transfer(POLLOUT, error, [&] {
        return ::send(fd_.get(), source.data(), source.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
      });
    }
    return 0;
  }
  template <typename Buffers>
  std::size_t write_some(const Buffers& buffers) {
    return throwing([&](error_code& error) { return write_some(buffers, error); });
  }

 private:
  template <typename Call>
  static std::size_t throwing(Call call) {
    error_code error;
    const std::size_t bytes = call(error);
    if (error) throw boost::system::system_error(error);
    return bytes;
  }

  template <typename Call>
  std::size_t transfer(short events, error_code& error, Call call) {
    error = {};
    for (;;) {
      const ssize_t bytes = call();
      if (bytes > 0) return static_cast<std::size_t>(bytes);
      if (bytes == 0) {
        error = asio::error::eof;
        return 0;
      }
      if (errno == EINTR) continue;
      if (errno != EAGAIN) {
        error = {errno, boost::system::generic_category()};
        return 0;
      }
      if (!wait(events)) {
        error = asio::error::timed_out;
        return 0;
      }
    }
  }

  bool wait(short events) const {
    for (;;) {
      int left = -1;
      if (timeout_ms_ >= 0) {
        const auto passed =
            std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - start_).count();
        if (passed >= timeout_ms_) return false;
        left = timeout_ms_ - static_cast<int>(passed);
      }
      pollfd poller{fd_.get(), events, 0};
      const int ready = ::poll(&poller, 1, left);
      if (ready > 0) return true;
      if (ready < 0 && errno != EINTR) return false;
    }
  }

  sys::UniqueFd fd_;
  int timeout_ms_;
  Clock::time_point start_ = Clock::now();
};

sys::UniqueFd connect_to(const std::string& name, const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    throw ClientError(fmt::format("the socket path {} is too long", path));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  sys::UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) throw ClientError(fmt::format("socket: {}", std::strerror(errno)));
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
    return fd;
  }
  switch (errno) {
    case ENOENT:
    case ENOTDIR:
      throw ClientError(fmt::format("no guest {}: there is no {}", name, path));
    case ECONNREFUSED:
    case ENOTSOCK:
      throw ClientError(fmt::format("no guest {}: nothing listens on {}", name, path));
    case EACCES:
      throw ClientError(fmt::format("{} belongs to another user", path));
    default:
      throw ClientError(fmt::format("{}: {}", path, std::strerror(errno)));
  }
}

}  // namespace

ControlClient::ControlClient(const std::string& name) : name_(name), path_(socket_of(name)) {}

nlohmann::json ControlClient::get(const char* target) const {
  return request("GET", target, "", kDefaultTimeoutMs);
}
nlohmann::json ControlClient::put(const char* target, const nlohmann::json& body) const {
  return request("PUT", target, body.dump(), kDefaultTimeoutMs);
}
nlohmann::json ControlClient::remove(const char* target) const {
  return request("DELETE", target, "", kDefaultTimeoutMs);
}
nlohmann::json ControlClient::post(const char* target, const nlohmann::json& body) const {
  return request("POST", target, body.dump(), kForEver);
}

nlohmann::json ControlClient::request(const char* method, const char* target,
                                      const std::string& body, int timeout_ms) const {
  TimedStream stream(connect_to(name_, path_), timeout_ms);
  http::request<http::string_body> message(http::string_to_verb(method), target, 11);
  message.set(http::field::host, "godwit");
  message.keep_alive(false);
  if (!body.empty()) {
    message.set(http::field::content_type, "application/json");
    message.body() = body;
  }
  message.prepare_payload();

  error_code error;
  beast::flat_buffer buffer(8u << 20);
  http::response_parser<http::string_body> parser;
  parser.body_limit(4u << 20);
  http::write(stream, message, error);
  if (!error) http::read(stream, buffer, parser, error);
  if (error == asio::error::timed_out) {
    throw ClientError(
        fmt::format("guest {} does not answer within {} s", name_, timeout_ms / 1000));
  }
  if (error) {
    throw ClientError(fmt::format("lost contact with guest {}: {}", name_, error.message()));
  }
  const auto& response = parser.get();
  auto json = nlohmann::json::parse(response.body(), nullptr, false);
  if (json.is_discarded()) {
    throw ClientError(fmt::format("{} does not speak the control API", path_));
  }
  if (response.result_int() == 200) return json;
  throw ClientError(json.is_object() && json.contains("error") && json["error"].is_string()
                        ? json["error"].get<std::string>()
                        : fmt::format("{} answers {}", path_, response.result_int()));
}

}  // namespace godwit::node
