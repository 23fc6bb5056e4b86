// What a source's rkeys are good for: guest RAM that was registered for this move, until the
// destination is ready, or the move has ended. A source of the test's own making goes on to write
// when it may not, with the very keys that it was given.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <future>
#include <thread>

#include "migration/destination.h"
#include "migration/rdma_endpoint.h"
#include "tests/migration/sockets.h"

namespace godwit::migration {
namespace {

using memory::kPageSize;
using memory::PageRange;
using namespace std::chrono_literals;

std::string address() {
  const char* address = std::getenv("GODWIT_RDMA_ADDRESS");
  if (address == nullptr)
    throw std::runtime_error("GODWIT_RDMA_ADDRESS is not set: run this by ci/runner");
  return address;
}

constexpr std::uint64_t kRam = 32 << 20;
constexpr PageRange kSpare{kRam / kPageSize - 8,
                           4};  // no guest here uses it, nor what is around it
constexpr std::byte kLawful{0x11};
constexpr std::byte kForged{0x66};

/// A destination, in a thread of its own.
class Victim {
 public:
  Victim() {
    auto [listener, name] = testing::listen_on(address());
    listener_ = std::move(listener);
    to_ = name;
    running_ = std::async(std::launch::async, [this] {
      Destination destination(testing::accept_from(listener_),
                              {.console = {}, .inspect = [this](vmm::Machine& machine) {
                                 arrived_.set_value(&machine);
                               }});
      return destination.run();
    });
  }

  const std::string& to() const { return to_; }
  /// Its RAM, once all of it has come; as long as the machine is there.
  memory::GuestMemory& ram() {
    if (machine_ == nullptr) machine_ = arrived_.get_future().get();
    return machine_->memory();
  }
  /// The guest runs, or not: then why.
  std::unique_ptr<vmm::Machine> result() { return running_.get(); }

 private:
  sys::UniqueFd listener_;
  std::string to_;
  std::promise<vmm::Machine*> arrived_;
  vmm::Machine* machine_ = nullptr;
  std::future<std::unique_ptr<vmm::Machine>> running_;
};

/// A source up to Begin.
class Intruder {
 public:
  Intruder(vmm::Machine& guest, const std::string& to)
      : guest_(guest),
        wire_(Wire::connect(to, 5s)),
        endpoint_(rdma_port_of(wire_.fd()), PeerMay::kNothing) {
    wire_.greet();
    Hello hello;
    hello.machine = guest.config();
    hello.requirements = guest.requirements();
    hello.rdma = {endpoint_.address()};
    wire_.send_json(MessageKind::kHello, encode(hello));
    const Accept accept = decode_accept(expect(MessageKind::kAccept));
    if (accept.rdma.size() != 1) throw std::runtime_error(accept.rdma_reason);
    endpoint_.connect(accept.rdma.front());
    wire_.send_json(MessageKind::kBegin, encode(Begin{"rdma", 1, {0}}));
    ram_ =
        register_memory(*endpoint_.port().device,
                        guest.memory().page_bytes({0, guest.memory().pages()}), PeerMay::kNothing);
  }

