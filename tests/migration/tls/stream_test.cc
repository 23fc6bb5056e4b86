#include "migration/tls/stream.h"

#include <gtest/gtest.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include "migration/tls/module.h"
#include "migration/tls/tls.h"
#include "tests/migration/sockets.h"
#include "tests/migration/tls/certificates.h"

namespace godwit::tls {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
using Bytes = std::vector<unsigned char>;

constexpr Records kUser = Records::kByUs;
constexpr Records kKernel = Records::kByKernel;

/// What a side of a handshake came to.
struct Outcome {
  std::unique_ptr<Stream> stream;
  std::string error;
};

Outcome shake_hands(std::unique_ptr<Handshake> handshake, int socket) {
  try {
    const auto until = Clock::now() + 5s;
    while (const short events = handshake->step()) {
      pollfd poll{socket, events, 0};
      ::poll(&poll, 1, 100);
      if (Clock::now() > until) return {nullptr, "too long"};
    }
    return {handshake->finish(), ""};
  } catch (const Error& error) {
    return {nullptr, error.what()};
  }
}

class TlsStreamTest : public ::testing::Test {
 protected:
  struct Shop {
    std::string folder = [] {
      std::string path = ::testing::TempDir() + "godwit_tls_stream_XXXXXX";
      EXPECT_NE(::mkdtemp(path.data()), nullptr);
      return path + "/";
    }();
    TestCa ca{folder, "ca"};
    TestCa foreign{folder, "foreign"};
    Files a = ca.make("a", {.name = "a"});
    Files b = ca.make("b", {.name = "b", .also = "DNS:b.example,IP:10.0.0.2,IP:2001:db8::2"});
    Files expired = ca.make("old", {.name = "old", .valid_from_s = -7200, .valid_to_s = -3600});
    Files stranger = foreign.make("stranger", {.name = "b"});
  };
  static void SetUpTestSuite() { shop_ = new Shop; }
  static void TearDownTestSuite() {
    std::filesystem::remove_all(shop_->folder);
    delete shop_;
  }
  /// Shows that certificate, believes our CA.
  static Files showing(const Files& files) {
    return {shop_->ca.certificate_file(), files.certificate, files.key};
  }

  TlsStreamTest() { std::tie(client_socket_, server_socket_) = testing::tcp_pair(); }

  void connect(const Files& client, const Files& server, const std::string& name = "",
               Records client_records = kUser, Records server_records = kUser) {
    auto other = std::async(std::launch::async, [&] {
      return shake_hands(
          Context(server).module().accept(server_socket_.get(), "the client", server_records),
          server_socket_.get());
    });
    client_ = shake_hands(
        Context(client).module().connect(client_socket_.get(), name, "the server", client_records),
        client_socket_.get());
    if (!client_.stream) client_socket_.reset();
    server_ = other.get();
  }
  void connect(Records client, Records server) { connect(shop_->a, shop_->b, "b", client, server); }

  static Bytes pattern(std::size_t size) {
    Bytes bytes(size);
    for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<unsigned char>(i * 7 + i / 251);
    return bytes;
  }

  static void send_all(Stream& stream, int socket, std::vector<iovec> parts) {
    const auto until = Clock::now() + 10s;
    std::span<iovec> left = parts;
    while (!left.empty() && Clock::now() < until) {
      if (left[0].iov_len == 0) {
        left = left.subspan(1);
        continue;
      }
      ssize_t sent = stream.send(left);
      if (sent < 0) {
        ASSERT_EQ(errno, EAGAIN);
        pollfd poll{socket, POLLOUT, 0};
        ::poll(&poll, 1, 100);
        continue;
      }
      for (iovec& part : left) {
        const std::size_t some =
            std::min<std::size_t>(part.iov_len, static_cast<std::size_t>(sent));
        part.iov_base = static_cast<char*>(part.iov_base) + some;
        part.iov_len -= some;
        sent -= static_cast<ssize_t>(some);
      }
    }
    ASSERT_TRUE(left.empty());
  }
  static iovec part(Bytes& bytes) { return {bytes.data(), bytes.size()}; }

