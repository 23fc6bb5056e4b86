// Virtio sockets: streams opened from both sides, credit, closing, a move, and what bad drivers and
// bad programs do.
#include "vmm/devices/virtio/vsock.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <filesystem>
#include <random>

#include "tests/vmm/devices/virtio/plain_driver.h"

namespace godwit::devices {
namespace {

constexpr std::uint32_t kCid = 42;
constexpr std::uint64_t kSend = 2 << 20, kEventBuffer = 3 << 20, kBuffers = 4 << 20;
constexpr std::uint32_t kBufferSize = 8192;
constexpr unsigned kReceive = 0, kTransmit = 1, kEvent = 2;

struct Packet {
  VsockHeader header;
  std::string data;
};

/// The device with its path, and the guest's driver.
struct VsockMachine : PlainWiring {
  explicit VsockMachine(std::string at)
      : path(std::move(at)),
        vsock(kCid, path),
        device(vsock, memory, vectors, doorbells, kBar),
        driver(device, memory, vsock.queue_sizes()) {}

  void bring_up(unsigned buffers = 64) {
    ASSERT_EQ(driver.bring_up(), 15);
    given = 0;
    taken = 0;
    give_buffers(buffers);
    driver.offer(kEvent, {{kEventBuffer, 8, true}});
  }
  void give_buffers(unsigned count) {
    for (; count > 0; --count, ++given) {
      const auto index = static_cast<std::uint16_t>(given % VirtioVsock::kQueueSize);
      driver.rings[kReceive].set_chain(index,
                                       {{kBuffers + kBufferSize * index, kBufferSize, true}});
      driver.rings[kReceive].offer(index);
    }
    driver.kick(kReceive);
  }
  /// The next packet for the guest, whose buffer goes back.
  std::optional<Packet> next(int milliseconds = 5000) {
    DriverRing& ring = driver.rings[kReceive];
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(milliseconds);
    while (ring.used_index() == taken) {
      if (std::chrono::steady_clock::now() > end) return std::nullopt;
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    const std::uint64_t at = kBuffers + kBufferSize * ring.used_id(taken);
    Packet packet{*memory.load<VsockHeader>(at), {}};
    packet.data.resize(packet.header.length);
    memory.read(at + sizeof(VsockHeader), std::as_writable_bytes(std::span(packet.data)));
    EXPECT_EQ(ring.used_length(taken), sizeof(VsockHeader) + packet.header.length);
    ++taken;
    give_buffers(1);
    return packet;
  }
  std::uint16_t next_operation() {
    const auto packet = next();
    return packet ? packet->header.operation : std::uint16_t{0};
  }
  void send(VsockHeader header, const std::string& data = {}) {
    header.length = static_cast<std::uint32_t>(data.size());
    memory.store(kSend, header);
    memory.write(kSend + sizeof header, std::as_bytes(std::span(data)));
    ASSERT_TRUE(
        driver.ask(kTransmit, {{kSend, static_cast<std::uint32_t>(sizeof header + data.size())}}));
  }
  VsockHeader from_guest(std::uint32_t guest_port, std::uint32_t host_port,
                         std::uint16_t operation) const {
    return {.source_cid = kCid,
            .destination_cid = kVsockHost,
            .source_port = guest_port,
            .destination_port = host_port,
            .operation = operation,
            .buffer = 16384,
            .forwarded = forwarded};
  }

  std::string path;
  VirtioVsock vsock;
  VirtioPci device;
  PlainDriver driver;
  unsigned given = 0;
  std::uint16_t taken = 0;
  std::uint32_t forwarded = 0;  // what the guest says it has consumed
};

sys::UniqueFd program(const std::string& path, bool listens) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  sys::UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const auto* at = reinterpret_cast<const sockaddr*>(&address);
  const int result = listens ? ::bind(fd.get(), at, sizeof address) + ::listen(fd.get(), 8)
                             : ::connect(fd.get(), at, sizeof address);
  EXPECT_EQ(result, 0) << path;
  const timeval patience{10, 0};
  ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  return fd;
}

void say(const sys::UniqueFd& fd, const std::string& text) {
  ASSERT_EQ(::send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL),
            static_cast<ssize_t>(text.size()));
}

/// What comes, up to `size` bytes; less at the end of the stream.
std::string hear(const sys::UniqueFd& fd, std::size_t size) {
  std::string text(size, '\0');
  const ssize_t got = ::recv(fd.get(), text.data(), size, MSG_WAITALL);
  text.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
  return text;
}

class VirtioVsockTest : public testing::Test {
 protected:
  VirtioVsockTest() { std::filesystem::create_directories(dir_); }
  ~VirtioVsockTest() override { std::filesystem::remove_all(dir_); }