  Wire& wire() { return wire_; }
  std::vector<std::byte> expect(MessageKind kind) {
    const FrameHeader header = wire_.receive_header(20'000);
    auto payload = wire_.receive_payload(header);
    if (header.kind != kind) throw std::runtime_error(kind_name(header.kind));
    return payload;
  }

  RemoteExtent extent(const PageRange& range) {
    wire_.send({.kind = MessageKind::kRegister}, std::as_bytes(std::span(&range, 1)));
    const auto payload = expect(MessageKind::kRegistered);
    RemoteExtent extent;
    if (payload.size() != sizeof extent) throw std::runtime_error("not one extent");
    std::memcpy(&extent, payload.data(), sizeof extent);
    return extent;
  }

  /// Writes `bytes` of our RAM's `range` filled with `what` to any address, by any key. Whether
  /// it was taken.
  bool write(std::byte what, const PageRange& range, std::uint64_t bytes, std::uint64_t to,
             std::uint32_t key) {
    const auto from = guest_.memory().page_bytes(range);
    std::memset(from.data(), static_cast<int>(what), from.size());
    return post(from.first(bytes), to, key);
  }
  /// As it is.
  bool copy(const PageRange& range, const RemoteExtent& to) {
    return post(guest_.memory().page_bytes(range), to.address, to.rkey);
  }

  /// Behind all that was written.
  void send_state(std::span<const std::byte> state) {
    ibv_send_wr request{};
    request.opcode = IBV_WR_SEND;
    ASSERT_TRUE(complete(request));
    wire_.send({.kind = MessageKind::kState, .marker = 1}, state);
  }

 private:
  bool post(std::span<std::byte> from, std::uint64_t to, std::uint32_t key) {
    ibv_sge piece{reinterpret_cast<std::uint64_t>(from.data()),
                  static_cast<std::uint32_t>(from.size()), ram_->lkey};
    ibv_send_wr request{};
    request.sg_list = &piece;
    request.num_sge = 1;
    request.opcode = IBV_WR_RDMA_WRITE;
    request.wr.rdma.remote_addr = to;
    request.wr.rdma.rkey = key;
    return complete(request);
  }
  bool complete(ibv_send_wr& request) {
    request.wr_id = 1;
    request.send_flags = IBV_SEND_SIGNALED;
    try {
      endpoint_.post_send(request);
      const auto until = std::chrono::steady_clock::now() + 60s;
      while (std::chrono::steady_clock::now() < until) {
        if (endpoint_.reap_sends() > 0) return true;
        std::this_thread::sleep_for(1ms);
      }
    } catch (const RdmaError&) {
      return false;
    }
    throw std::runtime_error("neither taken nor refused");
  }

  vmm::Machine& guest_;
  Wire wire_;
  RdmaEndpoint endpoint_;
  MemoryRegion ram_;
};

vmm::MachineConfig pattern_guest() {
  vmm::MachineConfig config;
  config.name = "pattern";
  config.memory_bytes = kRam;
  config.kernel = GODWIT_GUESTS "/pattern.elf";
  config.command_line = "mib=4";
  return config;
}

class RdmaKeysTest : public ::testing::Test {
 protected:
  RdmaKeysTest() : guest_(pattern_guest(), {}) {
    guest_.boot();
    guest_.resume();
    std::this_thread::sleep_for(300ms);
    guest_.pause();
    state_ = guest_.save();
  }

  /// All that a move would have sent, and the spare pages; up to Ready.
  RemoteExtent hand_over(Intruder& intruder) {
    for (const PageRange& range : guest_.memory().populated({0, kSpare.first - 8})) {
      EXPECT_TRUE(intruder.copy(range, intruder.extent(range)));
    }
    const RemoteExtent spare = intruder.extent(kSpare);
    EXPECT_TRUE(intruder.write(kLawful, kSpare, kSpare.bytes(), spare.address, spare.rkey));
    intruder.send_state(state_);
    intruder.expect(MessageKind::kReady);
    return spare;
  }

  static void expect_only(memory::GuestMemory& ram, const PageRange& range, std::byte what) {
    for (const std::byte byte : ram.page_bytes(range)) ASSERT_EQ(byte, what);
  }

