#include "vmm/machine.h"

#include <fmt/core.h>

#include <condition_variable>
#include <mutex>
#include <stdexcept>

#include "vmm/boot/layout.h"
#include "vmm/boot/loader.h"
#include "vmm/clock.h"
#include "vmm/cpu_model.h"
#include "vmm/cpuid.h"
#include "vmm/devices/bus.h"
#include "vmm/devices/pci/host_bridge.h"
#include "vmm/devices/power.h"
#include "vmm/devices/pvpanic.h"
#include "vmm/devices/serial.h"
#include "vmm/interrupts.h"
#include "vmm/kvm/kvm.h"
#include "vmm/requirements.h"
#include "vmm/sys/for_option.h"
#include "vmm/vcpu.h"
#include "vmm/vcpu_state.h"
#include "vmm/vcpu_urgency.h"
#include "vmm/virtio_devices.h"

namespace godwit::vmm {
namespace {

constexpr std::uint32_t kVersion = 1;
constexpr std::uint64_t kMaxMemory = std::uint64_t{8} << 40;  // KVM: 2^31 pages a slot
constexpr std::uint32_t kIrqChips[] = {KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
                                       KVM_IRQCHIP_IOAPIC};

/// A state that only fits a machine of the same shape; the first section says so.
struct Shape {
  std::uint64_t memory_bytes;
  std::uint32_t cpus;
  std::uint32_t virtio;  // devices
};

/// The configuration may have come from a peer.
MachineConfig checked(MachineConfig config) {
  if (config.cpus == 0 || config.cpus > boot::kMaxCpus) {
    throw std::runtime_error(
        fmt::format("a guest has 1 to {} CPUs, not {}", boot::kMaxCpus, config.cpus));
  }
  constexpr std::uint64_t kUnit = 2 * boot::kMiB;
  if (config.memory_bytes == 0 || config.memory_bytes % kUnit != 0 ||
      config.memory_bytes > kMaxMemory) {
    throw std::runtime_error(fmt::format(
        "guest memory must be a multiple of 2 MiB, at least 2 MiB and at most 8 TiB, not {} bytes",
        config.memory_bytes));
  }
  return config;
}

kvm::Kvm checked_kvm() {
  kvm::Kvm kvm;
  check_host(kvm);
  return kvm;
}

kvm::KvmVm create_vm(const kvm::Kvm& kvm) {
  kvm::KvmVm vm(kvm);
  vm.set_tss_addr(boot::kKvmTss);
  if (vm.check_extension(KVM_CAP_SET_IDENTITY_MAP_ADDR) != 0) {
    vm.set_identity_map_addr(boot::kKvmIdentityMap);
  }
  // Performance counters do not move between CPU models, and cost on every exit.
  if ((vm.check_extension(KVM_CAP_PMU_CAPABILITY) & KVM_PMU_CAP_DISABLE) != 0) {
    vm.enable_cap(KVM_CAP_PMU_CAPABILITY, KVM_PMU_CAP_DISABLE);
  }
  return vm;
}

/// The interrupt controllers in KVM. Made after the memory slots: registering the controllers
/// starts a grace period in recent kernels that setting a slot would have to sit out, for 5 ms.
struct InterruptChips {
  explicit InterruptChips(kvm::KvmVm& vm) { vm.create_irqchip(); }
};

HostTsc tsc_of_this_host(const kvm::Kvm& kvm) {
  static const HostTsc found = [&kvm] {
    kvm::KvmVm vm(kvm);
    return host_tsc(vm, kvm::KvmVcpu(kvm, vm, 0));
  }();
  return {found.khz, found.scales, host_tsc_is_steady()};  // that may change
}

}  // namespace

struct Machine::Parts {
  Parts(MachineConfig machine_config, ConsoleSink console_sink,
        std::optional<memory::GivenRam> ram);
  ~Parts();

  void end(End why);
  void kick_all();
  void for_each_device(const std::function<void(devices::Device&, std::uint32_t instance)>& action);
  std::vector<kvm::KvmVcpu*> kvm_vcpus();
  Shape shape() const;
  void require_paused(const char* what) const;

  const MachineConfig config;
  kvm::Kvm kvm;
  memory::GuestMemory memory;
  kvm::KvmVm vm;
  memory::DirtyLog dirty_log;
  InterruptChips chips;
  devices::Bus ports;
  devices::Bus mmio;

