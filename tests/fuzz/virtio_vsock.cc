// With a program that listens on the host, and one that connects from there.
#include "vmm/devices/virtio/vsock.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/fuzz/plain_fuzz.h"

namespace godwit::fuzz {
namespace {

constexpr std::uint32_t kCid = 42, kPort = 1024;

/// A UNIX socket that listens or is connected.
sys::UniqueFd unix_socket(const std::string& path, bool listens) {
  sys::UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  const auto* plain = reinterpret_cast<const sockaddr*>(&address);
  if (listens) {
    ::unlink(path.c_str());
    if (::bind(fd.get(), plain, sizeof address) != 0 || ::listen(fd.get(), 16) != 0) return {};
  } else if (::connect(fd.get(), plain, sizeof address) != 0) {
    return {};
  }
  return fd;
}

std::string path() {
  static const std::string path = "/tmp/godwit-fuzz-vsock-" + std::to_string(::getpid());
  return path;
}

Bytes packet(std::uint16_t operation, std::uint32_t length, const char* data = "") {
  devices::VsockHeader header;
  header.source_cid = kCid;
  header.destination_cid = devices::kVsockHost;
  header.source_port = 5;
  header.destination_port = kPort;
  header.length = length;
  header.operation = operation;
  header.flags = operation == devices::kVsockShutdown ? 3 : 0;
  header.buffer = 4096;
  Bytes bytes;
  put(bytes, header);
  for (; *data != 0; ++data) bytes.push_back(static_cast<std::uint8_t>(*data));
  return bytes;
}

}  // namespace

std::vector<Bytes> fuzz_seeds() {
  Session session;
  session.bring_up();
  for (std::uint8_t i = 0; i < 4; ++i) {
    session.descriptor(0, i, (8 << 20) + (i << 12), 4096, 2, 0).offer(0, i, i);
  }
  std::uint8_t slot = 0;
  for (const Bytes& bytes :
       {packet(devices::kVsockRequest, 0), packet(devices::kVsockData, 4, "data"),
        packet(devices::kVsockCreditUpdate, 0), packet(devices::kVsockShutdown, 0)}) {
    const std::uint32_t at = (9 << 20) + (slot << 8);
    session.memory(at, bytes)
        .descriptor(1, slot, at, static_cast<std::uint16_t>(bytes.size()), 0, 0)
        .offer(1, slot, slot);
    ++slot;
  }
  session.descriptor(2, 0, 10 << 20, 8, 2, 0).offer(2, 0, 0).move();
  return {session.bytes()};
}

}  // namespace godwit::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace godwit;
  static const sys::UniqueFd listener =
      fuzz::unix_socket(fuzz::path() + "_" + std::to_string(fuzz::kPort), true);
  fuzz::Input input(data, size);
  {
    devices::PlainWiring wiring;
    devices::VirtioVsock vsock(fuzz::kCid, fuzz::path());
    sys::UniqueFd program;
    fuzz::drive_plain(vsock, wiring, input, [&] {
      program = fuzz::unix_socket(fuzz::path(), false);
      if (program) static_cast<void>(::write(program.get(), "CONNECT 7\nhello", 15) == 15);
    });
  }
  for (;;) {
    const sys::UniqueFd one(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!one) break;
  }
  return 0;
}