  static Bytes receive_all(Stream& stream, int socket, std::size_t size) {
    const auto until = Clock::now() + 10s;
    Bytes bytes(size);
    for (std::size_t at = 0; at < size;) {
      const iovec into{bytes.data() + at, size - at};
      const ssize_t got = stream.receive({&into, 1});
      if (got > 0) at += static_cast<std::size_t>(got);
      if (got == 0 || (got < 0 && errno != EAGAIN) || Clock::now() > until) return {};
      pollfd poll{socket, POLLIN, 0};
      if (got < 0) ::poll(&poll, 1, 100);
    }
    return bytes;
  }

  static inline Shop* shop_ = nullptr;
  sys::UniqueFd client_socket_;
  sys::UniqueFd server_socket_;
  Outcome client_;
  Outcome server_;
};

/// By what the two ends encrypt; where the kernel has no TLS, all by ourselves.
class TlsStreamsTest : public TlsStreamTest,
                       public ::testing::WithParamInterface<std::pair<Records, Records>> {
 protected:
  void SetUp() override {
    connect(GetParam().first, GetParam().second);
    ASSERT_NE(client_.stream, nullptr) << client_.error;
    ASSERT_NE(server_.stream, nullptr) << server_.error;
    EXPECT_FALSE(GetParam().first == kUser && client_.stream->in_kernel());
    EXPECT_FALSE(GetParam().second == kUser && server_.stream->in_kernel());
  }
};

INSTANTIATE_TEST_SUITE_P(Ends, TlsStreamsTest,
                         ::testing::Values(std::pair(kUser, kUser), std::pair(kUser, kKernel),
                                           std::pair(kKernel, kUser), std::pair(kKernel, kKernel)),
                         [](const auto& one) {
                           return std::string(one.param.first == kUser ? "User" : "Kernel") + "To" +
                                  (one.param.second == kUser ? "User" : "Kernel");
                         });

TEST_P(TlsStreamsTest, CarryBytesBothWaysInPiecesOfAnySize) {
  Bytes small = pattern(24);
  Bytes empty;
  Bytes page = pattern(4096);
  Bytes large = pattern(3 << 20);
  Bytes expected;
  for (const Bytes* piece : {&small, &page, &large, &page, &small}) {
    expected.insert(expected.end(), piece->begin(), piece->end());
  }
  for (int turn = 0; turn < 2; ++turn) {
    Stream& from = turn == 0 ? *client_.stream : *server_.stream;
    Stream& to = turn == 0 ? *server_.stream : *client_.stream;
    const int sends = turn == 0 ? client_socket_.get() : server_socket_.get();
    const int receives = turn == 0 ? server_socket_.get() : client_socket_.get();
    auto received =
        std::async(std::launch::async, [&] { return receive_all(to, receives, expected.size()); });
    send_all(from, sends,
             {part(small), part(empty), part(page), part(large), part(page), part(small)});
    EXPECT_TRUE(received.get() == expected);
  }
}

TEST_P(TlsStreamsTest, KnowWhatPollDoesNot) {
  EXPECT_FALSE(server_.stream->readable());
  Bytes words = pattern(100);
  send_all(*client_.stream, client_socket_.get(), {part(words)});
  send_all(*client_.stream, client_socket_.get(), {part(words)});
  pollfd poll{server_socket_.get(), POLLIN, 0};
  ASSERT_EQ(::poll(&poll, 1, 5000), 1);
  for (int piece = 0; piece < 20; ++piece) {
    EXPECT_TRUE(server_.stream->readable()) << piece;
    EXPECT_EQ(receive_all(*server_.stream, server_socket_.get(), 10).size(), 10u);
  }
  EXPECT_FALSE(server_.stream->readable());
}

TEST_P(TlsStreamsTest, AnEndWithoutAFarewellIsAnError) {
  Bytes words = pattern(100);
  send_all(*client_.stream, client_socket_.get(), {part(words)});
  client_socket_.reset();
  EXPECT_EQ(receive_all(*server_.stream, server_socket_.get(), 100), words);
  pollfd poll{server_socket_.get(), POLLIN, 0};
  ::poll(&poll, 1, 5000);
  const iovec into{words.data(), words.size()};
  EXPECT_EQ(server_.stream->receive({&into, 1}), -1);
  EXPECT_EQ(errno, ECONNRESET);
  // Nothing is taken any more, perhaps but for what the kernel drops.
  ssize_t sent = 1;
  for (int i = 0; i < 100 && sent > 0; ++i) sent = server_.stream->send({&into, 1});
  EXPECT_EQ(sent, -1);
  EXPECT_TRUE(errno == EPIPE || errno == ECONNRESET) << errno;
}

TEST_P(TlsStreamsTest, AFullSocketIsToBeWaitedFor) {
  Bytes much = pattern(1 << 20);
  const iovec all = part(much);
  std::size_t taken = 0;
  for (;;) {
    const ssize_t sent = client_.stream->send({&all, 1});
    if (sent < 0) break;
    taken += static_cast<std::size_t>(sent);
    ASSERT_LT(taken, 1u << 30);
  }
  EXPECT_EQ(errno, EAGAIN);
  EXPECT_GT(taken, 0u);
}

TEST_P(TlsStreamsTest, BytesThatAreNoRecordAreAnError) {
  const std::string garbage(2000, '\x17');
  ASSERT_GT(::send(client_socket_.get(), garbage.data(), garbage.size(), MSG_NOSIGNAL), 0);
  pollfd poll{server_socket_.get(), POLLIN, 0};
  ::poll(&poll, 1, 5000);
  Bytes into(5000);
  const iovec at = part(into);
  if (client_.stream->in_kernel()) {  // then they were encrypted, and are fine
    EXPECT_EQ(receive_all(*server_.stream, server_socket_.get(), garbage.size()).size(),
              garbage.size());
    return;
  }
  try {
    const ssize_t got = server_.stream->receive({&at, 1});
    ADD_FAILURE() << got << ' ' << std::strerror(errno);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), Error::Kind::kBroken) << error.what();
  }
}

