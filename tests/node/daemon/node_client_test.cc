#include "node/daemon/node_client.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <filesystem>
#include <functional>
#include <future>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "node/control_server.h"
#include "node/control_socket.h"
#include "node/listener.h"
#include "tests/migration/tls/certificates.h"

namespace godwit::node {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;
using Kind = ClientError::Kind;
using TlsPtr = std::shared_ptr<const tls::Context>;

/// Certificates are made once; each test has a server of its own.
class NodeClientTest : public testing::Test {
 protected:
  struct Shop {
    std::string folder = [] {
      std::string path = testing::TempDir() + "godwit_node_client_XXXXXX";
      EXPECT_NE(::mkdtemp(path.data()), nullptr);
      return path + "/";
    }();
    tls::TestCa ca{folder, "ca"};
    tls::TestCa foreign{folder, "foreign"};
    tls::Files a = ca.make("a", {.name = "a", .also = "DNS:a.example"});
    tls::Files b = ca.make("b", {.name = "b"});
    tls::Files expired =
        ca.make("old", {.name = "old", .valid_from_s = -7200, .valid_to_s = -3600});
    tls::Files stranger = foreign.make("stranger", {.name = "b"});
  };
  static void SetUpTestSuite() { shop_ = new Shop; }
  static void TearDownTestSuite() {
    std::filesystem::remove_all(shop_->folder);
    delete shop_;
  }

  static TlsPtr tls(const tls::Files& files) { return std::make_shared<const tls::Context>(files); }
  /// Shows that certificate, believes our CA.
  static TlsPtr showing(const tls::Files& files) {
    return tls({shop_->ca.certificate_file(), files.certificate, files.key});
  }

  void serve(TlsPtr context, const ServerLimits& limits = {}) {
    server_.reset();
    Listener listener("127.0.0.1:0", 64);
    address_ = listener.address();
    server_ = std::make_unique<ControlServer>(
        listener.take_socket(), std::move(context),
        [this](const ApiRequest& request, const ApiReply& reply) { handle(request, reply); },
        limits);
  }
  void serve_tls(const ServerLimits& limits = {}) { serve(tls(shop_->a), limits); }

  void handle(const ApiRequest& request, const ApiReply& reply) {
    ++requests_;
    if (request.target == "/v1/huge") return reply({200, std::string(5u << 20, 'x')});
    if (request.target == "/v1/large") {
      return reply({200, json{{"text", std::string(3u << 20, 'x')}}.dump()});
    }
    if (request.target == "/v1/no") return reply(api_error(409, "no room"));
    if (request.target == "/v1/text") return reply({200, "a 1\n", "text/plain"});
    if (request.target == "/v1/never") return held_.push_back(reply);
    reply({200, json{{"peer", request.peer},
                     {"method", request.method},
                     {"body", request.body.empty() ? json() : json::parse(request.body)}}
                    .dump()});
  }

  json ask(const TlsPtr& context, const std::string& target = "/v1/node",
           const std::string& name = {}) const {
    return NodeClient(address_, context, name).request("GET", target, nullptr, milliseconds(5000));
  }

  /// The error of a call that must fail; checks that it comes well within 4 s.
  static ClientError error_of(const std::function<void()>& call) {
    const auto start = Clock::now();
    try {
      call();
    } catch (const ClientError& error) {
      EXPECT_LT(Clock::now() - start, milliseconds(4000));
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
      return error;
    }
    ADD_FAILURE() << "no error";
    return ClientError("");
  }

  sys::UniqueFd connect_raw() const {
    sys::UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port =
        htons(static_cast<std::uint16_t>(std::stoi(address_.substr(address_.find(':') + 1))));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
    return fd;
  }

  static void send(const sys::UniqueFd& fd, std::string_view text) {
    ASSERT_EQ(::send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(text.size()));
  }

