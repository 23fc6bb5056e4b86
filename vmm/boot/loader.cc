#include "vmm/boot/loader.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "vmm/boot/acpi.h"
#include "vmm/boot/bzimage.h"
#include "vmm/boot/elf.h"
#include "vmm/boot/layout.h"
#include "vmm/boot/pvh.h"
#include "vmm/sys/error.h"
#include "vmm/sys/unique_fd.h"

namespace godwit::boot {
namespace {

constexpr std::uint64_t kMaxKernelFile = 512 * kMiB;

/// A regular file to be read whole.
class File {
 public:
  explicit File(const std::string& path)
      : fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
    struct stat status = {};
    if (!fd_ || ::fstat(fd_.get(), &status) < 0) throw ImageError(std::strerror(errno));
    if (!S_ISREG(status.st_mode)) throw ImageError("not a regular file");
    size_ = static_cast<std::uint64_t>(status.st_size);
  }

  std::uint64_t size() const { return size_; }

  void read(std::span<std::byte> out) const {
    std::size_t done = 0;
    while (done < out.size()) {
      const ssize_t count =
          ::pread(fd_.get(), out.data() + done, out.size() - done, static_cast<off_t>(done));
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) throw ImageError(std::strerror(errno));
      if (count == 0) throw ImageError("became shorter while it was read");
      done += static_cast<std::size_t>(count);
    }
  }

 private:
  sys::UniqueFd fd_;
  std::uint64_t size_ = 0;
};

std::vector<std::byte> read_kernel(const std::string& path) {
  const File file(path);
  if (file.size() > kMaxKernelFile) {
    throw ImageError(fmt::format("larger than {} MiB", kMaxKernelFile / kMiB));
  }
  std::vector<std::byte> image(file.size());
  file.read(image);
  return image;
}

LoadedKernel load_kernel(std::span<const std::byte> image, memory::GuestMemory& memory) {
  if (is_elf(image)) return load_pvh(image, memory);
  if (is_bzimage(image)) return load_bzimage(image, memory);
  throw ImageError("neither a Linux bzImage nor a PVH ELF image");
}

InitrdRange load_initrd(const std::string& path, const LoadedKernel& kernel,
                        memory::GuestMemory& memory) {
  if (path.empty()) return {};
  const File file(path);
  if (file.size() == 0) throw ImageError("empty");
  const InitrdRange range = place_initrd(file.size(), kernel, memory);
  auto target = memory.writable(range.address, range.size);
  if (!target) throw ImageError("does not fit into the guest's memory");
  file.read(target->bytes());
  return range;
}

void write_command_line(const std::string& line, const LoadedKernel& kernel,
                        memory::GuestMemory& memory) {
  const std::uint64_t most = std::min(kernel.command_line_max, kCommandLineMax - 1);
  if (line.size() > most) {
    throw std::runtime_error(fmt::format(
        "the kernel command line has {} characters; this kernel takes {}", line.size(), most));
  }
  if (line.find('\0') != std::string::npos) {
    throw std::runtime_error("the kernel command line contains a zero byte");
  }
  // With its terminating zero.
  memory.write(kCommandLine, std::as_bytes(std::span(line.c_str(), line.size() + 1)));
}

/// The whole of our firmware: writes ACPI's reset register, from real mode.
void write_reset_vector(memory::GuestMemory& memory) {
  constexpr auto byte = [](unsigned value) { return static_cast<std::byte>(value); };
  const std::array<std::byte, 9> code = {byte(0xba),
                                         byte(kResetPort & 0xff),
                                         byte(kResetPort >> 8),  // mov dx, kResetPort
                                         byte(0xb0),
                                         byte(kResetValue),  // mov al, kResetValue
                                         byte(0xee),         // out dx, al
                                         byte(0xf4),
                                         byte(0xeb),
                                         byte(0xfd)};  // hlt; jmp to it
  memory.write(kResetVector, code);
}

/// Runs `action`, naming the file in what it throws.
template <typename Action>
auto naming(const char* what, const std::string& path, Action action) {
  try {
    return action();
  } catch (const ImageError& error) {
    throw std::runtime_error(fmt::format("{} {}: {}", what, path, error.what()));
  }
}

}  // namespace

InitrdRange place_initrd(std::uint64_t size, const LoadedKernel& kernel,
                         const memory::GuestMemory& memory) {
  const std::uint64_t low_end = memory.regions().front().size;
  const std::uint64_t top =
      kernel.initrd_max < low_end ? kernel.initrd_max + 1 : low_end;  // one past the last byte
  const std::uint64_t start = std::max(kernel.end, kHighMemoryStart);
  if (size <= top) {
    const std::uint64_t address = (top - size) & ~(memory::kPageSize - 1);
    if (address >= start) return {address, size};
  }
  throw ImageError(
      fmt::format("{} MiB do not fit beside the kernel into the guest's {} MiB; give it "
                  "more memory",
                  (size + kMiB - 1) / kMiB, memory.size() / kMiB));
}

void write_generation_id(memory::GuestMemory& memory) {
  std::array<std::byte, 16> id{};
  if (::getentropy(id.data(), id.size()) != 0) sys::throw_errno("getentropy");
  memory.write(kGenerationId, id);
}

Entry load(const vmm::MachineConfig& config, memory::GuestMemory& memory) {
  if (memory.size() < 2 * kMiB) throw std::runtime_error("a guest needs at least 2 MiB of memory");
  std::vector<std::byte> image;
  const LoadedKernel kernel = naming("kernel", config.kernel, [&] {
    image = read_kernel(config.kernel);
    return load_kernel(image, memory);
  });
  const InitrdRange initrd =
      naming("initrd", config.initrd, [&] { return load_initrd(config.initrd, kernel, memory); });
  write_command_line(config.command_line, kernel, memory);
  const std::uint64_t rsdp = write_acpi_tables(config.cpus, memory);
  write_reset_vector(memory);
  write_generation_id(memory);

  Entry entry;
  entry.mode = kernel.mode;
  entry.address = kernel.entry;
  if (kernel.mode == Entry::Mode::kLong64) {
    write_long_mode_tables(memory);
    entry.boot_info = naming("kernel", config.kernel,
                             [&] { return write_boot_params(image, initrd, rsdp, memory); });
  } else {
    entry.boot_info = write_start_info(initrd, rsdp, memory);
  }
  return entry;
}

}  // namespace godwit::boot