TEST_P(TlsStreamsTest, TheKernelEncryptsWhereItCan) {
  const auto [one, other] = testing::tcp_pair();
  const bool can = ::setsockopt(one.get(), IPPROTO_TCP, TCP_ULP, "tls", sizeof "tls") == 0;
  EXPECT_TRUE(can || std::getenv("GODWIT_RUNNER") == nullptr) << "the runner's kernel has TLS";
  EXPECT_EQ(client_.stream->in_kernel(), can && GetParam().first == kKernel);
  EXPECT_EQ(server_.stream->in_kernel(), can && GetParam().second == kKernel);
}

TEST_F(TlsStreamTest, APeerIsWhoItsCertificateSays) {
  for (const std::string name : {"", "b", "b.example", "10.0.0.2", "2001:db8::2"}) {
    std::tie(client_socket_, server_socket_) = testing::tcp_pair();
    connect(shop_->a, shop_->b, name);
    EXPECT_NE(client_.stream, nullptr) << name << ": " << client_.error;
  }
  for (const std::string name : {"a", "c", "B", "x.b.example", "10.0.0.3", "10.0.0", "::2", "*"}) {
    std::tie(client_socket_, server_socket_) = testing::tcp_pair();
    connect(shop_->a, shop_->b, name);
    EXPECT_EQ(client_.error,
              "the server is refused: its certificate says \"b\", not \"" + name + '"');
  }
}

/// What the client hears when it waits for words; it has shaken hands by then.
std::string heard_by(Outcome& outcome, int socket) {
  if (!outcome.stream) return outcome.error;
  pollfd poll{socket, POLLIN, 0};
  ::poll(&poll, 1, 5000);
  char byte = 0;
  const iovec into{&byte, 1};
  try {
    const ssize_t got = outcome.stream->receive({&into, 1});
    return got < 0 ? std::strerror(errno) : std::to_string(got);
  } catch (const Error& error) {
    return error.what();
  }
}

