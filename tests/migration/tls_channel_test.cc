// Moves' connections under TLS: the transports' suite, and peers that are not what they should be.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/uio.h>

#include <chrono>
#include <filesystem>
#include <future>
#include <optional>
#include <thread>

#include "migration/stream_door.h"
#include "migration/tls/module.h"
#include "migration/tls/tls.h"
#include "tests/migration/channel_suite.h"
#include "tests/migration/sockets.h"
#include "tests/migration/tcp_ends.h"
#include "tests/migration/tls/certificates.h"

namespace godwit::testing {
namespace {

using namespace std::chrono_literals;
using migration::ChannelError;
using migration::FrameHeader;
using migration::MessageKind;
using migration::Security;
using migration::StreamDoor;
using migration::Wire;
using Clock = std::chrono::steady_clock;
using ContextPtr = std::shared_ptr<const tls::Context>;

struct Shop {
  std::string folder = [] {
    std::string path = ::testing::TempDir() + "godwit_tls_channel_XXXXXX";
    EXPECT_NE(::mkdtemp(path.data()), nullptr);
    return path + "/";
  }();
  tls::TestCa ca{folder, "ca"};
  tls::TestCa foreign{folder, "foreign"};
  ContextPtr source = std::make_shared<const tls::Context>(ca.make("a", {.name = "a"}));
  ContextPtr destination =
      std::make_shared<const tls::Context>(ca.make("b", {.name = "b", .also = "IP:127.0.0.1"}));
  ContextPtr stranger = std::make_shared<const tls::Context>(showing());

  /// A certificate of another CA, which believes ours.
  tls::Files showing() {
    const tls::Files files = foreign.make("stranger", {.name = "a"});
    return {ca.certificate_file(), files.certificate, files.key};
  }
  ~Shop() { std::filesystem::remove_all(folder); }
};

const Shop& shop() {
  static const Shop one;
  return one;
}

Security from(const ContextPtr& context) { return {context, "127.0.0.1"}; }

Wires tls_wires() {
  auto [from_socket, to_socket] = tcp_pair();
  Wire source(std::move(from_socket));
  Wire destination(std::move(to_socket));
  destination.set_deadline(Clock::now() + 5s);
  auto accepted = std::async(std::launch::async, [&] {
    EXPECT_TRUE(destination.accept_tls(*shop().destination));
    destination.greet();
    destination.set_deadline(std::nullopt);
  });
  source.meet(from(shop().source), 5000ms);
  accepted.get();
  return {std::move(source), std::move(destination)};
}

std::unique_ptr<ChannelEnds> tls_ends(int further_streams,
                                      migration::Compression compression = {}) {
  std::vector<Wires> further;
  for (int i = 0; i < further_streams; ++i) further.push_back(tls_wires());
  return std::make_unique<TcpEnds>(tls_wires(), std::move(further), compression);
}

INSTANTIATE_TEST_SUITE_P(Transports, ChannelTest,
                         ::testing::Values(Transport{"tls", [] { return tls_ends(0); }},
                                           Transport{"tls_by_three", [] { return tls_ends(2); }},
                                           Transport{"tls_compressed",
                                                     [] { return tls_ends(1, {true}); }}),
                         [](const auto& one) { return one.param.name; });

/// What a thing that must fail says.
template <typename Call>
std::string error_of(Call call) {
  try {
    call();
  } catch (const ChannelError& error) {
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    return error.what();
  }
  return "nothing";
}

class TlsWireTest : public ::testing::Test {
 protected:
  TlsWireTest() {
    auto [from_socket, to_socket] = tcp_pair();
    source_.emplace(std::move(from_socket));
    destination_.emplace(std::move(to_socket));
  }
  /// What the two ends say, each with its part; both well within the time that anything may take.
  template <typename Source, typename Destination>
  std::pair<std::string, std::string> errors(Source source, Destination destination) {
    const auto start = Clock::now();
    auto there = std::async(std::launch::async, [&] {
      const std::string said = error_of(destination);
      destination_.reset();
      return said;
    });
    const std::string here = error_of(source);
    source_.reset();
    const std::string other = there.get();
    EXPECT_LT(Clock::now() - start, 4s);
    return {here, other};
  }

