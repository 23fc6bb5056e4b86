#include "node/http_call.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/buffers_range.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <sstream>

namespace godwit::node {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
namespace errc = boost::system::errc;
using boost::system::error_code;
using Kind = ClientError::Kind;

namespace {

/// A ByteStream as Beast's synchronous stream.
class BeastStream {
 public:
  explicit BeastStream(ByteStream& stream) : stream_(stream) {}

  template <typename Buffers>
  std::size_t read_some(const Buffers& buffers, error_code& error) {
    for (const auto buffer : beast::buffers_range_ref(buffers)) {
      const asio::mutable_buffer to = buffer;
      if (to.size() == 0) continue;
      const auto bytes = stream_.read_some({static_cast<std::byte*>(to.data()), to.size()}, error);
      if (bytes == 0 && !error) error = asio::error::eof;
      return bytes;
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
      const asio::const_buffer from = buffer;
      if (from.size() == 0) continue;
      return stream_.write_some({static_cast<const std::byte*>(from.data()), from.size()}, error);
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

  ByteStream& stream_;
};

template <typename Call>
std::size_t transfer(const sys::UniqueFd& fd, short events, const Deadline& deadline,
                     error_code& error, Call call) {
  error = {};
  for (;;) {
    const ssize_t bytes = call();
    if (bytes >= 0) return static_cast<std::size_t>(bytes);
    if (errno == EINTR) continue;
    if (errno != EAGAIN) {
      error = {errno, boost::system::generic_category()};
      return 0;
    }
    if (!wait_for(fd, events, deadline)) {
      error = make_error_code(errc::timed_out);
      return 0;
    }
  }
}

[[noreturn]] void fail(const error_code& error, const Deadline& deadline, const std::string& who) {
  if (error == errc::timed_out) {
    throw ClientError(fmt::format("{} does not answer within {}", who, deadline.text()),
                      Kind::kTimeout);
  }
  if (error == http::error::body_limit || error == http::error::header_limit ||
      error == http::error::buffer_overflow) {
    throw ClientError(fmt::format("{} answers with more than {} MiB", who, kLargestAnswer >> 20),
                      Kind::kNotOurs);
  }
  if (error == http::error::end_of_stream || error == http::error::partial_message) {
    throw ClientError(fmt::format("lost contact with {}: it closed the connection", who),
                      Kind::kLost);
  }
  if (error.category() == http::make_error_code(http::error::bad_version).category()) {
    throw ClientError(fmt::format("{} does not speak HTTP: {}", who, error.message()),
                      Kind::kNotOurs);
  }
  throw ClientError(fmt::format("lost contact with {}: {}", who, error.message()), Kind::kLost);
}

}  // namespace

int Deadline::left_ms() const {
  if (timeout_.count() < 0) return -1;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(start_ + timeout_ - Clock::now());
  return static_cast<int>(std::clamp<std::int64_t>(left.count(), 0, INT32_MAX));
}

std::string Deadline::text() const {
  return fmt::format("{} s", static_cast<double>(timeout_.count()) / 1000);
}

bool wait_for(const sys::UniqueFd& fd, short events, const Deadline& deadline) {
  for (;;) {
    const int left = deadline.left_ms();
    if (left == 0) return false;
    pollfd poller{fd.get(), events, 0};
    const int ready = ::poll(&poller, 1, left);
    if (ready > 0) return true;
    if (ready < 0 && errno != EINTR) return false;
  }
}

std::size_t SocketStream::read_some(std::span<std::byte> to, error_code& error) {
  return transfer(fd_, POLLIN, deadline_, error,
                  [&] { return ::recv(fd_.get(), to.data(), to.size(), MSG_DONTWAIT); });
}

std::size_t SocketStream::write_some(std::span<const std::byte> from, error_code& error) {
  return transfer(fd_, POLLOUT, deadline_, error, [&] {
    return ::send(fd_.get(), from.data(), from.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  });
}

bool SocketStream::quiet() const {
  char byte = 0;
  return ::recv(fd_.get(), &byte, 1, MSG_DONTWAIT | MSG_PEEK) < 0 && errno == EAGAIN;
}

sys::UniqueFd connect_unix(const std::string& path, const Deadline& deadline) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    throw ClientError(fmt::format("the socket path {} is too long", path));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  sys::UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) throw ClientError(fmt::format("socket: {}", std::strerror(errno)));
  // A listener whose backlog is full makes connect() wait, for so long (socket(7), af_unix.c).
  const int left_ms = deadline.left_ms();
  const timeval limit{left_ms / 1000, left_ms % 1000 * 1000};
  if (left_ms > 0) ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  if (left_ms == 0) ::fcntl(fd.get(), F_SETFL, O_NONBLOCK);
  int failed = 0;
  do {
    failed = ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  } while (failed != 0 && errno == EINTR);
  if (failed == 0) return fd;
  switch (errno) {
    case EAGAIN:
      throw ClientError(fmt::format("{} takes no connection within {}", path, deadline.text()),
                        Kind::kTimeout);
    case ENOENT:
    case ENOTDIR:
      throw ClientError(fmt::format("there is no {}", path));
    case ECONNREFUSED:
    case ENOTSOCK:
      throw ClientError(fmt::format("nothing listens on {}", path));
    case EACCES:
      throw ClientError(fmt::format("{} belongs to another user", path));
    default:
      throw ClientError(fmt::format("{}: {}", path, std::strerror(errno)));
  }
}

HttpAnswer http_call(ByteStream& stream, const Deadline& deadline, const HttpCall& call,
                     const std::string& who) {
  http::request<http::string_body> message(http::string_to_verb(call.method), call.target, 11);
  message.set(http::field::host, "godwit");
  message.keep_alive(call.keep_alive);
  if (!call.body.empty()) {
    message.set(http::field::content_type, "application/json");
    message.body() = call.body;
  }
  message.prepare_payload();

  stream.set_deadline(deadline);
  BeastStream beast_stream(stream);
  error_code error;
  error_code write_error;
  beast::flat_buffer buffer(kLargestAnswer);
  http::response_parser<http::string_body> parser;
  parser.body_limit(kLargestAnswer);
  // In one piece: over TLS each piece is a record of its own, and a packet.
  std::ostringstream text;
  text << message;
  const std::string bytes = text.str();
  asio::write(beast_stream, asio::buffer(bytes), write_error);
  // Who refuses us may say why and close before it has read all.
  if (write_error == errc::timed_out) fail(write_error, deadline, who);
  // The header by itself: Beast 1.74 forgets that the body is too long when some of it is there.
  http::read_header(beast_stream, buffer, parser, error);
  if (!error) http::read(beast_stream, buffer, parser, error);
  if (error) fail(write_error ? write_error : error, deadline, who);
  HttpAnswer answer;
  answer.status = parser.get().result_int();
  answer.keep_alive = call.keep_alive && parser.keep_alive() && buffer.size() == 0;
  answer.body = std::move(parser.get().body());
  return answer;
}

nlohmann::json json_of(const HttpAnswer& answer, const std::string& who) {
  auto json = nlohmann::json::parse(answer.body, nullptr, false);
  if (json.is_discarded()) {
    throw ClientError(fmt::format("{} does not speak the control API", who), Kind::kNotOurs,
                      answer.status);
  }
  if (answer.status >= 200 && answer.status < 300) return json;
  throw ClientError(json.is_object() && json.contains("error") && json["error"].is_string()
                        ? json["error"].get<std::string>()
                        : fmt::format("{} answers {}", who, answer.status),
                    Kind::kRefused, answer.status);
}

}  // namespace godwit::node