TEST_F(TlsStreamTest, BothEndsSayWhatIsWrongWithACertificate) {
  const struct {
    Files client, server;
    const char *client_says, *server_says;
  } cases[] = {
      {showing(shop_->stranger), shop_->b,
       "the server refuses our certificate: its CA did not sign it",
       "the certificate of the client is refused: unable to get local issuer certificate"},
      {shop_->expired, shop_->b, "the server refuses our certificate: it has expired",
       "the certificate of the client is refused: certificate has expired"},
      {shop_->a, showing(shop_->stranger),
       "the certificate of the server is refused: unable to get local issuer certificate",
       "the client refuses our certificate: its CA did not sign it"},
      {shop_->a, shop_->expired,
       "the certificate of the server is refused: certificate has expired",
       "the client refuses our certificate: it has expired"},
  };
  for (const auto& one : cases) {
    for (const Records records : {kUser, kKernel}) {
      std::tie(client_socket_, server_socket_) = testing::tcp_pair();
      connect(one.client, one.server, "", records, records);
      EXPECT_EQ(heard_by(client_, client_socket_.get()), one.client_says);
      if (client_.stream) {
        EXPECT_NE(heard_by(client_, client_socket_.get()), one.client_says) << "only once";
        server_socket_.reset();
        char byte = 0;
        const iovec word{&byte, 1};
        ssize_t sent = 1;
        for (int i = 0; i < 100 && sent > 0; ++i) sent = client_.stream->send({&word, 1});
        EXPECT_EQ(sent, -1);
      }
      EXPECT_EQ(server_.error, one.server_says);
    }
  }
}

TEST_F(TlsStreamTest, APeerWithoutACertificateIsRefused) {
  auto server = std::async(std::launch::async, [&] {
    return shake_hands(
        Context(shop_->b).module().accept(server_socket_.get(), "the client", kKernel),
        server_socket_.get());
  });
  SSL_CTX* const context = SSL_CTX_new(TLS_client_method());
  SSL* const ssl = SSL_new(context);
  SSL_set_fd(ssl, client_socket_.get());
  SSL_connect(ssl);
  EXPECT_EQ(server.get().error, "the client shows no certificate");
  SSL_free(ssl);
  SSL_CTX_free(context);
}

TEST_F(TlsStreamTest, NothingButTls13Begins) {
  const auto server_says = [&](const std::string& bytes) {
    std::tie(client_socket_, server_socket_) = testing::tcp_pair();
    EXPECT_EQ(::send(client_socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
    ::shutdown(client_socket_.get(), SHUT_WR);
    return shake_hands(
               Context(shop_->b).module().accept(server_socket_.get(), "the client", kKernel),
               server_socket_.get())
        .error;
  };
  EXPECT_EQ(server_says(""), "lost contact with the client in the TLS handshake");
  EXPECT_EQ(server_says("GODWIT\r\n\x06"), "the client does not speak TLS");
  EXPECT_EQ(server_says("GET / HTTP/1.1\r\n"), "the client does not speak TLS");
  EXPECT_NE(server_says(std::string("\x16\x03\x01\x00\x04\x01\x00\x00\x00", 9)), "");

  std::tie(client_socket_, server_socket_) = testing::tcp_pair();
  SSL_CTX* const context = SSL_CTX_new(TLS_client_method());
  SSL_CTX_set_max_proto_version(context, TLS1_2_VERSION);
  SSL* const ssl = SSL_new(context);
  SSL_set_fd(ssl, client_socket_.get());
  auto server = std::async(std::launch::async, [&] {
    return shake_hands(
        Context(shop_->b).module().accept(server_socket_.get(), "the client", kKernel),
        server_socket_.get());
  });
  EXPECT_NE(SSL_connect(ssl), 1);
  EXPECT_EQ(server.get().error, "TLS with the client fails: unsupported protocol");
  SSL_free(ssl);
  SSL_CTX_free(context);
}

}  // namespace
}  // namespace godwit::tls
