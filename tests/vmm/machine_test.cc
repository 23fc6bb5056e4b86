#include "vmm/machine.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "tests/vmm/sys/on_one_cpu.h"
#include "tests/vmm/tiny_guest.h"
#include "vmm/boot/layout.h"
#include "vmm/exit.h"
#include "vmm/kvm/kvm.h"

namespace godwit::vmm {
namespace {

using namespace std::chrono_literals;
using testing::Code;
using testing::operator+;
using testing::TemporaryFile;

constexpr std::uint64_t kMiB = 1 << 20;

/// Collects console output; the vCPU thread writes, the test reads.
class Console {
 public:
  ConsoleSink sink() {
    return [this](std::span<const std::byte> bytes) {
      const std::lock_guard lock(mutex_);
      text_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    };
  }
  std::string text() {
    const std::lock_guard lock(mutex_);
    return text_;
  }

 private:
  std::mutex mutex_;
  std::string text_;
};

MachineConfig config_for(const std::string& kernel, unsigned cpus = 1) {
  MachineConfig config;
  config.name = "test";
  config.memory_bytes = 8 * kMiB;
  config.cpus = cpus;
  config.kernel = kernel;
  return config;
}

std::uint32_t counter(Machine& machine) {
  return machine.memory().load<std::uint32_t>(testing::kCounter).value();
}

/// Waits until the guest has counted on from `from`.
void wait_for_count(Machine& machine, std::uint32_t from) {
  for (int i = 0; i < 5000 && counter(machine) <= from; ++i) std::this_thread::sleep_for(1ms);
  ASSERT_GT(counter(machine), from);
}

TEST(Machine, RunsAGuestUntilItPowersOff) {
  const TemporaryFile kernel(testing::tiny_elf(testing::print("ok\n") + testing::power_off()));
  for (const unsigned cpus : {1u, 2u, 16u}) {
    Console console;
    Machine machine(config_for(kernel.path(), cpus), console.sink());
    EXPECT_EQ(machine.first_instruction_ns(), 0u);
    machine.boot();
    machine.resume();
    const End end = machine.wait();
    EXPECT_EQ(end.kind, End::Kind::kPowerOff) << end.why;
    EXPECT_EQ(console.text(), "ok\n");
    EXPECT_GT(machine.first_instruction_ns(), 0u);
  }
}

TEST(Machine, TellsAResetFromAPowerOff) {
  for (const auto& reset : {testing::out_byte(boot::kResetPort, boot::kResetValue),
                            testing::out_byte(boot::kKeyboardPort, boot::kKeyboardResetValue)}) {
    const TemporaryFile kernel(testing::tiny_elf(reset + Code{0xf4, 0xeb, 0xfd}));
    Machine machine(config_for(kernel.path()), {});
    machine.boot();
    machine.resume();
    EXPECT_EQ(machine.wait().kind, End::Kind::kReset);
  }
}

TEST(Machine, SaysSoWhenTheGuestCrashes) {
  // lidt with an empty table, then int3: a triple fault.
  const TemporaryFile kernel(testing::tiny_elf({0x0f, 0x01, 0x1d, 0x00, 0x00, 0x20, 0x00, 0xcc}));
  Machine machine(config_for(kernel.path()), {});
  machine.boot();
  machine.resume();
  const End end = machine.wait();
  EXPECT_EQ(end.kind, End::Kind::kFailed);
  // A KVM that emulates guest code gives up earlier, and says what it is.
  const char* expected =
      host_has_hardware_virtualization() ? "triple fault" : "emulates guest code";
  EXPECT_NE(end.why.find(expected), std::string::npos) << end.why;
}

TEST(Machine, StopsOnRequest) {
  const TemporaryFile kernel(testing::tiny_elf(testing::count_until_told()));
  Machine machine(config_for(kernel.path()), {});
  machine.boot();
  machine.resume();
  std::thread stopper([&] {
    std::this_thread::sleep_for(20ms);
    machine.request_stop();
  });
  EXPECT_EQ(machine.wait().kind, End::Kind::kStopped);
  stopper.join();
}

TEST(Machine, StandsStillWhilePaused) {
  const TemporaryFile kernel(testing::tiny_elf(testing::count_until_told() + testing::power_off()));
  Machine machine(config_for(kernel.path(), 2), {});
  machine.boot();
  machine.resume();
  wait_for_count(machine, 0);
  for (int i = 0; i < 50; ++i) {
    machine.pause();
    EXPECT_FALSE(machine.running());
    const std::uint32_t before = counter(machine);
    if (i == 0) std::this_thread::sleep_for(20ms);
    EXPECT_EQ(counter(machine), before);
    machine.resume();
  }
  wait_for_count(machine, counter(machine));
  machine.memory().store<std::uint32_t>(testing::kStopFlag, 1);
  EXPECT_EQ(machine.wait().kind, End::Kind::kPowerOff);
}

TEST(Machine, CountsWhatItsVcpusUse) {
  const TemporaryFile kernel(testing::tiny_elf(testing::count_until_told()));
  Machine machine(config_for(kernel.path(), 2), {});
  machine.boot();
  const Usage before = machine.usage();
  machine.resume();
  wait_for_count(machine, 0);
  for (int i = 0; i < 5000 && machine.usage().cpu_run_ns < before.cpu_run_ns + 50'000'000; ++i) {
    const Usage now = machine.usage();
    std::this_thread::sleep_for(1ms);
    EXPECT_GE(machine.usage().cpu_wait_ns, now.cpu_wait_ns);
  }
  EXPECT_GE(machine.usage().cpu_run_ns, before.cpu_run_ns + 50'000'000);
  machine.pause();
  const Usage paused = machine.usage();
  std::this_thread::sleep_for(50ms);
  EXPECT_LT(machine.usage().cpu_run_ns - paused.cpu_run_ns, 5'000'000u);
  EXPECT_EQ(machine.usage().disk_read_bytes, 0u);
}

/// The policy and nice value of the first vCPU's thread.
std::pair<int, int> standing_of_vcpu() {
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::string name;
    std::ifstream(task.path() / "comm") >> name;
    const auto thread = std::stoi(task.path().filename());
    if (name == "vcpu0")
      return {::sched_getscheduler(thread), ::getpriority(PRIO_PROCESS, static_cast<id_t>(thread))};
  }
  return {-1, 0};
}

/// The guest keeps the only CPU busy that it and this process have.
TEST(Machine, IsInTheGreatestHurryForAMomentOnly) {
  if (::geteuid() != 0) GTEST_SKIP() << "not root: a process may not raise its own priority";
  const sys::OnOneCpu one;
  const TemporaryFile kernel(testing::tiny_elf(testing::count_until_told()));
  {
    Machine machine(config_for(kernel.path()), {});
    machine.boot();
    machine.resume();
    wait_for_count(machine, 0);
    const std::pair<int, int> usual = standing_of_vcpu();
    // This thread goes before all of them, to see it.
    const sched_param before{.sched_priority = 10};
    ASSERT_EQ(::sched_setscheduler(0, SCHED_RR, &before), 0);
    const auto comes_to_be = [](int policy, int nice) {
      for (int i = 0; i < 5000; ++i) {
        if (standing_of_vcpu() == std::pair(policy, nice)) return true;
        std::this_thread::sleep_for(1ms);
      }
      return false;
    };
    machine.set_urgency(sys::Urgency::kHighest);
    EXPECT_TRUE(comes_to_be(SCHED_RR, -10));
    EXPECT_TRUE(comes_to_be(SCHED_OTHER, -10));
    machine.set_urgency(sys::Urgency::kHighest);
    EXPECT_TRUE(comes_to_be(SCHED_RR, -10));
    machine.set_urgency(sys::Urgency::kUsual);
    EXPECT_EQ(standing_of_vcpu(), usual);
    std::this_thread::sleep_for(100ms);
    EXPECT_EQ(standing_of_vcpu(), usual);
  }
  const sched_param none{};
  ASSERT_EQ(::sched_setscheduler(0, SCHED_OTHER, &none), 0);
}

/// Copies RAM page by page, as a move does.
void copy_memory(Machine& from, Machine& to) {
  for (const auto range : from.memory().populated({0, from.memory().pages()})) {
    const auto source = from.memory().page_bytes(range);
    std::copy(source.begin(), source.end(), to.memory().page_bytes(range).begin());
  }
}

TEST(Machine, GoesOnElsewhereWhereItStopped) {
  const TemporaryFile kernel(testing::tiny_elf(testing::count_until_told() + testing::print("end") +
                                               testing::power_off()));
  for (const unsigned cpus : {1u, 2u, 16u}) {
    Console console;
    auto here = std::make_unique<Machine>(config_for(kernel.path(), cpus), console.sink());
    here->boot();
    here->resume();
    for (int hop = 0; hop < 3; ++hop) {
      wait_for_count(*here, counter(*here));
      auto there = std::make_unique<Machine>(config_for(kernel.path(), cpus), console.sink());
      here->pause();
      const auto state = here->save();
      EXPECT_LT(state.size(), cpus * 64 * 1024);
      copy_memory(*here, *there);
      there->restore(state);
      const std::uint32_t before = counter(*there);
      there->resume();
      wait_for_count(*there, before);
      EXPECT_EQ(counter(*here), before);  // the old one stands still
      here = std::move(there);
    }
    here->memory().store<std::uint32_t>(testing::kStopFlag, 1);
    EXPECT_EQ(here->wait().kind, End::Kind::kPowerOff);
    EXPECT_EQ(console.text(), "end");
  }
}

TEST(Machine, TellsTheGuestsClockThatItWasPausedAndNeverTurnsItBack) {
  // Linux's pvclock_vcpu_time_info: its watchdogs look for PVCLOCK_GUEST_STOPPED, and clear it.
  constexpr std::uint32_t kClock = 0x31'0000;
  constexpr std::uint32_t kSystemTime = kClock + 16;
  constexpr std::uint32_t kFlags = kClock + 29;
  constexpr std::uint8_t kGuestStopped = 2;
  const Code enable = {0xb9, 0x01, 0x4d, 0x56, 0x4b,  // mov ecx, MSR_KVM_SYSTEM_TIME_NEW
                       0xb8, 0x01, 0x00, 0x31, 0x00,  // mov eax, kClock | enabled
                       0x31, 0xd2, 0x0f, 0x30};       // xor edx, edx; wrmsr
  const TemporaryFile kernel(
      testing::tiny_elf(enable + testing::count_until_told() + testing::power_off()));
  auto machine = std::make_unique<Machine>(config_for(kernel.path()), ConsoleSink{});
  const auto stopped = [&] {
    auto& memory = machine->memory();
    const std::uint8_t flags = memory.load<std::uint8_t>(kFlags).value();
    memory.store<std::uint8_t>(kFlags, flags & ~kGuestStopped);
    return (flags & kGuestStopped) != 0;
  };
  const auto time = [&] { return machine->memory().load<std::uint64_t>(kSystemTime).value(); };
  machine->boot();
  machine->resume();
  wait_for_count(*machine, 0);
  EXPECT_GT(time(), 0u);
  EXPECT_FALSE(stopped());
  for (const bool moves : {false, true, true}) {
    machine->pause();
    const std::uint64_t before = time();
    if (moves) {
      auto there = std::make_unique<Machine>(config_for(kernel.path()), ConsoleSink{});
      const auto state = machine->save();
      copy_memory(*machine, *there);
      there->restore(state);
      machine = std::move(there);
    }
    std::this_thread::sleep_for(5ms);
    machine->resume();
    wait_for_count(*machine, counter(*machine));
    EXPECT_TRUE(stopped()) << "moves: " << moves;
    EXPECT_GE(time(), before + (moves ? 5'000'000 : 0)) << "moves: " << moves;
  }
  machine->memory().store<std::uint32_t>(testing::kStopFlag, 1);
  EXPECT_EQ(machine->wait().kind, End::Kind::kPowerOff);
}

TEST(Machine, IsPreFaultedWhereTheKernelCan) {
  const bool can = kvm::Kvm().check_extension(KVM_CAP_PRE_FAULT_MEMORY) != 0;
  const TemporaryFile kernel(testing::tiny_elf(testing::count_until_told() + testing::power_off()));
  Machine here(config_for(kernel.path()), {});
  here.boot();
  here.resume();
  wait_for_count(here, 0);
  here.pause();
  Machine there(config_for(kernel.path()), {});
  copy_memory(here, there);
  for (const memory::PageRange& range : there.memory().populated({0, there.memory().pages()})) {
    EXPECT_EQ(there.pre_fault(range), can);
  }
  there.restore(here.save());
  const std::uint32_t before = counter(there);
  there.resume();
  wait_for_count(there, before);

  MachineConfig large = config_for("/nonexistent");
  large.memory_bytes = 5 * boot::kGiB;
  Machine both_sides(large, {});
  const std::uint64_t split = boot::kLowRamEnd / memory::kPageSize;
  EXPECT_EQ(both_sides.pre_fault({split - 1, 2}), can);
  EXPECT_EQ(both_sides.memory().populated_bytes(), can ? 2 * memory::kPageSize : 0);
}

// The guest is nearly always in a port access when it is stopped: each must be finished before the
// registers are saved, or it is done twice or not at all. Reading the receive register takes a byte
// out of it, so either would show.
TEST(Machine, RepeatsNoPortAccessAndLosesNone) {
  const TemporaryFile kernel(testing::tiny_elf(testing::echo_until_told() + testing::power_off()));
  Console console;
  auto here = std::make_unique<Machine>(config_for(kernel.path()), console.sink());
  here->boot();
  here->resume();
  std::uint8_t typed = 0;
  for (int hop = 0; hop < 30; ++hop) {
    const std::size_t before = console.text().size();
    for (int i = 0; i < 2000 && console.text().size() < before + 20; ++i) {
      for (std::byte b{typed}; here->console_input({&b, 1}) == 1;) b = std::byte{++typed};
      std::this_thread::sleep_for(100us);
    }
    auto there = std::make_unique<Machine>(config_for(kernel.path()), console.sink());
    here->pause();
    const auto state = here->save();
    copy_memory(*here, *there);
    there->restore(state);
    there->resume();
    here = std::move(there);
  }
  here->memory().store<std::uint32_t>(testing::kStopFlag, 1);
  EXPECT_EQ(here->wait().kind, End::Kind::kPowerOff);
  const std::string text = console.text();
  EXPECT_GE(text.size(), 500u);
  for (std::size_t i = 0; i < text.size(); ++i) {
    ASSERT_EQ(static_cast<std::uint8_t>(text[i]), static_cast<std::uint8_t>(i)) << i;
  }
}

/// The sections by name and instance, but for the clock, which goes on.
std::map<std::string, std::vector<std::byte>> sections_of(std::span<const std::byte> state) {
  std::map<std::string, std::vector<std::byte>> sections;
  while (!state.empty()) {
    SectionHeader header;
    std::memcpy(&header, state.data(), sizeof header);
    const auto body = state.subspan(sizeof header, header.size);
    const std::string kind = header.kind;
    if (kind != "clock") {
      sections[kind + std::to_string(header.instance)].assign(body.begin(), body.end());
    }
    state = state.subspan(sizeof header + header.size);
  }
  return sections;
}

TEST(Machine, SavesTheSameAgainAfterARestore) {
  const TemporaryFile kernel(testing::tiny_elf(testing::count_until_told()));
  const TemporaryFile disk{std::vector<std::uint8_t>(kMiB)};
  MachineConfig config = config_for(kernel.path(), 2);
  config.disks.push_back({disk.path(), false});
  Machine here(config, {});
  here.boot();
  here.resume();
  wait_for_count(here, 0);
  here.pause();
  const auto state = here.save();
  Machine there(config, {});
  there.restore(state);
  const auto before = sections_of(state), after = sections_of(there.save());
  EXPECT_EQ(before.size(), 10u);  // machine, 2 vCPUs, irqchip, 5 devices and a disk
  for (const auto& [name, bytes] : before) {
    EXPECT_TRUE(after.contains(name) && after.at(name) == bytes) << name;
  }
}

TEST(Machine, RefusesStatesThatAreNotItsOwn) {
  const TemporaryFile kernel(testing::tiny_elf(testing::count_until_told()));
  Machine source(config_for(kernel.path()), {});
  source.boot();
  const auto state = source.save();
  {
    Machine two(config_for(kernel.path(), 2), {});
    EXPECT_THROW(two.restore(state), StateError);
  }
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{40}, state.size() / 2, state.size() - 1}) {
    Machine other(config_for(kernel.path()), {});
    EXPECT_THROW(other.restore(std::span(state).first(size)), StateError) << size;
  }
  auto longer = state;
  longer.push_back(std::byte{0});
  Machine other(config_for(kernel.path()), {});
  EXPECT_THROW(other.restore(longer), StateError);
}

