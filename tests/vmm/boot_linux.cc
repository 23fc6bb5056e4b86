// Boots a kernel with the VMM and nothing else, for bringing up and measuring: console on standard
// output, exit status 0 when the guest powers off. With HOPS, the running guest is moved that many
// times, one a second, into a fresh machine in the same process, and the pauses are printed. After
// that standard input is typed at the console.
//
// usage: boot_linux KERNEL INITRD APPEND CPUS MEMORY_MIB [HOPS [DISK]]
#include <fmt/core.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <memory>
#include <thread>

#include "vmm/machine.h"

namespace {

std::uint64_t now_ns() {
  timespec time = {};
  ::clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000 +
         static_cast<std::uint64_t>(time.tv_nsec);
}

using namespace godwit::vmm;

void write_console(std::span<const std::byte> bytes) {
  if (::write(STDOUT_FILENO, bytes.data(), bytes.size()) < 0) std::abort();
}

/// Pauses `from`, makes `to` its continuation and lets that run.
void hop(Machine& from, Machine& to) {
  const std::uint64_t begin = now_ns();
  from.pause();
  const std::uint64_t paused = now_ns();
  const auto state = from.save();
  const std::uint64_t saved = now_ns();
  for (const auto range : from.memory().populated({0, from.memory().pages()})) {
    const auto source = from.memory().page_bytes(range);
    std::copy(source.begin(), source.end(), to.memory().page_bytes(range).begin());
  }
  const std::uint64_t copied = now_ns();
  to.restore(state);
  const std::uint64_t restored = now_ns();
  from.unlock_disks();
  to.lock_disks();
  to.resume();
  const auto ms = [](std::uint64_t ns) { return static_cast<double>(ns) / 1e6; };
  fmt::print(stderr,
             "boot_linux: hop: pause {:.2f} ms, save {:.2f} ms ({} bytes), copy {:.0f} ms, restore "
             "{:.2f} ms, resume {:.2f} ms\n",
             ms(paused - begin), ms(saved - paused), state.size(), ms(copied - saved),
             ms(restored - copied), ms(now_ns() - restored));
}

int boot(char** argv, int argc) {
  const std::uint64_t started = now_ns();
  MachineConfig config;
  config.name = "linux";
  config.kernel = argv[1];
  config.initrd = argv[2];
  config.command_line = argv[3];
  config.cpus = static_cast<unsigned>(std::atoi(argv[4]));
  config.memory_bytes = static_cast<std::uint64_t>(std::atoi(argv[5])) << 20;
  if (argc > 7) config.disks.push_back({argv[7], false});
  auto machine = std::make_unique<Machine>(config, write_console);
  machine->lock_disks();
  machine->boot();
  machine->resume();
  while (machine->first_instruction_ns() == 0) ::usleep(100);
  const std::uint64_t first = machine->first_instruction_ns();
  for (int hops = argc > 6 ? std::atoi(argv[6]) : 0; hops > 0; --hops) {
    ::sleep(1);
    auto next = std::make_unique<Machine>(config, write_console);
    hop(*machine, *next);
    machine = std::move(next);
  }
  std::thread([&machine] {
    std::byte buffer[64];
    for (ssize_t n; (n = ::read(STDIN_FILENO, buffer, sizeof buffer)) > 0;) {
      machine->console_input({buffer, static_cast<std::size_t>(n)});
    }
  }).detach();
  const End end = machine->wait();
  fmt::print(stderr, "boot_linux: {} after {} ms; first instruction after {:.1f} ms\n",
             end.kind == End::Kind::kPowerOff ? "power-off"
             : end.kind == End::Kind::kReset  ? "reset"
                                              : end.why,
             (now_ns() - started) / 1'000'000, static_cast<double>(first - started) / 1e6);
  machine->pause();
  ::_exit(end.kind == End::Kind::kPowerOff ? 0 : 1);  // the reader may be blocked
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 6) {
    fmt::print(stderr, "usage: {} KERNEL INITRD APPEND CPUS MEMORY_MIB [HOPS [DISK]]\n", argv[0]);
    return 2;
  }
  try {
    return boot(argv, argc);
  } catch (const std::exception& error) {
    fmt::print(stderr, "boot_linux: {}\n", error.what());
    return 1;
  }
}
