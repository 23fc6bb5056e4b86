// What a machine is made of. Plain data: it comes from the command line and travels to the
// destination of a move as JSON.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace godwit::vmm {

struct DiskConfig {
  std::string path;  // raw image or block device, absolute
  bool read_only = false;
  bool direct = false;      // cache=none: past the host's page cache (O_DIRECT)
  std::string serial = {};  // what the guest finds it by, 1..20 of [A-Za-z0-9._-]; empty: ours
  bool operator==(const DiskConfig&) const = default;
};

/// A network card on a tap interface of the host.
struct NetConfig {
  std::string tap;     // interface name; created if there is none
  std::string mac;     // "02:..."
  unsigned mtu = 0;    // 68..65521, or 0: the tap's as it is, and the guest is told none
  std::string bridge;  // what the tap becomes a port of; may be empty
  bool operator==(const NetConfig&) const = default;
};

/// Streams between the guest's programs and the host's.
struct VsockConfig {
  std::uint32_t cid = 0;  // 3..0xfffffffe, or 0: none
  std::string path;       // of the UNIX socket, absolute
  bool operator==(const VsockConfig&) const = default;
};

struct MachineConfig {
  std::string name;                // 1-64 of [A-Za-z0-9._-], first not '.' or '-'
  std::uint64_t memory_bytes = 0;  // multiple of 2 MiB
  unsigned cpus = 1;               // 1..16
  std::string cpu = "host";        // or a model of cpu_model.h
  bool huge_pages = false;
  std::vector<DiskConfig> disks;
  std::vector<NetConfig> nets;
  bool rng = false;      // a virtio entropy device
  bool balloon = false;  // a virtio balloon
  VsockConfig vsock;
  bool console = false;  // a virtio console, hvc0, beside the serial one

  // What it boots from; read again when the guest reboots.
  std::string kernel;        // bzImage or PVH ELF, absolute path
  std::string initrd;        // absolute path, may be empty
  std::string command_line;  // may be empty
};

}  // namespace godwit::vmm