TEST(Machine, RefusesImpossibleShapes) {
  const auto with = [](std::uint64_t memory, unsigned cpus) {
    MachineConfig config = config_for("/nonexistent", cpus);
    config.memory_bytes = memory;
    return config;
  };
  EXPECT_THROW(Machine(with(0, 1), {}), std::runtime_error);
  EXPECT_THROW(Machine(with(kMiB, 1), {}), std::runtime_error);
  EXPECT_THROW(Machine(with(std::uint64_t{17} << 40, 1), {}), std::runtime_error);
  EXPECT_THROW(Machine(with(8 * kMiB, 0), {}), std::runtime_error);
  EXPECT_THROW(Machine(with(8 * kMiB, 17), {}), std::runtime_error);
  Machine machine(with(8 * kMiB, 1), {});
  EXPECT_THROW(machine.boot(), std::runtime_error);
}

TEST(Machine, AnswersItsOwnRequirements) {
  const TemporaryFile kernel(testing::tiny_elf(testing::power_off()));
  Machine machine(config_for(kernel.path(), 2), {});
  EXPECT_EQ(Machine::refusal(machine.requirements()), "");
  EXPECT_NE(Machine::refusal("{}"), "");
  EXPECT_NE(Machine::refusal(""), "");
  EXPECT_NE(Machine::refusal(R"({"version":1,"cpus":1,"tsc_khz":0,"cpuid":[[0,0,0]]})"), "");
}

