// Where a virtio network card's packets go to and come from: a descriptor that carries one packet a
// read or write, each behind a virtio_net_hdr_v1 of 12 bytes (virtio 1.2, 5.1.6). Implemented by
// Tap; by a socket in tests. Used by the card's I/O thread.
#pragma once

#include <cstddef>

namespace godwit::devices {

/// What the guest's driver can take, so that the host need not do it before.
struct NetOffloads {
  bool checksum = false;
  bool tso4 = false;
  bool tso6 = false;
  bool ecn = false;  // with TSO
  bool operator==(const NetOffloads&) const = default;
};

class NetPort {
 public:
  static constexpr std::size_t kHeaderSize = 12;

  virtual ~NetPort() = default;
  /// Non-blocking; readable when a packet is there.
  virtual int fd() const = 0;
  /// Throws std::system_error.
  virtual void set_offloads(const NetOffloads& offloads) = 0;
};

}  // namespace godwit::devices