  vmm::Machine guest_;
  std::vector<std::byte> state_;
};

TEST_F(RdmaKeysTest, NothingLandsOnceTheDestinationIsReadyNorOnceItsGuestRuns) {
  Victim victim;
  Intruder intruder(guest_, victim.to());
  const RemoteExtent spare = hand_over(intruder);
  EXPECT_FALSE(intruder.write(kForged, kSpare, kSpare.bytes(), spare.address, spare.rkey));
  expect_only(victim.ram(), kSpare, kLawful);

  intruder.wire().send({.kind = MessageKind::kCommit});
  intruder.expect(MessageKind::kRunning);
  const auto machine = victim.result();
  ASSERT_NE(machine, nullptr);
  EXPECT_TRUE(machine->running());
  EXPECT_FALSE(intruder.write(kForged, kSpare, kSpare.bytes(), spare.address, spare.rkey));
  expect_only(victim.ram(), kSpare, kLawful);
}

TEST_F(RdmaKeysTest, NothingLandsOnceTheMoveIsGivenUp) {
  Victim victim;
  Intruder intruder(guest_, victim.to());
  const RemoteExtent spare = intruder.extent(kSpare);
  EXPECT_TRUE(intruder.write(kLawful, kSpare, kSpare.bytes(), spare.address, spare.rkey));
  intruder.wire().send_json(MessageKind::kAbort, encode_reason("never mind"));
  EXPECT_THROW(victim.result(), PeerGaveUp);
  EXPECT_FALSE(intruder.write(kForged, kSpare, kSpare.bytes(), spare.address, spare.rkey));
}

/// At the edge of what was registered: `bytes` from there on, relative to the extent.
class RdmaKeysEdgeTest : public RdmaKeysTest,
                         public ::testing::WithParamInterface<std::pair<std::int64_t, int>> {};

TEST_P(RdmaKeysEdgeTest, AKeyReachesNotAByteFurtherThanItsExtent) {
  const auto [offset, bytes] = GetParam();
  Victim victim;
  Intruder intruder(guest_, victim.to());
  const RemoteExtent spare = intruder.extent(kSpare);
  EXPECT_TRUE(intruder.write(kLawful, kSpare, kSpare.bytes(), spare.address, spare.rkey));
  const std::uint64_t to = spare.address + static_cast<std::uint64_t>(offset);
  EXPECT_FALSE(intruder.write(kForged, kSpare, static_cast<std::uint64_t>(bytes), to, spare.rkey));
  // The rest by TCP, as of a source whose RDMA has failed: then we see what landed.
  intruder.wire().send_json(MessageKind::kBegin, encode(Begin{"tcp"}));
  intruder.wire().send({.kind = MessageKind::kState}, state_);
  intruder.expect(MessageKind::kReady);
  expect_only(victim.ram(), {kSpare.first - 4, 4}, std::byte{0});
  expect_only(victim.ram(), {kSpare.end(), 4}, std::byte{0});
  intruder.wire().send_json(MessageKind::kAbort, encode_reason("seen enough"));
  EXPECT_THROW(victim.result(), PeerGaveUp);
}

INSTANTIATE_TEST_SUITE_P(Edges, RdmaKeysEdgeTest,
                         ::testing::Values(std::pair{-8, 8}, std::pair{-4, 8},
                                           std::pair{4 * 4096 - 4, 8}, std::pair{4 * 4096, 8},
                                           std::pair{-4096, 4096}));

TEST_F(RdmaKeysTest, AKeyIsOfNoUseToAnotherMove) {
  Victim victim;
  Intruder intruder(guest_, victim.to());
  const RemoteExtent spare = intruder.extent(kSpare);
  EXPECT_TRUE(intruder.write(kLawful, kSpare, kSpare.bytes(), spare.address, spare.rkey));
  {
    Victim bystander;
    Intruder other(guest_, bystander.to());
    other.extent(kSpare);
    EXPECT_FALSE(other.write(kForged, kSpare, kSpare.bytes(), spare.address, spare.rkey));
    other.wire().send_json(MessageKind::kAbort, encode_reason("caught"));
    EXPECT_THROW(bystander.result(), std::exception);
  }
  intruder.send_state(state_);
  intruder.expect(MessageKind::kReady);
  expect_only(victim.ram(), kSpare, kLawful);
  intruder.wire().send_json(MessageKind::kAbort, encode_reason("seen enough"));
  EXPECT_THROW(victim.result(), PeerGaveUp);
}

}  // namespace
}  // namespace godwit::migration
