// The HTTP server behind ControlServer, over any stream: a template so that the code for TLS can be
// made in a module of its own. Everything runs on the server's thread.
#pragma once

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/basic_stream.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/stream_traits.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>
#include <chrono>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>

#include "node/control_api.h"
#include "node/control_server.h"
#include "vmm/sys/unique_fd.h"

namespace godwit::node {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using Protocol = asio::generic::stream_protocol;  // UNIX or TCP, as the listener is
using AcceptedStream = beast::basic_stream<Protocol, asio::io_context::executor_type>;
using AcceptedSocket = AcceptedStream::socket_type;
using boost::system::error_code;

// A Transport makes a Stream of a connection: wrap(AcceptedSocket). With kShakesHands it also has
// shake_hands(Stream&, handler), peer(Stream&) with the name of the client, and
// is_plain_http(error) for a handshake that failed because the client speaks HTTP.

/// One connection: reads a request, has it handled, writes the answer, and so on. Lives as long as
/// an operation on it is pending.
template <typename Transport>
class HttpSession : public std::enable_shared_from_this<HttpSession<Transport>> {
 public:
  HttpSession(typename Transport::Stream stream, std::weak_ptr<asio::io_context> io,
              const ApiHandler& handler, const ServerLimits& limits)
      : stream_(std::move(stream)),
        io_(std::move(io)),
        handler_(handler),
        limits_(limits),
        buffer_(limits.header_bytes + limits.body_bytes) {}

  void start() {
    if constexpr (Transport::kShakesHands) {
      shaking_hands_ = true;
      expire_after(limits_.request_timeout_ms);
      Transport::shake_hands(stream_, [self = this->shared_from_this()](error_code error) {
        self->on_handshake(error);
      });
    } else {
      read();
    }
  }

  /// True while nobody knows yet who this is.
  bool shaking_hands() const { return shaking_hands_; }
  /// True while no request of this connection is being worked on.
  bool idle() const { return reading_ || shaking_hands_; }
  bool is_open() const { return beast::get_lowest_layer(stream_).socket().is_open(); }
  void close() {
    error_code ignored;
    socket().close(ignored);
  }
  /// Lets the answer that is due leave, then closes.
  void finish() {
    last_ = true;
    if (idle()) close();
  }

 private:
  AcceptedSocket& socket() { return beast::get_lowest_layer(stream_).socket(); }
  void expire_after(unsigned ms) {
    beast::get_lowest_layer(stream_).expires_after(std::chrono::milliseconds(ms));
  }

  void on_handshake(error_code error) {
    if constexpr (Transport::kShakesHands) {
      if (Transport::is_plain_http(error)) return redirect();
      if (error) return linger();
      shaking_hands_ = false;
      peer_ = Transport::peer(stream_);
      read();
    }
  }

  /// In words that an HTTP client shows.
  void redirect() {
    static constexpr std::string_view kAnswer =
        "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
        "{\"error\": \"this port wants TLS and a client certificate\"}\n";
    asio::async_write(
        beast::get_lowest_layer(stream_), asio::buffer(kAnswer),
        [self = this->shared_from_this()](error_code, std::size_t) { self->linger(); });
  }

  /// Closing with bytes unread would take the alert away that tells the client why: in TLS 1.3 its
  /// first request is on its way already. So they are read, for a moment and up to a limit.
  void linger() {
    error_code ignored;
    socket().shutdown(AcceptedSocket::shutdown_send, ignored);
    expire_after(std::min(limits_.request_timeout_ms, 1000u));
    unread_ = limits_.header_bytes + limits_.body_bytes;
    swallow();
  }
  void swallow() {
    beast::get_lowest_layer(stream_).async_read_some(
        asio::buffer(waste_),
        [self = this->shared_from_this()](error_code error, std::size_t bytes) {
          if (error || bytes >= self->unread_) return self->close();
          self->unread_ -= bytes;
          self->swallow();
        });
  }

  void read() {
    reading_ = true;
    parser_.emplace();
    parser_->header_limit(limits_.header_bytes);
    parser_->body_limit(limits_.body_bytes);
    expire_after(limits_.request_timeout_ms);
    // The header by itself: Beast 1.74 forgets that the body is too long when some of it is there.
    http::async_read_header(stream_, buffer_, *parser_,
                            [self = this->shared_from_this()](error_code error, std::size_t) {
                              error ? self->on_read(error) : self->read_body();
                            });
  }

  void read_body() {
    http::async_read(
        stream_, buffer_, *parser_,
        [self = this->shared_from_this()](error_code error, std::size_t) { self->on_read(error); });
  }

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
    handler_({std::string(message.method_string()), std::string(message.target()), message.body(),
              peer_},
             Answer{io_.lock(), this->shared_from_this()});
  }