TEST(DirtyLog, SeesWhatGuestAndVmmWrite) {
  const TemporaryFile kernel(testing::tiny_elf(testing::count_until_told() + testing::power_off()));
  Machine machine(config_for(kernel.path()), {});
  machine.boot();
  machine.resume();
  wait_for_count(machine, 0);
  memory::DirtyLog& log = machine.dirty_log();
  const std::uint64_t pages = machine.memory().pages();
  const memory::PageRange all{0, pages};
  const std::uint64_t counter_page = testing::kCounter / memory::kPageSize;

  log.start();
  memory::PageBitmap dirty(pages);
  log.collect(dirty);
  EXPECT_EQ(dirty.count(), pages);  // at first everything

  log.clear(all);
  wait_for_count(machine, counter(machine));
  constexpr std::uint64_t kOurs = 7 * kMiB;
  machine.memory().store<std::uint8_t>(kOurs, 1);
  machine.pause();
  dirty.clear();
  log.collect(dirty);
  EXPECT_EQ(dirty.ranges(),
            (std::vector<memory::PageRange>{{counter_page, 1}, {kOurs / memory::kPageSize, 1}}));
  dirty.clear();
  log.collect(dirty);
  EXPECT_EQ(dirty.count(), 2u);  // collecting forgets nothing

  // What was dirtied after the last collect() must survive clear().
  machine.memory().store<std::uint8_t>(kOurs + memory::kPageSize, 1);
  log.clear(all);
  dirty.clear();
  log.collect(dirty);
  EXPECT_EQ(dirty.ranges(), (std::vector<memory::PageRange>{{kOurs / memory::kPageSize + 1, 1}}));
  log.clear(all);
  dirty.clear();
  log.collect(dirty);
  EXPECT_EQ(dirty.count(), 0u);

  machine.resume();
  wait_for_count(machine, counter(machine));
  log.collect(dirty);
  EXPECT_TRUE(dirty.test(counter_page));
  log.clear({counter_page / 64 * 64, 64});
  wait_for_count(machine, counter(machine));
  dirty.clear();
  log.collect(dirty);
  EXPECT_TRUE(dirty.test(counter_page));  // protected again, seen again

  EXPECT_THROW(log.clear({1, 64}), std::invalid_argument);
  EXPECT_THROW(log.clear({0, pages + 64}), std::out_of_range);
  log.stop();
  log.stop();
  EXPECT_THROW(log.collect(dirty), std::logic_error);
  log.start();
  dirty.clear();
  log.collect(dirty);
  EXPECT_EQ(dirty.count(), pages);
  machine.pause();
}