  std::optional<Wire> source_;
  std::optional<Wire> destination_;
};

TEST_F(TlsWireTest, BothEndsSayWhoEncrypts) {
  EXPECT_STREQ(source_->tls(), "none");
  const Wires wires = tls_wires();
  EXPECT_STREQ(wires.first.tls(), wires.second.tls());
  EXPECT_STRNE(wires.first.tls(), "none");
}

TEST_F(TlsWireTest, ASourceWithoutTlsIsTold) {
  EXPECT_FALSE([&] {
    auto greeted = std::async(std::launch::async, [&] { source_->meet({}, 5000ms); });
    const bool secure = destination_->accept_tls(*shop().destination);
    destination_->greet();
    greeted.get();
    return secure;
  }());
}

TEST_F(TlsWireTest, ADestinationWithoutTlsIsNoticedAtBothEnds) {
  const auto [here, there] =
      errors([&] { source_->meet(from(shop().source), 5000ms); }, [&] { destination_->greet(); });
  EXPECT_EQ(here,
            "the destination does not speak TLS: start godwit receive there with --tls-cert, "
            "--tls-key and --tls-ca");
  EXPECT_EQ(there,
            "the source uses TLS, and this end has no certificate: start godwit receive with "
            "--tls-cert, --tls-key and --tls-ca");
}

TEST_F(TlsWireTest, AForeignCertificateIsRefusedAndTheSourceHearsIt) {
  const auto [here, there] = errors(
      [&] {
        source_->meet(from(shop().stranger), 5000ms);
        source_->receive_header(5000);
      },
      [&] { destination_->accept_tls(*shop().destination); });
  EXPECT_EQ(here, "the destination refuses our certificate: its CA did not sign it");
  EXPECT_EQ(there,
            "the certificate of the source is refused: unable to get local issuer certificate");
}

TEST_F(TlsWireTest, AnotherHostThanWasMeantIsRefused) {
  const auto [here, there] = errors(
      [&] {
        source_->meet({shop().source, "10.0.0.9"}, 5000ms);
      },
      [&] {
        destination_->accept_tls(*shop().destination);
        destination_->greet();
      });
  EXPECT_EQ(here,
            "the destination is refused: its certificate says \"b\", not \"10.0.0.9\": "
            "--tls-name says whose is good");
  EXPECT_EQ(there, "the peer closed the connection");
}

TEST_F(TlsWireTest, APeerThatStallsInTheHandshakeIsGivenUp) {
  // Not a word, or the beginning of a handshake.
  for (const std::size_t words : {0u, 6u}) {
    auto [from_socket, to_socket] = tcp_pair();
    Wire source(std::move(from_socket));
    ASSERT_EQ(::send(to_socket.get(), "\x16\x03\x03\x02\x00\x02", words, 0),
              static_cast<ssize_t>(words));
    EXPECT_EQ(error_of([&] { source.meet(from(shop().source), 300ms); }),
              "the destination does not finish the TLS handshake in time");
  }
  destination_->set_deadline(Clock::now() + 300ms);
  EXPECT_EQ(error_of([&] { destination_->accept_tls(*shop().destination); }),
            "timed out waiting for the peer");
  ASSERT_EQ(::send(source_->fd(), "\x16\x03\x01\x02\x00\x01", 6, 0), 6);
  destination_->set_deadline(Clock::now() + 300ms);
  EXPECT_EQ(error_of([&] { destination_->accept_tls(*shop().destination); }),
            "the source does not finish the TLS handshake in time");
}

TEST_F(TlsWireTest, AHandshakeCanBeInterrupted) {
  for (const bool begun : {false, true}) {
    auto [from_socket, to_socket] = tcp_pair();
    Wire source(std::move(from_socket));
    const std::string begin("\x16\x03\x03\x02\x00\x02", begun ? 6 : 0);
    ASSERT_EQ(::send(to_socket.get(), begin.data(), begin.size(), 0),
              static_cast<ssize_t>(begin.size()));
    auto met = std::async(std::launch::async, [&] {
      return error_of([&] { source.meet(from(shop().source), 20000ms); });
    });
    std::this_thread::sleep_for(50ms);
    const auto start = Clock::now();
    source.interrupt();
    EXPECT_EQ(met.get(), "interrupted");
    EXPECT_LT(Clock::now() - start, 1s);
  }
}

TEST_F(TlsWireTest, GarbageInTheHandshakeIsAnError) {
  std::string garbage("\x16\x03\x03\x02\x00", 5);
  garbage += std::string(600, 'x');
  ASSERT_GT(::send(source_->fd(), garbage.data(), garbage.size(), 0), 0);
  EXPECT_NE(error_of([&] { destination_->accept_tls(*shop().destination); }), "nothing");
}

/// One end of a TLS connection as a bare stream, so that a test can say where a record begins.
struct Bare {
  Bare() {
    auto [from_socket, to_socket] = tcp_pair();
    socket = std::move(from_socket);
    wire.emplace(std::move(to_socket));
    auto accepted =
        std::async(std::launch::async, [&] { EXPECT_TRUE(wire->accept_tls(*shop().destination)); });
    const auto handshake = shop().source->module().connect(socket.get(), "", "the destination",
                                                           tls::Records::kByKernel);
    while (const short events = handshake->step()) {
      pollfd poll{socket.get(), events, 0};
      ::poll(&poll, 1, 5000);
    }
    stream = handshake->finish();
    accepted.get();
  }
  void say(const std::string& bytes) const {
    const iovec part{const_cast<char*>(bytes.data()), bytes.size()};
    ASSERT_EQ(stream->send({&part, 1}), static_cast<ssize_t>(bytes.size()));
  }
  void await_bytes() const {
    pollfd poll{wire->fd(), POLLIN, 0};
    ::poll(&poll, 1, 5000);
  }