  IoApicLine serial_line;
  IoApicLine event_line;
  KvmMsiVectors vectors;
  KvmDoorbells doorbells;
  devices::Serial serial;
  devices::Power power;
  devices::KeyboardReset keyboard;
  devices::Pvpanic pvpanic;
  devices::PciHostBridge bridge;
  VirtioDevices virtio;

  std::mutex end_mutex;
  std::condition_variable end_changed;
  std::optional<End> ended;

  VcpuStateShape state_shape;
  std::optional<GuestClock> clock;  // set once there are vCPUs
  bool quiesced = true;             // devices start so
  bool has_run = false;
  bool has_state = false;  // booted or restored
  RunControl control;
  std::vector<std::unique_ptr<Vcpu>> vcpus;  // last but one: their threads use all of the above
  VcpuUrgency urgency{vcpus};
};

Machine::Parts::Parts(MachineConfig machine_config, ConsoleSink console_sink,
                      std::optional<memory::GivenRam> ram)
    : config(checked(std::move(machine_config))),
      kvm(checked_kvm()),
      memory(ram ? memory::GuestMemory(config.memory_bytes, config.huge_pages, std::move(*ram))
                 : memory::GuestMemory(config.memory_bytes, config.huge_pages)),
      vm(create_vm(kvm)),
      dirty_log(vm, memory),
      chips(vm),
      serial_line(vm, boot::kSerialGsi),
      event_line(vm, boot::kPowerButtonGsi),
      vectors(vm, boot::kIoApicInputs),
      doorbells(vm),
      serial(serial_line, std::move(console_sink.serial)),
      power(
          event_line,
          [this] {
            end({End::Kind::kPowerOff, {}});
          },
          [this] {
            end({End::Kind::kReset, {}});
          }),
      keyboard([this] {
        end({End::Kind::kReset, {}});
      }),
      virtio(config, std::move(console_sink.hvc), memory, vectors, doorbells, mmio, bridge) {
  ports.attach(boot::kSerialPort, boot::kSerialPortCount, serial);
  ports.attach(boot::kPowerPort, boot::kPowerPortCount, power);
  ports.attach(boot::kKeyboardPort, 1, keyboard);
  ports.attach(boot::kPanicPort, devices::Pvpanic::kPorts, pvpanic);
  ports.attach(boot::kPciConfigPort, boot::kPciConfigPortCount, bridge);
  for_each_device([](devices::Device& device, std::uint32_t) { device.quiesce(); });

  const CpuidEntries supported = kvm.supported_cpuid();
  const bool deadline = kvm.check_extension(KVM_CAP_TSC_DEADLINE_TIMER) != 0;
  sys::for_option("cpu", [&] { require_cpu_model(config.cpu, supported); });
  try {
    for (unsigned i = 0; i < config.cpus; ++i) {
      vcpus.push_back(
          std::make_unique<Vcpu>(i, kvm, vm, ports, mmio, control, [this](std::string why) {
            end({End::Kind::kFailed, std::move(why)});
          }));
      vcpus[i]->kvm().set_cpuid2(guest_cpuid(supported, deadline, i, config.cpus, config.cpu));
      set_power_on_msrs(vcpus[i]->kvm());
    }
    state_shape = probe_vcpu_state(kvm, vm, vcpus[0]->kvm());
    clock.emplace(vm, kvm_vcpus());
  } catch (...) {
    control.set_goal(RunControl::Goal::kExit);
    throw;
  }
}

Machine::Parts::~Parts() {
  control.set_goal(RunControl::Goal::kExit);
  kick_all();
}

void Machine::Parts::kick_all() {
  for (const auto& vcpu : vcpus) vcpu->kick();
}

void Machine::Parts::end(End why) {
  {
    const std::lock_guard lock(end_mutex);
    if (!ended) ended = std::move(why);
  }
  end_changed.notify_all();
  control.stop_running();
  kick_all();
}

void Machine::Parts::for_each_device(
    const std::function<void(devices::Device&, std::uint32_t)>& action) {
  action(serial, 0);
  action(power, 0);
  action(keyboard, 0);
  action(pvpanic, 0);
  action(bridge, 0);
  virtio.for_each(action);
}

std::vector<kvm::KvmVcpu*> Machine::Parts::kvm_vcpus() {
  std::vector<kvm::KvmVcpu*> list;
  for (const auto& vcpu : vcpus) list.push_back(&vcpu->kvm());
  return list;
}

Shape Machine::Parts::shape() const {
  return {config.memory_bytes, config.cpus, static_cast<std::uint32_t>(virtio.count())};
}

void Machine::Parts::require_paused(const char* what) const {
  if (control.running()) {
    throw std::logic_error(fmt::format("{} needs a paused machine", what));
  }
}

Machine::Machine(MachineConfig config, ConsoleSink console)
    : parts_(std::make_unique<Parts>(std::move(config), std::move(console), std::nullopt)) {}

Machine::Machine(MachineConfig config, ConsoleSink console, memory::GivenRam ram)
    : parts_(std::make_unique<Parts>(std::move(config), std::move(console), std::move(ram))) {}

Machine::~Machine() {
  if (!parts_->quiesced) pause();
}

const MachineConfig& Machine::config() const { return parts_->config; }

void Machine::lock_disks() { parts_->virtio.lock_disks(); }

void Machine::unlock_disks() { parts_->virtio.unlock_disks(); }

bool Machine::disks_tell() const { return parts_->virtio.disks_tell(); }

std::vector<std::int64_t> Machine::disk_stamps() const { return parts_->virtio.disk_stamps(); }

void Machine::mark_disks() { parts_->virtio.mark_disks(); }

bool Machine::disks_locked_elsewhere() const { return parts_->virtio.disks_locked_elsewhere(); }

void Machine::boot() {
  if (parts_->has_state) throw std::logic_error("a machine boots once");
  const boot::Entry entry = boot::load(parts_->config, parts_->memory);
  set_boot_registers(parts_->vcpus[0]->kvm(), entry);
  parts_->has_state = true;
}

void Machine::resume() {
  Parts& p = *parts_;
  if (!p.has_state) throw std::logic_error("a machine must be booted or restored first");
  {
    const std::lock_guard lock(p.end_mutex);
    if (p.ended) return;
  }
  if (!p.quiesced) return;
  if (p.has_run) {
    for (const auto& vcpu : p.vcpus) vcpu->kvm().kvmclock_ctrl();
  }
  p.for_each_device([](devices::Device& device, std::uint32_t) { device.resume(); });
  p.quiesced = false;
  p.has_run = true;
  p.control.set_goal(RunControl::Goal::kRun);
  // A request to stop that came in between found nothing to stop.
  const std::lock_guard lock(p.end_mutex);
  if (!p.ended) return;
  p.control.stop_running();
  p.kick_all();
}

void Machine::set_urgency(sys::Urgency urgency) noexcept { parts_->urgency.set(urgency); }

void Machine::pause() {
  Parts& p = *parts_;
  p.control.set_goal(RunControl::Goal::kPark);
  p.kick_all();
  p.control.wait_parked(static_cast<unsigned>(p.vcpus.size()));
  if (p.quiesced) return;
  p.for_each_device([](devices::Device& device, std::uint32_t) { device.quiesce(); });
  p.quiesced = true;
}

bool Machine::pre_fault(memory::PageRange range) {
  for (const memory::Region& region : parts_->memory.regions()) {
    const std::uint64_t first = std::max(range.offset(), region.ram_offset);
    const std::uint64_t end =
        std::min(range.offset() + range.bytes(), region.ram_offset + region.size);
    if (first >= end) continue;
    if (!parts_->vcpus[0]->kvm().pre_fault_memory(region.guest_addr + first - region.ram_offset,
                                                  end - first))
      return false;
  }
  return true;
}

bool Machine::running() const { return parts_->control.running(); }

void Machine::hold(bool on) {
  if (parts_->control.hold(on) && on) parts_->kick_all();
}

std::vector<std::byte> Machine::save() {
  Parts& p = *parts_;
  p.require_paused("save()");
  StateWriter writer;
  writer.begin("machine", kVersion, 0);
  writer.put(p.shape());
  p.clock->save(writer);
  for (std::uint32_t i = 0; i < p.vcpus.size(); ++i) {
    save_vcpu(writer, i, p.vcpus[i]->kvm(), p.state_shape);
  }
  writer.begin("irqchip", kVersion, 0);
  for (const std::uint32_t id : kIrqChips) writer.put(p.vm.get_irqchip(id));
  p.for_each_device([&](devices::Device& device, std::uint32_t i) { device.save(writer, i); });
  return writer.finish();
}

void Machine::restore(std::span<const std::byte> state, std::chrono::nanoseconds longest_pause) {
  Parts& p = *parts_;
  if (p.has_state) throw std::logic_error("restore() needs a fresh machine");
  StateReader reader(state);
  reader.begin("machine", kVersion, 0);
  const auto shape = reader.get<Shape>();
  if (shape.memory_bytes != p.config.memory_bytes || shape.cpus != p.config.cpus ||
      shape.virtio != p.virtio.count()) {
    reader.fail("of a machine with another shape");
  }
  const ClockSection clock = p.clock->read(reader);
  std::vector<VcpuState> vcpu_states;
  for (std::uint32_t i = 0; i < p.vcpus.size(); ++i) vcpu_states.push_back(read_vcpu(reader, i));
  reader.begin("irqchip", kVersion, 0);
  std::vector<kvm_irqchip> chips;
  for (const std::uint32_t id : kIrqChips) {
    chips.push_back(reader.get<kvm_irqchip>());
    if (chips.back().chip_id != id) reader.fail("another chip in its place");
  }
  p.for_each_device([&](devices::Device& device, std::uint32_t i) { device.restore(reader, i); });
  reader.finish();

  for (std::size_t i = 0; i < p.vcpus.size(); ++i) {
    restore_vcpu_registers(p.vcpus[i]->kvm(), vcpu_states[i], p.state_shape);
  }
  p.clock->restore(clock, static_cast<std::uint64_t>(longest_pause.count()));
  for (std::size_t i = 0; i < p.vcpus.size(); ++i) {
    restore_vcpu_msrs(p.vcpus[i]->kvm(), vcpu_states[i]);
  }
  // Pending inputs of the I/O APIC go on to the local APICs, which are there by now.
  for (const kvm_irqchip& chip : chips) p.vm.set_irqchip(chip);
  p.has_state = true;
  p.has_run = true;  // it was somewhere: tell the guest of the pause
}

void Machine::renew_generation() {
  parts_->require_paused("renew_generation()");
  boot::write_generation_id(parts_->memory);
  parts_->power.announce(boot::kEventGeneration);
}

bool Machine::panicked() const { return parts_->pvpanic.panicked(); }

memory::GuestMemory& Machine::memory() { return parts_->memory; }
memory::DirtyLog& Machine::dirty_log() { return parts_->dirty_log; }

std::string Machine::requirements() const {
  Requirements requirements;
  requirements.cpus = parts_->config.cpus;
  requirements.cpuid = guest_cpuid(parts_->kvm, 0, requirements.cpus, parts_->config.cpu);
  requirements.tsc_khz = parts_->clock->tsc_khz();
  return to_json(requirements);
}

void Machine::warm_up() noexcept {
  try {
    tsc_of_this_host(checked_kvm());
  } catch (const std::exception&) {
    // refusal() will say why.
  }
}

std::string Machine::refusal(const std::string& requirements) {
  try {
    const Requirements needed = requirements_from_json(requirements);
    const kvm::Kvm kvm = checked_kvm();
    return refusal_of(needed, guest_cpuid(kvm, 0, needed.cpus), tsc_of_this_host(kvm));
  } catch (const std::exception& error) {
    return error.what();
  }
}

End Machine::wait() {
  std::unique_lock lock(parts_->end_mutex);
  parts_->end_changed.wait(lock, [this] { return parts_->ended.has_value(); });
  return *parts_->ended;
}

void Machine::request_stop() { parts_->end({End::Kind::kStopped, {}}); }

void Machine::press_power_button() { parts_->power.press_button(); }

std::size_t Machine::console_input(std::span<const std::byte> bytes) {
  return parts_->serial.input(bytes);
}

std::size_t Machine::hvc_input(std::span<const std::byte> bytes) {
  return parts_->virtio.hvc_input(bytes);
}

std::uint64_t Machine::vcpu_cpu_ns() const {
  std::uint64_t total = 0;
  for (const auto& vcpu : parts_->vcpus) total += vcpu->cpu_time_ns();
  return total;
}

Usage Machine::usage() const {
  Usage total;
  total.cpu_run_ns = vcpu_cpu_ns();
  for (const auto& vcpu : parts_->vcpus) total.cpu_wait_ns += vcpu->wait_time_ns();
  parts_->virtio.add_usage(total);
  return total;
}

void Machine::set_balloon(std::uint64_t bytes) { parts_->virtio.set_balloon(bytes); }

std::optional<BalloonState> Machine::balloon() const { return parts_->virtio.balloon(); }
std::vector<DiskErrors> Machine::disk_errors() const { return parts_->virtio.disk_errors(); }

std::uint64_t Machine::first_instruction_ns() const { return parts_->vcpus[0]->first_entry_ns(); }

}  // namespace godwit::vmm