  /// All that comes until the server closes; fails the test after 5 s.
  static std::string read_all(const sys::UniqueFd& fd) {
    std::string all;
    std::array<char, 4096> buffer{};
    for (;;) {
      pollfd poller{fd.get(), POLLIN, 0};
      if (::poll(&poller, 1, 5000) <= 0) {
        ADD_FAILURE() << "the server left the connection open";
        return all;
      }
      const ssize_t count = ::read(fd.get(), buffer.data(), buffer.size());
      if (count <= 0) return all;
      all.append(buffer.data(), static_cast<std::size_t>(count));
    }
  }

  inline static Shop* shop_ = nullptr;
  std::string address_;
  std::atomic<int> requests_ = 0;
  std::vector<ApiReply> held_;  // on the server's thread
  std::unique_ptr<ControlServer> server_;
};

/// Accepts connections one after the other and lets `talk` have each.
class RawServer {
 public:
  explicit RawServer(std::function<void(sys::UniqueFd)> talk)
      : address_(listener_.address()), talk_(std::move(talk)) {
    thread_ = std::thread([this] {
      while (sys::UniqueFd fd = listener_.accept(stop_)) talk_(std::move(fd));
    });
  }
  ~RawServer() {
    stop_.signal();
    thread_.join();
  }
  const std::string& address() const { return address_; }

 private:
  Listener listener_{"127.0.0.1:0"};
  std::string address_;
  std::function<void(sys::UniqueFd)> talk_;
  sys::EventFd stop_;
  std::thread thread_;
};

TEST_F(NodeClientTest, AsksOverTlsAndIsKnownByItsName) {
  serve_tls();
  const NodeClient client(address_, tls(shop_->b), "a");
  const json answer = client.request("POST", "/v1/x", {{"to", "b"}}, milliseconds(5000));
  EXPECT_EQ(answer, (json{{"peer", "b"}, {"method", "POST"}, {"body", {{"to", "b"}}}}));
}

TEST_F(NodeClientTest, AsksOverPlainTcpWithoutAName) {
  serve(nullptr);
  EXPECT_EQ(ask(nullptr)["peer"], "");
}

TEST_F(NodeClientTest, AsksOverAUnixSocket) {
  const std::string path = shop_->folder + "node.sock";
  {
    ControlSocket socket(path, "node");
    const ControlServer server(socket.take_listener(),
                               [](const ApiRequest& request, ApiReply reply) {
                                 reply({200, json{{"peer", request.peer}}.dump()});
                               });
    EXPECT_EQ(NodeClient(path, nullptr).request("GET", "/", nullptr, milliseconds(5000))["peer"],
              "");
  }
  const auto error =
      error_of([&] { NodeClient(path, nullptr).request("GET", "/", nullptr, milliseconds(5000)); });
  EXPECT_EQ(error.what(), "no node: there is no " + path);
}

TEST_F(NodeClientTest, ChecksTheNodesName) {
  serve_tls();
  EXPECT_EQ(ask(tls(shop_->b), "/", "a")["peer"], "b");
  EXPECT_EQ(ask(tls(shop_->b), "/", "a.example")["peer"], "b");
  const int before = requests_;
  for (const char* name : {"b", "example", "a.exampl", "A"}) {
    const auto error = error_of([&] { ask(tls(shop_->b), "/", name); });
    EXPECT_EQ(error.kind(), Kind::kCertificate);
    EXPECT_EQ(error.what(),
              "node " + address_ + " is refused: its certificate says \"a\", not \"" + name + "\"");
  }
  EXPECT_EQ(requests_, before);
}

TEST_F(NodeClientTest, IsRefusedWithAForeignCertificate) {
  serve_tls();
  const auto error = error_of([&] { ask(showing(shop_->stranger)); });
  EXPECT_EQ(error.kind(), Kind::kCertificate);
  EXPECT_EQ(error.what(), "node " + address_ + " refuses our certificate: its CA did not sign it");
  EXPECT_EQ(requests_, 0);
}

TEST_F(NodeClientTest, IsRefusedWithAnExpiredCertificate) {
  serve_tls();
  const auto error = error_of([&] { ask(showing(shop_->expired)); });
  EXPECT_EQ(error.kind(), Kind::kCertificate);
  EXPECT_EQ(error.what(), "node " + address_ + " refuses our certificate: it has expired");
  EXPECT_EQ(requests_, 0);
}

TEST_F(NodeClientTest, RefusesANodeOfAForeignCa) {
  serve(tls(shop_->stranger));
  const auto error = error_of([&] { ask(tls(shop_->b)); });
  EXPECT_EQ(error.kind(), Kind::kCertificate);
  EXPECT_NE(std::string(error.what()).find("the certificate of node"), std::string::npos);
}

TEST_F(NodeClientTest, RefusesANodeWhoseCertificateExpired) {
  serve(showing(shop_->expired));
  const auto error = error_of([&] { ask(tls(shop_->b)); });
  EXPECT_EQ(error.kind(), Kind::kCertificate);
  EXPECT_NE(std::string(error.what()).find("certificate has expired"), std::string::npos);
}

struct FreeSsl {
  void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
  void operator()(SSL* session) const { SSL_free(session); }
};
using SslContextPtr = std::unique_ptr<SSL_CTX, FreeSsl>;
using SslPtr = std::unique_ptr<SSL, FreeSsl>;

/// A client of OpenSSL's own making: it may do what ours cannot.
class ForeignClient {
 public:
  ForeignClient(sys::UniqueFd fd, int version)
      : fd_(std::move(fd)), context_(SSL_CTX_new(TLS_client_method())) {
    SSL_CTX_set_max_proto_version(context_.get(), version);
    ssl_.reset(SSL_new(context_.get()));
    SSL_set_fd(ssl_.get(), fd_.get());
  }
  /// The answer to a request, or "" when the server does not want to.
  std::string ask() {
    if (SSL_connect(ssl_.get()) != 1) return "";
    const std::string_view request = "GET / HTTP/1.1\r\nConnection: close\r\n\r\n";
    SSL_write(ssl_.get(), request.data(), static_cast<int>(request.size()));
    std::array<char, 4096> answer{};
    const int size = SSL_read(ssl_.get(), answer.data(), static_cast<int>(answer.size()));
    return size <= 0 ? "" : std::string(answer.data(), static_cast<std::size_t>(size));
  }

