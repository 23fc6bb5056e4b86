// What travels on a vsock device's queues: virtio 1.2, 5.10.6.
#pragma once

#include <cstdint>

namespace godwit::devices {

struct [[gnu::packed]] VsockHeader {
  std::uint64_t source_cid = 0;
  std::uint64_t destination_cid = 0;
  std::uint32_t source_port = 0;
  std::uint32_t destination_port = 0;
  std::uint32_t length = 0;  // bytes of data that follow
  std::uint16_t type = 1;    // stream
  std::uint16_t operation = 0;
  std::uint32_t flags = 0;
  std::uint32_t buffer = 0;     // the sender's receive buffer, bytes
  std::uint32_t forwarded = 0;  // bytes that have left it, modulo 2^32
};
static_assert(sizeof(VsockHeader) == 44);

enum VsockOperation : std::uint16_t {
  kVsockRequest = 1,
  kVsockResponse,
  kVsockReset,
  kVsockShutdown,
  kVsockData,
  kVsockCreditUpdate,
  kVsockCreditRequest,
};

constexpr std::uint64_t kVsockHost = 2;                         // the host's CID
constexpr std::uint32_t kVsockNoReceive = 1, kVsockNoSend = 2;  // flags of kVsockShutdown
constexpr std::uint32_t kVsockMinCid = 3, kVsockMaxCid = 0xffff'fffe;

}  // namespace godwit::devices
