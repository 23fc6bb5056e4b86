#include "node/control_server.h"

#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/basic_stream.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>
#include <chrono>
#include <list>
#include <memory>
#include <optional>
#include <thread>

namespace godwit::node {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using Protocol = asio::local::stream_protocol;
using Stream = beast::basic_stream<Protocol, asio::io_context::executor_type>;
using boost::system::error_code;

namespace {

/// One connection: reads a request, has it handled, writes the answer, and so on. Lives as long as
/// an operation on it is pending.
class Session : public std::enable_shared_from_this<Session> {
 public:
  Session(Stream stream, std::weak_ptr<asio::io_context> io, const ApiHandler& handler,
          const ServerLimits& limits)
      : stream_(std::move(stream)),
        io_(std::move(io)),
        handler_(handler),
        limits_(limits),
        buffer_(limits.header_bytes + limits.body_bytes) {}

  void read() {
    reading_ = true;
    parser_.emplace();
    parser_->header_limit(limits_.header_bytes);
    parser_->body_limit(limits_.body_bytes);
    stream_.expires_after(std::chrono::milliseconds(limits_.request_timeout_ms));
    http::async_read(
        stream_, buffer_, *parser_,
        [self = shared_from_this()](error_code error, std::size_t) { self->on_read(error); });
  }

  /// True while no request of this connection is being worked on.
  bool idle() const { return reading_; }
  void close() {
    error_code ignored;
    stream_.socket().close(ignored);
  }
  /// Lets the answer that is due leave, then closes.
  void finish() {
    last_ = true;
    if (reading_) close();
  }

 private:
  void on_read(error_code error) {
    reading_ = false;
    if (error == http::error::header_limit) return refuse(431, "the header is too long");
    if (error == http::error::body_limit) return refuse(413, "the body is too long");
    if (error == http::error::buffer_overflow) return refuse(413, "the request is too long");
    if (error == http::error::end_of_stream || error == http::error::partial_message) {
      return close();
    }
    if (error.category() == http::make_error_code(http::error::bad_method).category()) {
      return refuse(400, "not an HTTP request: " + error.message());
    }
    if (error) return close();  // timed out, or the client is gone

    const auto& message = parser_->get();
    keep_alive_ = message.keep_alive() && !last_;
    handler_({std::string(message.method_string()), std::string(message.target()), message.body()},
             Answer{io_.lock(), shared_from_this()});
  }

  /// The handler may answer later, from another thread, or never; even after the server has gone.
  /// So this outlives it, and lets go of the session before the context that its stream needs.
  struct Answer {
    std::shared_ptr<asio::io_context> io;
    std::shared_ptr<Session> session;

    void operator()(ApiResponse response) const {
      asio::post(*io, [self = session, response = std::move(response)]() mutable {
        self->write(std::move(response));
      });
    }
  };

  void refuse(unsigned status, const std::string& why) {
    keep_alive_ = false;
    write(api_error(status, why));
  }

  void write(ApiResponse response) {
    response_ = {http::int_to_status(response.status), 11};
    response_.set(http::field::content_type, "application/json");
    response_.body() = std::move(response.body);
    response_.body() += '\n';
    response_.keep_alive(keep_alive_ && !last_);
    response_.prepare_payload();
    stream_.expires_after(std::chrono::milliseconds(limits_.request_timeout_ms));
    http::async_write(stream_, response_,
                      [self = shared_from_this()](error_code error, std::size_t) {
                        if (error || !self->keep_alive_ || self->last_) return self->close();
                        self->read();
                      });
  }

  Stream stream_;
  std::weak_ptr<asio::io_context> io_;
  const ApiHandler& handler_;
  const ServerLimits& limits_;
  beast::flat_buffer buffer_;
  std::optional<http::request_parser<http::string_body>> parser_;
  http::response<http::string_body> response_;
  bool reading_ = false;
  bool keep_alive_ = false;
  bool last_ = false;
};

}  // namespace

class ControlServer::Impl {
 public:
  Impl(sys::UniqueFd listener, ApiHandler handler, ServerLimits limits)
      : handler_(std::move(handler)),
        limits_(limits),
        acceptor_(*io_, Protocol(), listener.release()),
        timer_(*io_) {
    accept();
    thread_ = std::thread([this] { io_->run(); });
  }

  ~Impl() {
    asio::post(*io_, [this] {
      error_code ignored;
      acceptor_.close(ignored);
      for (const auto& weak : sessions_) {
        if (const auto session = weak.lock()) session->finish();
      }
      timer_.expires_after(std::chrono::seconds(1));
      timer_.async_wait([this](error_code error) {
        if (!error) io_->stop();
      });
      watch_sessions();
    });
    thread_.join();
  }

 private:
  void accept() {
    acceptor_.async_accept(*io_, [this](error_code error, Stream::socket_type socket) {
      if (!acceptor_.is_open()) return;
      if (error) return retry_later();
      make_room();
      auto session = std::make_shared<Session>(Stream(std::move(socket)), io_, handler_, limits_);
      sessions_.push_back(session);
      session->read();
      accept();
    });
  }

  /// Out of descriptors, most likely: waiting beats spinning.
  void retry_later() {
    timer_.expires_after(std::chrono::milliseconds(100));
    timer_.async_wait([this](error_code error) {
      if (!error && acceptor_.is_open()) accept();
    });
  }

  void make_room() {
    sessions_.remove_if([](const auto& weak) { return weak.expired(); });
    if (sessions_.size() < limits_.connections) return;
    for (const auto& weak : sessions_) {
      const auto session = weak.lock();
      if (!session || !session->idle()) continue;
      return session->close();
    }
  }

  /// After the last session has gone nothing is left to wait for.
  void watch_sessions() {
    sessions_.remove_if([](const auto& weak) { return weak.expired(); });
    if (sessions_.empty()) return io_->stop();
    poll_timer_.expires_after(std::chrono::milliseconds(5));
    poll_timer_.async_wait([this](error_code) { watch_sessions(); });
  }

  ApiHandler handler_;
  ServerLimits limits_;
  std::shared_ptr<asio::io_context> io_ = std::make_shared<asio::io_context>(1);
  asio::basic_socket_acceptor<Protocol, asio::io_context::executor_type> acceptor_;
  asio::steady_timer timer_;
  asio::steady_timer poll_timer_{*io_};
  std::list<std::weak_ptr<Session>> sessions_;
  std::thread thread_;
};

ControlServer::ControlServer(sys::UniqueFd listener, ApiHandler handler, ServerLimits limits)
    : impl_(std::make_unique<Impl>(std::move(listener), std::move(handler), limits)) {}

ControlServer::~ControlServer() = default;

}  // namespace godwit::node