  sys::UniqueFd fd_;
  SslContextPtr context_;
  SslPtr ssl_;
};

TEST_F(NodeClientTest, TheServerWantsACertificate) {
  serve_tls();
  EXPECT_EQ(ForeignClient(connect_raw(), TLS1_3_VERSION).ask(), "");
  EXPECT_EQ(requests_, 0);
  EXPECT_EQ(ask(tls(shop_->b))["peer"], "b");
}

TEST_F(NodeClientTest, TheServerWantsTls13) {
  serve_tls();
  for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
    ForeignClient client(connect_raw(), version);
    SSL_use_certificate_file(client.ssl_.get(), shop_->b.certificate.c_str(), SSL_FILETYPE_PEM);
    SSL_use_PrivateKey_file(client.ssl_.get(), shop_->b.key.c_str(), SSL_FILETYPE_PEM);
    EXPECT_EQ(client.ask().empty(), version != TLS1_3_VERSION) << version;
  }
}

TEST_F(NodeClientTest, PlainHttpToATlsNodeIsRefused) {
  serve_tls();
  const auto error = error_of([&] { ask(nullptr); });
  EXPECT_STREQ(error.what(), "this port wants TLS and a client certificate");
  EXPECT_EQ(error.status(), 400u);
  EXPECT_EQ(requests_, 0);
  EXPECT_EQ(ask(tls(shop_->b))["peer"], "b");
}

TEST_F(NodeClientTest, TlsToAPlainNodeIsRefused) {
  serve(nullptr);
  const auto error = error_of([&] { ask(tls(shop_->b)); });
  EXPECT_EQ(error.kind(), Kind::kNotOurs);
  EXPECT_EQ(error.what(), "node " + address_ + " does not speak TLS");
}