TEST(DirtyLog, CoversRamOnBothSidesOfTheDeviceHole) {
  MachineConfig config = config_for("/nonexistent");
  config.memory_bytes = 5 * boot::kGiB;
  Machine machine(config, {});
  memory::DirtyLog& log = machine.dirty_log();
  const std::uint64_t pages = machine.memory().pages();
  const std::uint64_t split = boot::kLowRamEnd / memory::kPageSize;
  log.start();
  log.clear({0, pages});  // nothing collected yet: nothing to forget
  memory::PageBitmap dirty(pages);
  log.collect(dirty);
  EXPECT_EQ(dirty.count(), pages);
  log.clear({split - 64, 128});  // across the hole
  dirty.clear();
  log.collect(dirty);
  EXPECT_EQ(dirty.ranges(),
            (std::vector<memory::PageRange>{{0, split - 64}, {split + 64, pages - split - 64}}));
  log.clear({0, pages});
  machine.memory().store<std::uint8_t>(boot::kHighRamStart, 1);
  machine.memory().store<std::uint8_t>(boot::kLowRamEnd - 1, 1);
  dirty.clear();
  log.collect(dirty);
  EXPECT_EQ(dirty.ranges(), (std::vector<memory::PageRange>{{split - 1, 2}}));
}

}  // namespace
}  // namespace godwit::vmm