  sys::UniqueFd socket;
  std::optional<Wire> wire;
  std::unique_ptr<tls::Stream> stream;
};

std::string frame(MessageKind kind, const std::string& payload = {}) {
  const FrameHeader header{.kind = kind, .length = payload.size()};
  return std::string(reinterpret_cast<const char*>(&header), sizeof header) + payload;
}

TEST(TlsWireFrames, SeveralInOneRecordAreTakenOneByOne) {
  Bare peer;
  Wire& wire = *peer.wire;
  EXPECT_FALSE(wire.frame_waiting());
  EXPECT_FALSE(wire.wait_for(wire.fd(), 20));
  peer.say(frame(MessageKind::kPing) + frame(MessageKind::kState, "one") +
           frame(MessageKind::kPing) + frame(MessageKind::kState, "three") +
           frame(MessageKind::kReady));
  peer.await_bytes();
  EXPECT_TRUE(wire.frame_waiting());
  EXPECT_EQ(wire.receive_payload(wire.receive_header(1000)).size(), 3u);
  // All has come: poll() may have nothing more to tell.
  EXPECT_TRUE(wire.readable());
  EXPECT_TRUE(wire.wait_for(wire.fd(), 1000));
  EXPECT_TRUE(wire.frame_waiting());
  EXPECT_EQ(wire.receive_payload(wire.receive_header(1000)).size(), 5u);
  EXPECT_TRUE(wire.wait_for(wire.fd(), 1000));
  EXPECT_EQ(wire.receive_header(1000).kind, MessageKind::kReady);
  EXPECT_FALSE(wire.frame_waiting());
  EXPECT_FALSE(wire.wait_for(wire.fd(), 20));
}

TEST(TlsWireFrames, AReasonToGiveUpIsHeeded) {
  Bare peer;
  peer.say(frame(MessageKind::kPing) +
           frame(MessageKind::kRefuse, migration::encode_reason("no room")));
  peer.await_bytes();
  EXPECT_EQ(error_of([&] { peer.wire->require_peer(); }), "the destination refused: no room");
}

TEST(TlsWireFrames, APartOfARecordHoldsUpNobodyForLong) {
  Bare peer;
  // What the kernel or OpenSSL would send, cut in the middle: by a proxy of bytes.
  const std::string part("\x17\x03\x03\x40\x00 the rest never comes", 25);
  peer.stream.reset();
  sys::UniqueFd plain = std::move(peer.socket);
  // Under the kernel's TLS these bytes are data of a record: then it is the framing that is broken.
  ASSERT_GT(::send(plain.get(), part.data(), part.size(), MSG_NOSIGNAL), 0);
  peer.await_bytes();
  const auto start = Clock::now();
  peer.wire->set_deadline(start + 300ms);
  EXPECT_NE(error_of([&] { peer.wire->receive_header(-1); }), "nothing");
  EXPECT_LT(Clock::now() - start, 2s);
}

TEST(TlsWireFrames, AnEndIsNoticed) {
  Bare peer;
  peer.say(frame(MessageKind::kState, "last words"));
  peer.socket.reset();
  peer.await_bytes();
  EXPECT_TRUE(peer.wire->frame_waiting());
  EXPECT_EQ(peer.wire->receive_payload(peer.wire->receive_header(1000)).size(), 10u);
  EXPECT_EQ(error_of([&] { peer.wire->frame_waiting(); }), "the peer closed the connection");
}

class TlsDoorTest : public ::testing::Test {
 protected:
  TlsDoorTest() : wires_(tls_wires()) {
    auto [listener, name] = listen_on();
    listener_ = std::move(listener);
    name_ = name;
    door_.emplace(listener_.get(), kToken, 2, shop().destination);
  }
  std::future<std::size_t> take(std::size_t count) {
    return std::async(std::launch::async, [this, count] {
      door_->await_frame(wires_.second, 5000);
      wires_.second.receive_header(5000);
      streams_ = door_->take(wires_.second, count);
      return streams_.size();
    });
  }
  void begin() { wires_.first.send({.kind = MessageKind::kReady}); }

