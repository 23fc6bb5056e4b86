#include "node/machine_options.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string_view>

#include "node/control_socket.h"
#include "node/device_options.h"
#include "node/units.h"
#include "vmm/cpu_model.h"
#include "vmm/sys/unique_fd.h"

namespace godwit::node {

namespace {

constexpr std::uint64_t kMemoryUnit = 2ull << 20;
constexpr std::size_t kCommandLineMax = 2047;  // Linux's COMMAND_LINE_SIZE on x86, less its NUL

/// An absolute path of a file that can be opened, or one line that says why not.
std::string checked_file(const char* flag, const std::string& path, int mode) {
  if (path.empty()) throw UsageError(fmt::format("--{}: the path is empty", flag));
  const sys::UniqueFd fd(::open(path.c_str(), mode | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!fd) throw UsageError(fmt::format("--{}: {}: {}", flag, path, std::strerror(errno)));
  struct stat info {};
  if (::fstat(fd.get(), &info) == 0 && S_ISDIR(info.st_mode)) {
    throw UsageError(fmt::format("--{}: {} is a directory", flag, path));
  }
  return std::filesystem::absolute(path).lexically_normal().string();
}

/// A bzImage has "HdrS" at 0x202 (Linux boot protocol 2.00), an ELF image its magic at 0.
void check_is_kernel(const std::string& path) {
  std::array<char, 0x206> head{};
  std::ifstream file(path, std::ios::binary);
  file.read(head.data(), head.size());
  const std::string_view start(head.data(), static_cast<std::size_t>(file.gcount()));
  if (start.substr(0, 4) == std::string_view("\177ELF", 4)) return;
  if (start.size() == head.size() && start.substr(0x202, 4) == "HdrS") return;
  throw UsageError(
      fmt::format("--kernel: {} is no kernel: neither a bzImage nor a PVH ELF image", path));
}

std::uint64_t memory_size(const Options& options) {
  const std::string text = options.text("memory");
  const std::uint64_t bytes = options.size("memory");
  if (bytes < kMemoryUnit) {
    throw UsageError(fmt::format("--memory: {} is too small: at least 2M", text));
  }
  if (const std::string why = memory_complaint(bytes); !why.empty()) {
    throw UsageError("--memory: " + why);
  }
  if (bytes % kMemoryUnit != 0) {
    throw UsageError(fmt::format("--memory: {} is no multiple of 2M", text));
  }
  return bytes;
}

/// What GET_ID can answer, and udev makes a name of.
std::string disk_serial(const std::string& text) {
  constexpr std::size_t kMost = 20;
  const bool plain = std::all_of(text.begin(), text.end(), [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '.' || c == '_' || c == '-';
  });
  if (text.empty() || text.size() > kMost || !plain) {
    throw UsageError(
        fmt::format("--disk: serial={}: must be 1 to {} of A-Z a-z 0-9 . _ -", text, kMost));
  }
  return text;
}

/// PATH[,readonly][,cache=..][,serial=..]. The path may have commas: what ends it is known.
vmm::DiskConfig disk(const std::string& text) {
  vmm::DiskConfig config;
  std::string path = text;
  for (;;) {
    const std::size_t comma = path.rfind(',');
    if (comma == std::string::npos) break;
    const std::string field = path.substr(comma + 1);
    if (field == "readonly") {
      config.read_only = true;
    } else if (field == "cache=none" || field == "cache=writeback") {
      config.direct = field == "cache=none";
    } else if (field.starts_with("cache=")) {
      throw UsageError(fmt::format("--disk: {}: there are cache=writeback and cache=none", field));
    } else if (field.starts_with("serial=")) {
      config.serial = disk_serial(field.substr(std::strlen("serial=")));
    } else {
      break;
    }
    path.resize(comma);
  }
  config.path = checked_file("disk", path, config.read_only ? O_RDONLY : O_RDWR);
  struct stat info {};
  if (::stat(config.path.c_str(), &info) != 0 ||
      (!S_ISREG(info.st_mode) && !S_ISBLK(info.st_mode))) {
    throw UsageError(
        fmt::format("--disk: {} is neither an image file nor a block device", config.path));
  }
  return config;
}

/// "MemTotal" and "SwapTotal" of /proc/meminfo, bytes; 0 when unknown.
std::uint64_t host_memory() {
  std::ifstream meminfo("/proc/meminfo");
  std::string key;
  std::string unit;
  std::uint64_t kib = 0;
  std::uint64_t total = 0;
  while (meminfo >> key >> kib) {
    if (key == "MemTotal:" || key == "SwapTotal:") total += kib * 1024;
    std::getline(meminfo, unit);
  }
  return total;
}

}  // namespace

void add_machine_options(Options& options) {
  options.group("Guest")
      .value("name", "NAME", "the guest's name, unique on this host")
      .group("Boot")
      .value("kernel", "PATH", "a Linux bzImage or a PVH ELF image")
      .value("initrd", "PATH", "initial RAM disk")
      .value("append", "STRING", "the kernel's command line", "console=ttyS0")
      .group("Memory and CPU")
      .value("memory", "SIZE", "guest RAM, a multiple of 2M", "256M")
      .value("cpus", "N", "virtual CPUs, 1 to 16", "1")
      .value("cpu", "MODEL",
             "what the guest may use of the CPU: host (all of it), or no more than x86-64-v2, -v3 "
             "or -v4, to move between different CPUs",
             "host")
      .flag("hugepages", "back guest RAM with 2 MiB pages")
      .group("Devices")
      .values(
          "disk", "PATH[,readonly][,cache=none][,serial=S]",
          "a raw image or block device as virtio disk, through the host's page cache or past it "
          "(cache=none), and what the guest finds it by; repeatable");
  add_device_options(options);
}

vmm::MachineConfig machine_config(const Options& options) {
  vmm::MachineConfig config;
  config.name = options.text("name");
  if (const std::string why = name_complaint(config.name); !why.empty()) {
    throw UsageError("--name: " + why);
  }
  config.memory_bytes = memory_size(options);
  config.cpus = static_cast<unsigned>(options.count("cpus", 1, 16));
  config.cpu = options.text("cpu");
  if (!vmm::is_cpu_model(config.cpu)) {
    throw UsageError(
        fmt::format("--cpu: {} is no model: there are {}", config.cpu, vmm::kCpuModels));
  }
  config.kernel = checked_file("kernel", options.text("kernel"), O_RDONLY);
  check_is_kernel(config.kernel);
  if (options.has("initrd")) {
    config.initrd = checked_file("initrd", options.text("initrd"), O_RDONLY);
  }
  config.command_line = options.text("append");
  if (config.command_line.size() > kCommandLineMax) {
    throw UsageError(fmt::format("--append: {} characters are too many: at most {}",
                                 config.command_line.size(), kCommandLineMax));
  }
  for (const std::string& text : options.all("disk")) {
    config.disks.push_back(disk(text));
    for (std::size_t i = 0; i + 1 < config.disks.size(); ++i) {
      if (!config.disks[i].serial.empty() && config.disks[i].serial == config.disks.back().serial) {
        throw UsageError(fmt::format("--disk: serial={} is given twice", config.disks[i].serial));
      }
      if (config.disks[i].path == config.disks.back().path) {
        throw UsageError(fmt::format("--disk: {} is given twice", config.disks.back().path));
      }
    }
  }
  config.huge_pages = options.on("hugepages");
  set_devices(config, options);
  return config;
}

std::string disk_text(const vmm::DiskConfig& disk) {
  std::string text = disk.path;
  if (disk.read_only) text += ",readonly";
  if (disk.direct) text += ",cache=none";
  if (!disk.serial.empty()) text += ",serial=" + disk.serial;
  return text;
}

std::string memory_complaint(std::uint64_t bytes) {
  const std::uint64_t total = host_memory();
  if (total == 0 || bytes <= total) return {};
  return fmt::format("{} is more than this host has ({} of RAM and swap)", format_size(bytes),
                     format_size(total));
}

void check_kvm() {
  const sys::UniqueFd fd(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
  if (fd) return;
  switch (errno) {
    case ENOENT:
    case ENODEV:
    case ENXIO:
      throw std::runtime_error(
          "/dev/kvm is missing: switch virtualisation on in the firmware and load kvm_intel or "
          "kvm_amd (modprobe)");
    case EACCES:
    case EPERM:
      throw std::runtime_error(
          "/dev/kvm: permission denied: join its group (usermod -aG kvm USER) and log in again");
    default:
      throw std::runtime_error(fmt::format("/dev/kvm: {}", std::strerror(errno)));
  }
}

}  // namespace godwit::node