TEST_F(NodeClientTest, ASlowHandshakeIsCutOff) {
  serve_tls({.request_timeout_ms = 300});
  const sys::UniqueFd silent = connect_raw();
  const sys::UniqueFd half = connect_raw();
  send(half, std::string_view("\x16\x03\x01\x02\x00\x01", 6));
  const sys::UniqueFd drips = connect_raw();
  send(drips, std::string_view("\x16\x03\x01\x40\x00", 5));
  const auto start = Clock::now();
  EXPECT_EQ(ask(tls(shop_->b))["peer"], "b");
  while (Clock::now() - start < milliseconds(3000) &&
         ::send(drips.get(), "x", 1, MSG_NOSIGNAL) == 1) {
    std::this_thread::sleep_for(milliseconds(10));
  }
  read_all(silent);
  read_all(half);
  EXPECT_LT(Clock::now() - start, milliseconds(2500));
}

TEST_F(NodeClientTest, StrangersDoNotPushOutAKnownClient) {
  serve_tls({.connections = 4});
  const auto context = tls(shop_->b);
  const NodeClient client(address_, context);
  client.request("GET", "/", nullptr, milliseconds(5000));
  std::vector<sys::UniqueFd> strangers;
  for (int i = 0; i < 20; ++i) strangers.push_back(connect_raw());
  read_all(strangers[0]);
  // On the same connection: a POST would need a new one.
  EXPECT_EQ(client.request("GET", "/", nullptr, milliseconds(5000))["peer"], "b");
  EXPECT_EQ(ask(context)["peer"], "b");
}

TEST_F(NodeClientTest, SaysWhatANodeRefuses) {
  serve_tls();
  const auto error = error_of([&] { ask(tls(shop_->b), "/v1/no"); });
  EXPECT_EQ(error.kind(), Kind::kRefused);
  EXPECT_EQ(error.status(), 409u);
  EXPECT_STREQ(error.what(), "no room");
}

TEST_F(NodeClientTest, TakesALargeAnswerAndNoHugeOne) {
  serve_tls();
  EXPECT_EQ(ask(tls(shop_->b), "/v1/large")["text"].get<std::string>().size(), 3u << 20);
  for (const TlsPtr& context : {tls(shop_->b), TlsPtr()}) {
    if (!context) serve(nullptr);
    const auto error = error_of([&] { ask(context, "/v1/huge"); });
    EXPECT_EQ(error.kind(), Kind::kNotOurs);
    EXPECT_EQ(error.what(), "node " + address_ + " answers with more than 4 MiB");
  }
}

TEST_F(NodeClientTest, EndsAnAnswerThatNeverEnds) {
  const RawServer server([](const sys::UniqueFd& fd) {
    constexpr std::string_view kHead = "HTTP/1.1 200 OK\r\n\r\n";
    ::send(fd.get(), kHead.data(), kHead.size(), MSG_NOSIGNAL);
    const std::string block(65536, 'x');
    while (::send(fd.get(), block.data(), block.size(), MSG_NOSIGNAL) > 0) continue;
  });
  const auto error = error_of([&] {
    NodeClient(server.address(), nullptr).request("GET", "/", nullptr, milliseconds(5000));
  });
  EXPECT_EQ(error.what(), "node " + server.address() + " answers with more than 4 MiB");
}

TEST_F(NodeClientTest, NoticesAPeerThatClosesInTheMiddle) {
  for (const std::string_view text :
       {"", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}"}) {
    const RawServer server([&](const sys::UniqueFd& fd) {
      std::array<char, 4096> request{};
      EXPECT_GT(::read(fd.get(), request.data(), request.size()), 0);
      ::send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL);
    });
    for (const TlsPtr& context : {TlsPtr(), tls(shop_->b)}) {
      const auto error = error_of([&] {
        NodeClient(server.address(), context).request("GET", "/", nullptr, milliseconds(5000));
      });
      EXPECT_TRUE(error.kind() == Kind::kLost || (context && error.kind() == Kind::kNotOurs))
          << error.what();
    }
  }
}