  /// A program of the host connected to the guest's port 1234; its own port.
  std::uint32_t open_from_host(sys::UniqueFd& fd) {
    fd = program(machine_.path, false);
    say(fd, "CONNECT 1234\n");
    const auto request = machine_.next();
    EXPECT_TRUE(request && request->header.operation == kVsockRequest);
    const std::uint32_t port = request ? request->header.source_port : 0;
    EXPECT_EQ(request->header.destination_port, 1234u);
    EXPECT_EQ(request->header.source_cid, 2u);
    EXPECT_EQ(request->header.destination_cid, kCid);
    machine_.send(machine_.from_guest(1234, port, kVsockResponse));
    const std::string answer = "OK " + std::to_string(port) + "\n";
    EXPECT_EQ(hear(fd, answer.size()), answer);
    return port;
  }

  std::string dir_ = testing::TempDir() + "godwit_vsock_" + std::to_string(::getpid());
  VsockMachine machine_{(std::filesystem::create_directories(dir_), dir_ + "/v.sock")};
};

TEST_F(VirtioVsockTest, ShowsTheGuestItsCid) {
  EXPECT_EQ(machine_.device.read_config(2, 2), 0x1053u);
  EXPECT_EQ(machine_.driver.config<std::uint64_t>(0), kCid);
  struct stat info {};
  ASSERT_EQ(::stat(machine_.path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST_F(VirtioVsockTest, AProgramOnTheHostReachesTheGuest) {
  machine_.bring_up();
  sys::UniqueFd fd;
  const std::uint32_t port = open_from_host(fd);
  say(fd, "hello guest");
  const auto data = machine_.next();
  ASSERT_TRUE(data);
  EXPECT_EQ(data->header.operation, kVsockData);
  EXPECT_EQ(data->data, "hello guest");
  machine_.send(machine_.from_guest(1234, port, kVsockData), "hello host");
  EXPECT_EQ(hear(fd, 10), "hello host");
}

TEST_F(VirtioVsockTest, TheGuestReachesAProgramOnTheHost) {
  machine_.bring_up();
  const sys::UniqueFd listener = program(machine_.path + "_5000", true);
  machine_.send(machine_.from_guest(77, 5000, kVsockRequest));
  const auto response = machine_.next();
  ASSERT_TRUE(response);
  EXPECT_EQ(response->header.operation, kVsockResponse);
  EXPECT_EQ(response->header.destination_port, 77u);
  EXPECT_EQ(response->header.buffer, VsockConnection::kBuffer);
  const sys::UniqueFd fd(::accept(listener.get(), nullptr, nullptr));
  machine_.send(machine_.from_guest(77, 5000, kVsockData), "ping");
  EXPECT_EQ(hear(fd, 4), "ping");
  say(fd, "pong");
  EXPECT_EQ(machine_.next()->data, "pong");
}

TEST_F(VirtioVsockTest, WhereNobodyListensTheGuestIsReset) {
  machine_.bring_up();
  machine_.send(machine_.from_guest(77, 5001, kVsockRequest));
  EXPECT_EQ(machine_.next_operation(), kVsockReset);
  machine_.send(machine_.from_guest(78, 9, kVsockData), "to nobody");
  EXPECT_EQ(machine_.next_operation(), kVsockReset);
  machine_.send(machine_.from_guest(78, 9, kVsockReset));  // not answered
  auto elsewhere = machine_.from_guest(78, 9, kVsockRequest);
  elsewhere.destination_cid = 3;
  machine_.send(elsewhere);
  EXPECT_FALSE(machine_.next(100));
}

TEST_F(VirtioVsockTest, AGuestThatDoesNotTakeTheConnectionClosesIt) {
  machine_.bring_up();
  const sys::UniqueFd fd = program(machine_.path, false);
  say(fd, "CONNECT 1234\n");
  const auto request = machine_.next();
  ASSERT_TRUE(request);
  machine_.send(machine_.from_guest(1234, request->header.source_port, kVsockReset));
  EXPECT_EQ(hear(fd, 1), "");
}

TEST_F(VirtioVsockTest, BadGreetingsAreTurnedAway) {
  machine_.bring_up();
  for (const char* text : {"HELLO\n", "CONNECT \n", "CONNECT x\n", "CONNECT 99999999999\n",
                           "CONNECT -1\n", "CONNECT 1 2\n", "CONNECT 12345678901234567890"}) {
    const sys::UniqueFd fd = program(machine_.path, false);
    say(fd, text);
    EXPECT_EQ(hear(fd, 1), "") << text;
  }
  EXPECT_FALSE(machine_.next(50));
}

TEST_F(VirtioVsockTest, NoMoreIsSentThanTheGuestHasRoomFor) {
  machine_.bring_up();
  sys::UniqueFd fd;
  const std::uint32_t port = open_from_host(fd);
  const std::string much(100000, 'm');
  std::thread writer([&] { say(fd, much); });
  std::string got;
  while (const auto packet = machine_.next(300)) got += packet->data;
  EXPECT_EQ(got.size(), 16384u);
  while (got.size() < much.size()) {
    machine_.forwarded = static_cast<std::uint32_t>(got.size());
    machine_.send(machine_.from_guest(1234, port, kVsockCreditUpdate));
    while (const auto packet = machine_.next(100)) got += packet->data;
    ASSERT_LE(got.size() - machine_.forwarded, 16384u);
  }
  writer.join();
  EXPECT_EQ(got, much);
}

TEST_F(VirtioVsockTest, TheGuestIsToldOfItsCreditAndResetWhenItIgnoresIt) {
  machine_.bring_up();
  sys::UniqueFd fd;
  const std::uint32_t port = open_from_host(fd);
  machine_.send(machine_.from_guest(1234, port, kVsockCreditRequest));
  auto update = machine_.next();
  ASSERT_TRUE(update);
  EXPECT_EQ(update->header.operation, kVsockCreditUpdate);
  EXPECT_EQ(update->header.forwarded, 0u);
  const std::string chunk(32 << 10, 'c');
  machine_.send(machine_.from_guest(1234, port, kVsockData), chunk);
  update = machine_.next();  // the program's socket took it
  ASSERT_TRUE(update);
  EXPECT_EQ(update->header.forwarded, chunk.size());
  // Nobody reads: the socket fills up, then our buffer, then the guest has broken its credit.
  bool reset = false;
  for (int i = 0; i < 64 && !reset; ++i) {
    machine_.send(machine_.from_guest(1234, port, kVsockData), chunk);
    while (const auto packet = machine_.next(10)) {
      reset = reset || packet->header.operation == kVsockReset;
    }
  }
  EXPECT_TRUE(reset);
}

TEST_F(VirtioVsockTest, ClosingPassesInBothDirections) {
  machine_.bring_up();
  sys::UniqueFd fd;
  std::uint32_t port = open_from_host(fd);
  say(fd, "last words");
  ::shutdown(fd.get(), SHUT_WR);
  EXPECT_EQ(machine_.next()->data, "last words");
  auto shut = machine_.next();
  ASSERT_TRUE(shut);
  EXPECT_EQ(shut->header.operation, kVsockShutdown);
  EXPECT_EQ(shut->header.flags, kVsockNoSend);
  machine_.send(machine_.from_guest(1234, port, kVsockData), "and mine");
  auto bye = machine_.from_guest(1234, port, kVsockShutdown);
  bye.flags = kVsockNoSend | kVsockNoReceive;
  machine_.send(bye);
  EXPECT_EQ(hear(fd, 100), "and mine");  // and the end
  EXPECT_EQ(machine_.next_operation(), kVsockReset);

  port = open_from_host(fd);
  fd.reset();
  shut = machine_.next();
  ASSERT_TRUE(shut);
  EXPECT_EQ(shut->header.operation, kVsockShutdown);
  EXPECT_EQ(shut->header.flags, kVsockNoSend | kVsockNoReceive);
  machine_.send(machine_.from_guest(1234, port, kVsockReset));
  EXPECT_FALSE(machine_.next(50));
}

TEST_F(VirtioVsockTest, APauseKeepsConnectionsAndAMoveResetsThem) {
  machine_.bring_up();
  sys::UniqueFd fd;
  const std::uint32_t port = open_from_host(fd);
  machine_.device.quiesce();
  say(fd, "meanwhile");
  EXPECT_FALSE(machine_.next(50));
  machine_.device.resume();
  EXPECT_EQ(machine_.next()->data, "meanwhile");
  EXPECT_EQ(machine_.driver.rings[kEvent].used_index(), 0);

  VsockMachine there(dir_ + "/there.sock");
  move_plain(there, there.device, machine_, machine_.device);
  there.driver.rings[kTransmit].set_available_index(
      machine_.driver.rings[kTransmit].next_available());
  there.driver.rings[kReceive].set_available_index(
      machine_.driver.rings[kReceive].next_available());
  there.given = machine_.given;
  there.taken = machine_.taken;
  EXPECT_TRUE(eventually([&] { return there.driver.rings[kEvent].used_index() == 1; }));
  EXPECT_EQ(there.memory.load<std::uint32_t>(kEventBuffer), 0u);
  there.send(there.from_guest(1234, port, kVsockData), "is anybody there?");
  EXPECT_EQ(there.next_operation(), kVsockReset);
  const sys::UniqueFd again = program(there.path, false);
  say(again, "CONNECT 1234\n");
  EXPECT_EQ(there.next_operation(), kVsockRequest);
}

TEST_F(VirtioVsockTest, ConnectionsAreBounded) {
  machine_.bring_up();
  const sys::UniqueFd listener = program(machine_.path + "_5000", true);
  std::vector<sys::UniqueFd> accepted;
  for (std::uint32_t i = 0; i < VirtioVsock::kMaxConnections + 2; ++i) {
    machine_.send(machine_.from_guest(1000 + i, 5000, kVsockRequest));
    const bool full = i >= VirtioVsock::kMaxConnections;
    EXPECT_EQ(machine_.next_operation(), full ? kVsockReset : kVsockResponse) << i;
    if (!full) accepted.emplace_back(::accept(listener.get(), nullptr, nullptr));
  }
  machine_.send(machine_.from_guest(1000, 5000, kVsockReset));
  machine_.send(machine_.from_guest(5, 5000, kVsockRequest));
  EXPECT_EQ(machine_.next_operation(), kVsockResponse);
}

TEST_F(VirtioVsockTest, AGuestWithoutBuffersIsWaitedFor) {
  machine_.bring_up(0);
  const sys::UniqueFd fd = program(machine_.path, false);
  say(fd, "CONNECT 1234\n");
  EXPECT_FALSE(machine_.next(50));
  machine_.give_buffers(4);
  EXPECT_EQ(machine_.next_operation(), kVsockRequest);
}

TEST_F(VirtioVsockTest, AGuestThatTakesNoResetsIsHeldUpAndThenServed) {
  machine_.bring_up(0);
  const auto count = static_cast<unsigned>(VirtioVsock::kMaxResets) + 40;
  DriverRing& ring = machine_.driver.rings[kTransmit];
  machine_.memory.store(kSend, machine_.from_guest(78, 9, kVsockData));
  unsigned sent = 0;
  while (sent < count && sent - ring.used_index() < ring.size()) {
    machine_.driver.offer(kTransmit, {{kSend, 44}}, static_cast<std::uint16_t>(sent % 128));
    ++sent;
    eventually([&] { return ring.used_index() == std::min<std::size_t>(sent, 128); });
  }
  EXPECT_EQ(ring.used_index(), VirtioVsock::kMaxResets);
  machine_.give_buffers(64);
  for (unsigned i = 0; i < sent; ++i) ASSERT_EQ(machine_.next_operation(), kVsockReset) << i;
  EXPECT_EQ(ring.used_index(), sent);
}

TEST_F(VirtioVsockTest, MalformedChainsBreakTheDeviceUntilItIsReset) {
  const std::vector<std::pair<unsigned, std::vector<Buffer>>> bad = {
      {kTransmit, {{kSend, 43}}},          // no header
      {kTransmit, {{kSend, 44, true}}},    // wrong direction
      {kTransmit, {{kSend, 44 + 65537}}},  // too much
      {kTransmit, {{~0ULL - 100, 44}}},    // outside RAM
  };
  for (const auto& [queue, chain] : bad) {
    machine_.bring_up();
    machine_.driver.offer(queue, chain);
    EXPECT_TRUE(machine_.driver.breaks());
  }
  machine_.bring_up();
  auto header = machine_.from_guest(1, 2, kVsockData);
  header.length = 100;  // but nothing follows
  machine_.memory.store(kSend, header);
  machine_.driver.offer(kTransmit, {{kSend, 44}});
  EXPECT_TRUE(machine_.driver.breaks());
  machine_.bring_up(0);
  machine_.driver.offer(kReceive, {{kBuffers, 20, true}});  // too small for a header
  const sys::UniqueFd fd = program(machine_.path, false);
  say(fd, "CONNECT 1234\n");
  EXPECT_TRUE(machine_.driver.breaks());
  machine_.bring_up();
  machine_.send(machine_.from_guest(77, 5001, kVsockRequest));
  EXPECT_EQ(machine_.next_operation(), kVsockReset);
}

TEST_F(VirtioVsockTest, RandomPacketsDoNoHarm) {
  std::mt19937_64 random(11);
  const sys::UniqueFd listener = program(machine_.path + "_1", true);
  ::fcntl(listener.get(), F_SETFL, O_NONBLOCK);
  machine_.bring_up();
  for (int i = 0; i < 3000; ++i) {
    auto header = machine_.from_guest(static_cast<std::uint32_t>(random() % 4),
                                      static_cast<std::uint32_t>(random() % 3),
                                      static_cast<std::uint16_t>(random() % 9));
    header.flags = static_cast<std::uint32_t>(random() % 5);
    header.buffer = static_cast<std::uint32_t>(random() % 4 == 0 ? random() : random() % 9000);
    header.forwarded = static_cast<std::uint32_t>(random() % 4 == 0 ? random() : 0);
    machine_.send(header, std::string(random() % 3000, 'r'));
    const sys::UniqueFd fd(::accept(listener.get(), nullptr, nullptr));
    while (machine_.next(0)) {
    }
    if (i % 500 == 499) {
      machine_.device.quiesce();
      restore_from(machine_.device, save_of(machine_.device));
      machine_.device.resume();
    }
  }
  EXPECT_EQ(machine_.driver.registers.status(), 15);
}

TEST(VsockListener, RefusesWhatCannotWorkInOneLine) {
  const std::string dir = testing::TempDir() + "godwit_vsockl_" + std::to_string(::getpid());
  std::filesystem::create_directories(dir);
  const auto complaint = [](const std::string& path) -> std::string {
    try {
      const VsockListener listener(path);
      return "";
    } catch (const std::runtime_error& error) {
      return error.what();
    }
  };
  const VsockListener first(dir + "/a");
  EXPECT_NE(complaint(dir + "/a").find("another process listens there"), std::string::npos);
  EXPECT_NE(complaint(dir).find("something else than a socket"), std::string::npos);
  EXPECT_NE(complaint(dir + "/none/b").find("No such file"), std::string::npos);
  EXPECT_NE(complaint("/" + std::string(200, 'x')).find("characters"), std::string::npos);
  { const sys::UniqueFd stale = program(dir + "/c", true); }
  EXPECT_EQ(complaint(dir + "/c"), "");
  EXPECT_FALSE(std::filesystem::exists(dir + "/c"));
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace godwit::devices
