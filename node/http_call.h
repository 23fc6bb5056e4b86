// The client's side of HTTP: one request and its JSON answer over a connected stream, every step of
// it bounded by one deadline. ControlClient and NodeClient share it. An object belongs to one
// thread at a time.
#pragma once

#include <boost/system/error_code.hpp>
#include <chrono>
#include <cstddef>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <stdexcept>
#include <string>

#include "vmm/sys/unique_fd.h"

namespace godwit::node {

/// No such guest or node, no answer, or its refusal; what() is one line for the user.
class ClientError : public std::runtime_error {
 public:
  enum class Kind {
    kNobody,       // nothing can be reached there
    kTimeout,      // it does not answer in time
    kLost,         // the connection ended before the answer did
    kCertificate,  // it refuses our certificate, or we refuse its
    kNotOurs,      // what answers is no guest or node, or speaks no TLS as it should
    kRefused,      // it understood and said no, in its own words
  };
  explicit ClientError(const std::string& what, Kind kind = Kind::kNobody, unsigned status = 0)
      : std::runtime_error(what), kind_(kind), status_(status) {}

  Kind kind() const { return kind_; }
  /// HTTP status of the answer; 0 when there was none.
  unsigned status() const { return status_; }

 private:
  Kind kind_;
  unsigned status_;
};

class Deadline {
 public:
  using Clock = std::chrono::steady_clock;
  /// Negative: for ever.
  explicit Deadline(std::chrono::milliseconds timeout) : timeout_(timeout) {}

  /// Time left in milliseconds, for poll(): rounded up, 0 when it has passed, -1 for ever.
  int left_ms() const;
  /// The whole time, for messages: "1.5 s".
  std::string text() const;

 private:
  std::chrono::milliseconds timeout_;
  Clock::time_point start_ = Clock::now();
};

/// Waits for poll()'s `events` on `fd`; false when the deadline passes first.
bool wait_for(const sys::UniqueFd& fd, short events, const Deadline& deadline);

/// A connected stream. Reading and writing wait for at least one byte. At the end of the stream
/// read_some() returns 0; errors are of the generic category (a module's copy of asio's own would
/// be another one), ETIMEDOUT at the deadline.
class ByteStream {
 public:
  ByteStream() = default;
  virtual ~ByteStream() = default;
  ByteStream(const ByteStream&) = delete;
  ByteStream& operator=(const ByteStream&) = delete;

  virtual std::size_t read_some(std::span<std::byte> to, boost::system::error_code& error) = 0;
  virtual std::size_t write_some(std::span<const std::byte> from,
                                 boost::system::error_code& error) = 0;
  /// For what comes next.
  virtual void set_deadline(const Deadline& deadline) = 0;
  /// Nothing has arrived and the peer has not closed: another request may be sent.
  virtual bool quiet() const = 0;
};

class SocketStream : public ByteStream {
 public:
  SocketStream(sys::UniqueFd fd, const Deadline& deadline)
      : fd_(std::move(fd)), deadline_(deadline) {}
  std::size_t read_some(std::span<std::byte> to, boost::system::error_code& error) override;
  std::size_t write_some(std::span<const std::byte> from,
                         boost::system::error_code& error) override;
  void set_deadline(const Deadline& deadline) override { deadline_ = deadline; }
  bool quiet() const override;

 private:
  sys::UniqueFd fd_;
  Deadline deadline_;
};

/// Throws ClientError: what() says why, without the name of the guest or node; kTimeout while
/// nobody accepts what connects there, kNobody when nobody listens.
sys::UniqueFd connect_unix(const std::string& path, const Deadline& deadline);

struct HttpCall {
  std::string method;  // "GET", "PUT", ...
  std::string target;  // "/v1/status"
  std::string body = {};
  bool keep_alive = false;
};

struct HttpAnswer {
  unsigned status = 0;
  std::string body;
  bool keep_alive = false;  // the stream can take another call
};

constexpr std::size_t kLargestAnswer = 4u << 20;

/// `who` begins the messages of errors: "guest web1". Throws ClientError.
HttpAnswer http_call(ByteStream& stream, const Deadline& deadline, const HttpCall& call,
                     const std::string& who);

/// The JSON of a 2xx answer. Others, and what is no JSON, throw ClientError.
nlohmann::json json_of(const HttpAnswer& answer, const std::string& who);

}  // namespace godwit::node