/// Shakes hands as node a, reads a request, sends `text`, and closes with or without a farewell.
void talk_tls(const sys::UniqueFd& fd, const tls::Files& files, std::string_view text,
              bool farewell) {
  const SslContextPtr context(SSL_CTX_new(TLS_server_method()));
  SSL_CTX_use_certificate_file(context.get(), files.certificate.c_str(), SSL_FILETYPE_PEM);
  SSL_CTX_use_PrivateKey_file(context.get(), files.key.c_str(), SSL_FILETYPE_PEM);
  const SslPtr ssl(SSL_new(context.get()));
  SSL_set_fd(ssl.get(), fd.get());
  if (SSL_accept(ssl.get()) != 1) return;
  std::array<char, 4096> request{};
  if (SSL_read(ssl.get(), request.data(), static_cast<int>(request.size())) <= 0) return;
  if (!text.empty()) SSL_write(ssl.get(), text.data(), static_cast<int>(text.size()));
  if (farewell) SSL_shutdown(ssl.get());
}

TEST_F(NodeClientTest, NoticesATlsPeerThatClosesInTheMiddle) {
  // The last answer has no length: only the farewell tells a whole one from one cut short.
  for (const std::string_view text :
       {"", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\n\r\n{}"}) {
    for (const bool farewell : {false, true}) {
      const RawServer server(
          [&](const sys::UniqueFd& fd) { talk_tls(fd, shop_->a, text, farewell); });
      const auto call = [&] {
        NodeClient(server.address(), tls(shop_->b))
            .request("GET", "/", nullptr, milliseconds(5000));
      };
      if (farewell && text.ends_with("\r\n\r\n{}") && text.find("Length") == text.npos) {
        EXPECT_NO_THROW(call());
      } else {
        EXPECT_EQ(error_of(call).kind(), Kind::kLost) << text << farewell;
      }
    }
  }
}

TEST_F(NodeClientTest, IsBoundedInTime) {
  serve_tls();
  const auto context = tls(shop_->b);
  auto error = error_of([&] {
    NodeClient(address_, context).request("GET", "/v1/never", nullptr, milliseconds(300));
  });
  EXPECT_EQ(error.kind(), Kind::kTimeout);
  EXPECT_EQ(error.what(), "node " + address_ + " does not answer within 0.3 s");

  // Accepted by the kernel, and nobody there: for TLS and plain.
  Listener nobody("127.0.0.1:0", 8);
  for (const TlsPtr& some : {TlsPtr(), context}) {
    error = error_of([&] {
      NodeClient(nobody.address(), some).request("GET", "/", nullptr, milliseconds(300));
    });
    EXPECT_EQ(error.kind(), Kind::kTimeout);
  }
}

TEST_F(NodeClientTest, IsBoundedInTimeByBytesThatDrip) {
  const RawServer server([](const sys::UniqueFd& fd) {
    while (::send(fd.get(), "H", 1, MSG_NOSIGNAL) > 0) {
      std::this_thread::sleep_for(milliseconds(5));
      if (Clock::now().time_since_epoch().count() == 0) break;
    }
  });
  const auto error = error_of([&] {
    NodeClient(server.address(), nullptr).request("GET", "/", nullptr, milliseconds(400));
  });
  EXPECT_TRUE(error.kind() == Kind::kTimeout || error.kind() == Kind::kNotOurs) << error.what();
}

TEST_F(NodeClientTest, SaysThatNobodyListens) {
  const std::string address = Listener("127.0.0.1:0").address();
  auto error = error_of(
      [&] { NodeClient(address, nullptr).request("GET", "/", nullptr, milliseconds(2000)); });
  EXPECT_EQ(error.kind(), Kind::kNobody);
  EXPECT_EQ(error.what(), "node " + address + ": nothing listens there");
  EXPECT_THROW(NodeClient("nonsense", nullptr), std::invalid_argument);
}

TEST_F(NodeClientTest, SaysThatANameIsUnknown) {
  const auto error = error_of([&] {
    NodeClient("no-such-host.invalid:1", nullptr).request("GET", "/", nullptr, milliseconds(2000));
  });
  EXPECT_TRUE(error.kind() == Kind::kNobody || error.kind() == Kind::kTimeout) << error.what();
  EXPECT_NE(std::string(error.what()).find("no-such-host.invalid"), std::string::npos);
}

TEST_F(NodeClientTest, ResolvesNames) {
  serve(nullptr);
  const NodeClient client("localhost" + address_.substr(address_.find(':')), nullptr);
  EXPECT_EQ(client.request("GET", "/", nullptr, milliseconds(5000))["peer"], "");
}

TEST_F(NodeClientTest, NoticesWhatIsNoNode) {
  const std::vector<std::string> answers{"SSH-2.0-OpenSSH_9.2\r\n",
                                         "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>"};
  for (const std::string& text : answers) {
    const RawServer server([&](const sys::UniqueFd& fd) {
      std::array<char, 4096> request{};
      EXPECT_GT(::read(fd.get(), request.data(), request.size()), 0);
      ::send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL);
    });
    const auto error = error_of([&] {
      NodeClient(server.address(), nullptr).request("GET", "/", nullptr, milliseconds(5000));
    });
    EXPECT_EQ(error.kind(), Kind::kNotOurs) << error.what();
  }
}