  /// The handler may answer later, from another thread, or never; even after the server has gone.
  /// So this outlives it, and lets go of the session before the context that its stream needs.
  struct Answer {
    std::shared_ptr<asio::io_context> io;
    std::shared_ptr<HttpSession> session;

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
    response_.set(http::field::content_type, response.content_type);
    response_.body() = std::move(response.body);
    if (!response_.body().ends_with('\n')) response_.body() += '\n';
    response_.keep_alive(keep_alive_ && !last_);
    response_.prepare_payload();
    expire_after(limits_.request_timeout_ms);
    http::async_write(stream_, response_,
                      [self = this->shared_from_this()](error_code error, std::size_t) {
                        if (error || !self->keep_alive_ || self->last_) return self->close();
                        self->read();
                      });
  }

  typename Transport::Stream stream_;
  std::weak_ptr<asio::io_context> io_;
  const ApiHandler& handler_;
  const ServerLimits& limits_;
  beast::flat_buffer buffer_;
  std::optional<http::request_parser<http::string_body>> parser_;
  http::response<http::string_body> response_;
  std::string peer_;
  std::array<char, 1024> waste_{};
  std::size_t unread_ = 0;
  bool shaking_hands_ = false;
  bool reading_ = false;
  bool keep_alive_ = false;
  bool last_ = false;
};

template <typename Transport>
class HttpServerOver : public HttpServer {
 public:
  HttpServerOver(Transport transport, sys::UniqueFd listener, ApiHandler handler,
                 ServerLimits limits)
      : transport_(std::move(transport)),
        handler_(std::move(handler)),
        limits_(limits),
        protocol_(family_of(listener), 0),
        acceptor_(*io_, protocol_, listener.release()),
        timer_(*io_) {
    accept();
    thread_ = std::thread([this] { io_->run(); });
  }

  ~HttpServerOver() override {
    asio::post(*io_, [this] {
      error_code ignored;
      acceptor_.close(ignored);
      for (const auto& weak : sessions_) {
        if (const auto session = weak.lock()) session->finish();
      }
      timer_.expires_after(std::chrono::seconds(1));
      timer_.async_wait([this](error_code error) {
        if (error) return;
        while (close_first([](const auto& session) { return session.is_open(); })) continue;
        io_->stop();
      });
      watch_sessions();
    });
    thread_.join();
  }

 private:
  static int family_of(const sys::UniqueFd& listener) {
    int family = AF_UNIX;
    socklen_t size = sizeof family;
    ::getsockopt(listener.get(), SOL_SOCKET, SO_DOMAIN, &family, &size);
    return family;
  }

  void accept() {
    acceptor_.async_accept(*io_, [this](error_code error, AcceptedSocket socket) {
      if (!acceptor_.is_open()) return;
      if (error) return retry_later();
      make_room();
      if (protocol_.family() != AF_UNIX) {
        error_code ignored;
        socket.set_option(asio::ip::tcp::no_delay(true), ignored);
      }
      auto session = std::make_shared<HttpSession<Transport>>(transport_.wrap(std::move(socket)),
                                                              io_, handler_, limits_);
      sessions_.push_back(session);
      session->start();
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
    // Strangers must not push out those who showed their certificate.
    if (close_first([](const auto& session) { return session.shaking_hands(); })) return;
    close_first([](const auto& session) { return session.idle(); });
  }

  template <typename Predicate>
  bool close_first(Predicate predicate) {
    for (const auto& weak : sessions_) {
      const auto session = weak.lock();
      if (!session || !predicate(*session)) continue;
      session->close();
      return true;
    }
    return false;
  }

  /// After the last session has gone nothing is left to wait for.
  void watch_sessions() {
    sessions_.remove_if([](const auto& weak) { return weak.expired(); });
    if (sessions_.empty()) return io_->stop();
    poll_timer_.expires_after(std::chrono::milliseconds(5));
    poll_timer_.async_wait([this](error_code) { watch_sessions(); });
  }

  Transport transport_;
  ApiHandler handler_;
  ServerLimits limits_;
  Protocol protocol_;
  std::shared_ptr<asio::io_context> io_ = std::make_shared<asio::io_context>(1);
  asio::basic_socket_acceptor<Protocol, asio::io_context::executor_type> acceptor_;
  asio::steady_timer timer_;
  asio::steady_timer poll_timer_{*io_};
  std::list<std::weak_ptr<HttpSession<Transport>>> sessions_;
  std::thread thread_;
};

}  // namespace godwit::node
