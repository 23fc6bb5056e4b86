#include "vmm/kvm/kvm.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "vmm/sys/error.h"

namespace godwit::kvm {
namespace {

constexpr std::size_t kMaxEntries = 4096;  // of CPUID leaves or MSRs: far above what any kernel has

template <typename Argument>
int call(const sys::UniqueFd& fd, unsigned long request, Argument argument, const char* name) {
  return sys::check(::ioctl(fd.get(), request, argument), name);
}

/// A structure of the kernel that ends in a counted array.
template <typename Header, typename Entry>
class Counted {
 public:
  explicit Counted(std::size_t count)
      : words_((sizeof(Header) + count * sizeof(Entry) + 7) / 8), count_(count) {}
  Header* header() { return reinterpret_cast<Header*>(words_.data()); }
  std::span<Entry> entries() {
    return {reinterpret_cast<Entry*>(reinterpret_cast<std::byte*>(words_.data()) + sizeof(Header)),
            count_};
  }

 private:
  std::vector<std::uint64_t> words_;
  std::size_t count_;
};

using CpuidList = Counted<kvm_cpuid2, kvm_cpuid_entry2>;
using MsrList = Counted<kvm_msrs, kvm_msr_entry>;

std::vector<kvm_cpuid_entry2> read_cpuid(int fd, unsigned long request, const char* name) {
  for (std::size_t count = 128; count <= kMaxEntries; count *= 2) {
    CpuidList list(count);
    list.header()->nent = static_cast<std::uint32_t>(count);
    if (::ioctl(fd, request, list.header()) == 0) {
      const auto entries = list.entries().first(list.header()->nent);
      return {entries.begin(), entries.end()};
    }
    if (errno != E2BIG) sys::throw_errno(name);
  }
  throw std::runtime_error(fmt::format("{}: more CPUID leaves than this build can hold", name));
}

MsrList msr_list(std::span<const kvm_msr_entry> entries) {
  if (entries.size() > kMaxEntries) throw std::invalid_argument("too many MSRs");
  MsrList list(entries.size());
  list.header()->nmsrs = static_cast<std::uint32_t>(entries.size());
  std::copy(entries.begin(), entries.end(), list.entries().begin());
  return list;
}

sys::UniqueFd open_kvm() {
  sys::UniqueFd fd(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
  if (fd) return fd;
  const char* remedy = errno == EACCES ? "add your user to the group kvm, or run as root"
                                       : "load the kvm_intel or kvm_amd module, and enable "
                                         "virtualization in the firmware";
  throw std::runtime_error(
      fmt::format("cannot open /dev/kvm: {}; {}", std::strerror(errno), remedy));
}

}  // namespace

// -- Kvm

Kvm::Kvm() : fd_(open_kvm()) {
  const int version = call(fd_, KVM_GET_API_VERSION, 0, "KVM_GET_API_VERSION");
  if (version != KVM_API_VERSION) {
    throw std::runtime_error(
        fmt::format("/dev/kvm speaks API {}, not {}", version, KVM_API_VERSION));
  }
}

int Kvm::check_extension(int capability) const {
  return call(fd_, KVM_CHECK_EXTENSION, capability, "KVM_CHECK_EXTENSION");
}

std::vector<kvm_cpuid_entry2> Kvm::supported_cpuid() const {
  return read_cpuid(fd_.get(), KVM_GET_SUPPORTED_CPUID, "KVM_GET_SUPPORTED_CPUID");
}

std::vector<std::uint32_t> Kvm::msr_index_list() const {
  Counted<kvm_msr_list, std::uint32_t> list(kMaxEntries);
  list.header()->nmsrs = kMaxEntries;
  call(fd_, KVM_GET_MSR_INDEX_LIST, list.header(), "KVM_GET_MSR_INDEX_LIST");
  const auto entries = list.entries().first(list.header()->nmsrs);
  return {entries.begin(), entries.end()};
}

std::size_t Kvm::vcpu_mmap_size() const {
  return static_cast<std::size_t>(call(fd_, KVM_GET_VCPU_MMAP_SIZE, 0, "KVM_GET_VCPU_MMAP_SIZE"));
}

// -- KvmVm

KvmVm::KvmVm(const Kvm& kvm)
    : fd_(sys::check(::ioctl(kvm.fd(), KVM_CREATE_VM, 0), "KVM_CREATE_VM")) {}

int KvmVm::check_extension(int capability) const {
  return call(fd_, KVM_CHECK_EXTENSION, capability, "KVM_CHECK_EXTENSION");
}

void KvmVm::enable_cap(std::uint32_t capability, std::uint64_t arg0) {
  kvm_enable_cap cap = {};
  cap.cap = capability;
  cap.args[0] = arg0;
  call(fd_, KVM_ENABLE_CAP, &cap, "KVM_ENABLE_CAP");
}

void KvmVm::set_tss_addr(std::uint64_t address) {
  call(fd_, KVM_SET_TSS_ADDR, address, "KVM_SET_TSS_ADDR");
}

void KvmVm::set_identity_map_addr(std::uint64_t address) {
  call(fd_, KVM_SET_IDENTITY_MAP_ADDR, &address, "KVM_SET_IDENTITY_MAP_ADDR");
}

void KvmVm::set_user_memory_region(std::uint32_t slot, std::uint32_t flags,
                                   std::uint64_t guest_addr, std::span<std::byte> memory) {
  const kvm_userspace_memory_region region = {
      .slot = slot,
      .flags = flags,
      .guest_phys_addr = guest_addr,
      .memory_size = memory.size(),
      .userspace_addr = reinterpret_cast<std::uintptr_t>(memory.data())};
  call(fd_, KVM_SET_USER_MEMORY_REGION, &region, "KVM_SET_USER_MEMORY_REGION");
}

void KvmVm::get_dirty_log(std::uint32_t slot, std::span<std::uint64_t> words) const {
  kvm_dirty_log log = {};
  log.slot = slot;
  log.dirty_bitmap = words.data();
  call(fd_, KVM_GET_DIRTY_LOG, &log, "KVM_GET_DIRTY_LOG");
}

void KvmVm::clear_dirty_log(std::uint32_t slot, std::uint64_t first_page, std::uint32_t pages,
                            std::span<const std::uint64_t> words) {
  if (words.size() < (pages + 63u) / 64u) throw std::invalid_argument("dirty bitmap too short");
  kvm_clear_dirty_log log = {};
  log.slot = slot;
  log.first_page = first_page;
  log.num_pages = pages;
  log.dirty_bitmap = const_cast<std::uint64_t*>(words.data());  // the kernel only reads it
  call(fd_, KVM_CLEAR_DIRTY_LOG, &log, "KVM_CLEAR_DIRTY_LOG");
}

void KvmVm::create_irqchip() { call(fd_, KVM_CREATE_IRQCHIP, 0, "KVM_CREATE_IRQCHIP"); }

kvm_irqchip KvmVm::get_irqchip(std::uint32_t id) const {
  kvm_irqchip chip = {};
  chip.chip_id = id;
  call(fd_, KVM_GET_IRQCHIP, &chip, "KVM_GET_IRQCHIP");
  return chip;
}

void KvmVm::set_irqchip(const kvm_irqchip& chip) {
  call(fd_, KVM_SET_IRQCHIP, &chip, "KVM_SET_IRQCHIP");
}

void KvmVm::pulse_irq(std::uint32_t gsi) {
  for (const std::uint32_t level : {1u, 0u}) {
    kvm_irq_level line = {};
    line.irq = gsi;
    line.level = level;
    call(fd_, KVM_IRQ_LINE, &line, "KVM_IRQ_LINE");
  }
}

void KvmVm::irqfd(int event_fd, std::uint32_t gsi) {
  kvm_irqfd irqfd = {};
  irqfd.fd = static_cast<std::uint32_t>(event_fd);
  irqfd.gsi = gsi;
  call(fd_, KVM_IRQFD, &irqfd, "KVM_IRQFD");
}

void KvmVm::ioeventfd(std::uint64_t address, std::uint32_t length, int event_fd, bool assign) {
  kvm_ioeventfd ioeventfd = {};
  ioeventfd.addr = address;
  ioeventfd.len = length;
  ioeventfd.fd = event_fd;
  ioeventfd.flags = assign ? 0 : 1U << kvm_ioeventfd_flag_nr_deassign;
  call(fd_, KVM_IOEVENTFD, &ioeventfd, "KVM_IOEVENTFD");
}

void KvmVm::set_gsi_routing(std::span<const kvm_irq_routing_entry> entries) {
  if (entries.size() > kMaxEntries) throw std::invalid_argument("too many interrupt routes");
  Counted<kvm_irq_routing, kvm_irq_routing_entry> list(entries.size());
  list.header()->nr = static_cast<std::uint32_t>(entries.size());
  std::copy(entries.begin(), entries.end(), list.entries().begin());
  call(fd_, KVM_SET_GSI_ROUTING, list.header(), "KVM_SET_GSI_ROUTING");
}

kvm_clock_data KvmVm::get_clock() const {
  kvm_clock_data clock = {};
  call(fd_, KVM_GET_CLOCK, &clock, "KVM_GET_CLOCK");
  return clock;
}

void KvmVm::set_clock(const kvm_clock_data& clock) {
  call(fd_, KVM_SET_CLOCK, &clock, "KVM_SET_CLOCK");
}

// -- KvmVcpu

KvmVcpu::KvmVcpu(const Kvm& kvm, KvmVm& vm, std::uint32_t id)
    : fd_(sys::check(::ioctl(vm.fd(), KVM_CREATE_VCPU, static_cast<unsigned long>(id)),
                     "KVM_CREATE_VCPU")),
      mapping_(kvm.vcpu_mmap_size(), PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0) {}

bool KvmVcpu::run() {
  if (::ioctl(fd_.get(), KVM_RUN, 0) == 0) return true;
  if (errno == EINTR || errno == EAGAIN) return false;
  sys::throw_errno("KVM_RUN");
}

void KvmVcpu::set_cpuid2(std::span<const kvm_cpuid_entry2> entries) {
  if (entries.size() > kMaxEntries) throw std::invalid_argument("too many CPUID leaves");
  CpuidList list(entries.size());
  list.header()->nent = static_cast<std::uint32_t>(entries.size());
  std::copy(entries.begin(), entries.end(), list.entries().begin());
  call(fd_, KVM_SET_CPUID2, list.header(), "KVM_SET_CPUID2");
}

std::vector<kvm_cpuid_entry2> KvmVcpu::get_cpuid2() const {
  return read_cpuid(fd_.get(), KVM_GET_CPUID2, "KVM_GET_CPUID2");
}

// The plain get/set pairs of one structure each.
#define GODWIT_KVM_PAIR(method, type, NAME)              \
  type KvmVcpu::get_##method() const {                   \
    type value = {};                                     \
    call(fd_, KVM_GET_##NAME, &value, "KVM_GET_" #NAME); \
    return value;                                        \
  }                                                      \
  void KvmVcpu::set_##method(const type& value) {        \
    call(fd_, KVM_SET_##NAME, &value, "KVM_SET_" #NAME); \
  }
GODWIT_KVM_PAIR(regs, kvm_regs, REGS)
GODWIT_KVM_PAIR(sregs, kvm_sregs, SREGS)
GODWIT_KVM_PAIR(sregs2, kvm_sregs2, SREGS2)
GODWIT_KVM_PAIR(debugregs, kvm_debugregs, DEBUGREGS)
GODWIT_KVM_PAIR(xcrs, kvm_xcrs, XCRS)
GODWIT_KVM_PAIR(lapic, kvm_lapic_state, LAPIC)
GODWIT_KVM_PAIR(mp_state, kvm_mp_state, MP_STATE)
GODWIT_KVM_PAIR(vcpu_events, kvm_vcpu_events, VCPU_EVENTS)
#undef GODWIT_KVM_PAIR

std::vector<std::byte> KvmVcpu::get_xsave(std::size_t size) const {
  if (size < sizeof(kvm_xsave)) throw std::invalid_argument("XSAVE area too small");
  std::vector<std::byte> xsave(size);
  if (size == sizeof(kvm_xsave)) {
    call(fd_, KVM_GET_XSAVE, xsave.data(), "KVM_GET_XSAVE");
  } else {
    call(fd_, KVM_GET_XSAVE2, xsave.data(), "KVM_GET_XSAVE2");
  }
  return xsave;
}

void KvmVcpu::set_xsave(std::span<const std::byte> xsave) {
  if (xsave.size() < sizeof(kvm_xsave)) throw std::invalid_argument("XSAVE area too small");
  call(fd_, KVM_SET_XSAVE, xsave.data(), "KVM_SET_XSAVE");
}

std::size_t KvmVcpu::get_msrs(std::span<kvm_msr_entry> entries) const {
  if (entries.empty()) return 0;
  MsrList list = msr_list(entries);
  const auto done =
      static_cast<std::size_t>(call(fd_, KVM_GET_MSRS, list.header(), "KVM_GET_MSRS"));
  std::copy_n(list.entries().begin(), done, entries.begin());
  return done;
}

std::size_t KvmVcpu::set_msrs(std::span<const kvm_msr_entry> entries) {
  if (entries.empty()) return 0;
  return static_cast<std::size_t>(
      call(fd_, KVM_SET_MSRS, msr_list(entries).header(), "KVM_SET_MSRS"));
}

std::uint32_t KvmVcpu::get_tsc_khz() const {
  return static_cast<std::uint32_t>(call(fd_, KVM_GET_TSC_KHZ, 0, "KVM_GET_TSC_KHZ"));
}

void KvmVcpu::set_tsc_khz(std::uint32_t khz) {
  call(fd_, KVM_SET_TSC_KHZ, static_cast<unsigned long>(khz), "KVM_SET_TSC_KHZ");
}

namespace {
kvm_device_attr tsc_offset_attr(const std::uint64_t* value) {
  kvm_device_attr attr = {};
  attr.group = KVM_VCPU_TSC_CTRL;
  attr.attr = KVM_VCPU_TSC_OFFSET;
  attr.addr = reinterpret_cast<std::uintptr_t>(value);
  return attr;
}
}  // namespace

std::optional<std::uint64_t> KvmVcpu::get_tsc_offset() const {
  std::uint64_t offset = 0;
  const kvm_device_attr attr = tsc_offset_attr(&offset);
  if (::ioctl(fd_.get(), KVM_GET_DEVICE_ATTR, &attr) < 0) return std::nullopt;
  return offset;
}

bool KvmVcpu::set_tsc_offset(std::uint64_t offset) {
  const kvm_device_attr attr = tsc_offset_attr(&offset);
  return ::ioctl(fd_.get(), KVM_SET_DEVICE_ATTR, &attr) == 0;
}

bool KvmVcpu::pre_fault_memory(std::uint64_t guest_addr, std::uint64_t size) {
  // The kernel moves the start past what it has done; 0 also when that is only a part.
  kvm_pre_fault_memory range = {.gpa = guest_addr, .size = size, .flags = 0, .padding = {}};
  while (range.size > 0) {
    if (::ioctl(fd_.get(), KVM_PRE_FAULT_MEMORY, &range) != 0 && errno != EINTR && errno != EAGAIN)
      return false;
  }
  return true;
}

bool KvmVcpu::kvmclock_ctrl() { return ::ioctl(fd_.get(), KVM_KVMCLOCK_CTRL, 0) == 0; }

}  // namespace godwit::kvm