TEST_F(NodeClientTest, KeepsAConnectionForManyRequests) {
  serve_tls({.connections = 1});
  const NodeClient client(address_, tls(shop_->b));
  const auto start = Clock::now();
  for (int i = 0; i < 200; ++i) client.request("GET", "/", nullptr, milliseconds(5000));
  // Neither a handshake nor a delayed acknowledgement for each: that would be 40 ms.
  EXPECT_LT(Clock::now() - start, milliseconds(4000));
  EXPECT_EQ(requests_, 200);
}

TEST_F(NodeClientTest, ConnectsAgainWhenTheConnectionIsGone) {
  serve_tls({.request_timeout_ms = 100});
  const NodeClient client(address_, tls(shop_->b));
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(client.request("GET", "/", nullptr, milliseconds(5000))["peer"], "b");
    std::this_thread::sleep_for(milliseconds(200));
  }
  EXPECT_EQ(requests_, 3);
}

TEST_F(NodeClientTest, ServesManyThreads) {
  serve_tls();
  const NodeClient client(address_, tls(shop_->b));
  std::vector<std::thread> threads;
  std::atomic<int> good = 0;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      for (int j = 0; j < 20; ++j) {
        good += client.request("GET", "/", nullptr, milliseconds(20000))["peer"] == "b" ? 1 : 0;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(good, 160);
}

TEST_F(NodeClientTest, SendsOtherContentTypes) {
  serve(nullptr);
  const sys::UniqueFd fd = connect_raw();
  send(fd, "GET /v1/text HTTP/1.1\r\nConnection: close\r\n\r\n");
  const std::string answer = read_all(fd);
  EXPECT_NE(answer.find("Content-Type: text/plain\r\n"), std::string::npos) << answer;
  EXPECT_TRUE(answer.ends_with("\r\n\r\na 1\n")) << answer;
}

TEST_F(NodeClientTest, ServerGoesWithConnectionsOpen) {
  serve_tls();
  const NodeClient client(address_, tls(shop_->b));
  client.request("GET", "/", nullptr, milliseconds(5000));
  std::vector<sys::UniqueFd> raw;
  for (int i = 0; i < 5; ++i) raw.push_back(connect_raw());
  send(raw[0], std::string_view("\x16\x03\x01\x02\x00\x01", 6));
  send(raw[1], "GET / HTTP/1.1\r\n\r\n");
  auto waiting = std::async(std::launch::async, [&] {
    return error_of([&] { ask(tls(shop_->b), "/v1/never"); }).kind();
  });
  while (requests_ < 2) std::this_thread::sleep_for(milliseconds(1));
  const auto start = Clock::now();
  server_.reset();
  EXPECT_LT(Clock::now() - start, milliseconds(2000));
  EXPECT_EQ(waiting.get(), Kind::kLost);
  for (const auto& fd : raw) read_all(fd);
  held_.clear();  // after the server, as a slow handler would
  EXPECT_EQ(error_of([&] { client.request("GET", "/", nullptr, milliseconds(5000)); }).kind(),
            Kind::kNobody);
}

}  // namespace
}  // namespace godwit::node