  const std::string kToken = "0123456789abcdef0123456789abcdef";
  Wires wires_;
  sys::UniqueFd listener_;
  std::string name_;
  std::optional<StreamDoor> door_;
  std::vector<Wire> streams_;
};

TEST_F(TlsDoorTest, StreamsCarryFramesAtOnce) {
  auto taken = take(2);
  auto mine = migration::join_streams(name_, kToken, 2, from(shop().source));
  ASSERT_EQ(mine.size(), 2u);
  for (Wire& stream : mine) {
    EXPECT_STREQ(stream.tls(), wires_.first.tls());
    stream.send({.kind = MessageKind::kMark, .marker = 7});  // perhaps read along with its Join
  }
  begin();
  ASSERT_EQ(taken.get(), 2u);
  for (Wire& stream : streams_) EXPECT_EQ(stream.receive_header(5000).marker, 7u);
}

TEST_F(TlsDoorTest, StrangersHoldUpNobody) {
  auto taken = take(2);
  std::vector<sys::UniqueFd> strangers;
  const auto stranger = [&](const std::string& says) {
    strangers.push_back(testing::connect_to(listener_));
    (void)::send(strangers.back().get(), says.data(), says.size(), MSG_NOSIGNAL);
  };
  stranger("");
  stranger(std::string("\x16\x03\x01\x02\x00\x01", 6));
  stranger(std::string(200, 'G'));
  // Without TLS, or with another's certificate, the right token is of no use.
  EXPECT_EQ(migration::join_streams(name_, kToken, 1, {}).size(), 0u);
  auto foreign = migration::join_streams(name_, kToken, 1, from(shop().stranger));
  auto wrong = migration::join_streams(name_, std::string(32, 'f'), 1, from(shop().source));
  auto mine = migration::join_streams(name_, kToken, 2, from(shop().source));
  EXPECT_EQ(mine.size(), 2u);
  begin();
  ASSERT_EQ(taken.get(), 2u);
  for (Wire& stream : mine) stream.send({.kind = MessageKind::kMark, .marker = 9});
  for (Wire& stream : streams_) EXPECT_EQ(stream.receive_header(5000).marker, 9u);
}

TEST_F(TlsDoorTest, AMoveThatIsGivenUpOpensNoMore) {
  auto taken = take(0);
  const sys::EventFd stop;
  stop.signal();
  EXPECT_EQ(migration::join_streams(name_, kToken, 2, from(shop().source), stop.fd()).size(), 0u);
  begin();
  taken.get();
}

}  // namespace
}  // namespace godwit::testing
