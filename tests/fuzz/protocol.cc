// A peer's bytes on both ends of a move's connection: frames, pages, lists, JSON, RDMA addresses.
#include "migration/protocol.h"

#include <sys/socket.h>

#include "migration/tcp_channel.h"
#include "tests/fuzz/fuzz.h"

namespace godwit::fuzz {
namespace {

using namespace migration;

constexpr std::uint64_t kPages = 512;

void frame(Bytes& bytes, MessageKind kind, std::string_view payload) {
  put(bytes, FrameHeader{.kind = kind, .length = payload.size()});
  bytes.insert(bytes.end(), payload.begin(), payload.end());
}

Bytes hello() {
  Hello hello;
  hello.machine.name = "web1";
  hello.machine.memory_bytes = 8 << 20;
  hello.machine.disks = {{.path = "/srv/disk", .read_only = true}};
  hello.requirements = "{}";
  hello.rdma.resize(2);
  for (unsigned port = 0; port < 2; ++port) {
    hello.rdma[port].mtu = 3;
    hello.rdma[port].gid = std::vector<std::uint8_t>(16, 0xfe);
    hello.rdma[port].port = port;
  }
  Bytes bytes = {0};
  frame(bytes, MessageKind::kHello, encode(hello));
  Accept accept;
  accept.rdma = hello.rdma;
  frame(bytes, MessageKind::kAccept, encode(accept));
  frame(bytes, MessageKind::kBegin, encode(Begin{"rdma", 1, {0, 1}}));
  frame(bytes, MessageKind::kRunning, encode(Running{1, 2}));
  frame(bytes, MessageKind::kRefuse, encode_reason("no room"));
  return bytes;
}

Bytes pages() {
  Bytes bytes = {1};
  std::string payload(8 + 16 + 4096, 'p');
  const std::uint64_t list[] = {1, 7, 1};
  std::memcpy(payload.data(), list, sizeof list);
  frame(bytes, MessageKind::kPages, payload);
  const std::uint64_t zero[] = {7, 1, 9, 3};
  frame(bytes, MessageKind::kZero, {reinterpret_cast<const char*>(zero), sizeof zero});
  memory::GuestMemory memory(kPages * memory::kPageSize);
  const memory::PageRange range{7, 1};
  std::string compressed(24, 0);
  std::memcpy(compressed.data(), list, sizeof list);
  PageCompressor compressor;
  for (const std::byte byte : compressor.compress(memory, {&range, 1}))
    compressed += static_cast<char>(byte);
  frame(bytes, MessageKind::kCompressed, compressed);
  frame(bytes, MessageKind::kRegister, {reinterpret_cast<const char*>(zero), sizeof zero});
  frame(bytes, MessageKind::kPing, "");
  frame(bytes, MessageKind::kSync, "");
  frame(bytes, MessageKind::kState, "state");
  frame(bytes, MessageKind::kCommit, "");
  return bytes;
}

Bytes post_copy() {
  Bytes bytes = {0};
  frame(bytes, MessageKind::kMissing, std::string(kPages / 8, 'm'));
  const std::uint64_t offer[] = {3, 9, 4096, 1, 20, 100, 65536, 2};
  frame(bytes, MessageKind::kOffer, {reinterpret_cast<const char*>(offer), sizeof offer});
  frame(bytes, MessageKind::kFetch, {reinterpret_cast<const char*>(offer), 16});
  frame(bytes, MessageKind::kResume, encode(Resume{"0123456789abcdef", false, {}}));
  frame(bytes, MessageKind::kLeft, "12345678");
  frame(bytes, MessageKind::kArrived, "");
  return bytes;
}

/// What a message says, as the two ends read it.
void read(const Message& message, const memory::GuestMemory& memory) {
  switch (message.kind) {
    case MessageKind::kHello:
      decode_hello(message.payload);
      break;
    case MessageKind::kAccept:
      decode_accept(message.payload);
      break;
    case MessageKind::kBegin:
      decode_begin(message.payload);
      break;
    case MessageKind::kRunning:
      decode_running(message.payload);
      break;
    case MessageKind::kMissing:
      decode_missing(message.payload, memory.pages());
      break;
    case MessageKind::kOffer:
      decode_offer(message.payload, memory.pages());
      break;
    case MessageKind::kResume:
      decode_resume(message.payload);
      break;
    case MessageKind::kFetch:
    case MessageKind::kRegister:
      decode_ranges(message.payload, memory.pages(), kMaxRangesInFrame);
      break;
    default:
      decode_reason(message.payload);
      break;
  }
}

}  // namespace

std::vector<Bytes> fuzz_seeds() { return {hello(), pages(), post_copy()}; }

}  // namespace godwit::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace godwit;
  using namespace godwit::migration;
  if (size == 0) return 0;
  static memory::GuestMemory memory(fuzz::kPages * memory::kPageSize);
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return 0;
  sys::UniqueFd peer(ends[0]);
  Wire wire((sys::UniqueFd(ends[1])));
  TcpChannel channel(wire, memory, data[0] % 2 == 0 ? Role::kSource : Role::kDestination);
  if (::send(peer.get(), data + 1, size - 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) return 0;
  ::shutdown(peer.get(), SHUT_WR);
  for (;;) {
    Message message;
    try {
      message = channel.receive(1000);
    } catch (const ChannelError&) {
      return 0;  // of the connection: it is over
    }
    try {
      fuzz::read(message, memory);
    } catch (const ChannelError&) {
      continue;  // of the message: look at the next
    }
  }
}
