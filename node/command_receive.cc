// receive: takes one guest from another host and goes on running it.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <optional>

#include "migration/destination.h"
#include "node/commands.h"
#include "node/device_options.h"
#include "node/exit_codes.h"
#include "node/host_events.h"
#include "node/listener.h"
#include "node/machine_options.h"
#include "node/options.h"
#include "node/serve.h"
#include "node/succession.h"
#include "node/terminal.h"

namespace godwit::node {

namespace {

constexpr const char* kNextSocket = ".next";  // of a process that is to succeed another

Listener listen_on(const std::string& host_port) {
  try {
    return Listener(host_port);
  } catch (const std::invalid_argument& error) {
    throw UsageError(fmt::format("--listen: {}", error.what()));
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(fmt::format("--listen: {}", error.what()));
  }
}

/// What ends the wait for a guest: a signal, which also interrupts a guest on its way.
class Interruption {
 public:
  void raise(int number) {
    signal_ = number;
    event_.signal();
    const std::lock_guard lock(mutex_);
    if (destination_ != nullptr) destination_->interrupt();
  }
  void watch(migration::Destination* destination) {
    const std::lock_guard lock(mutex_);
    destination_ = destination;
    if (destination_ != nullptr && signal_ != 0) destination_->interrupt();
  }
  int signal() const { return signal_; }
  const sys::EventFd& event() const { return event_; }

 private:
  std::atomic<int> signal_ = 0;
  sys::EventFd event_;
  std::mutex mutex_;
  migration::Destination* destination_ = nullptr;
};

/// One guest from the first byte of its peer to its exit code.
class Reception {
 public:
  Reception(const Options& options, const ConsoleConfigs& console)
      : options_(options), console_(console), arrival_(arrival(options)), consoles_(console) {}

  /// Throws when the guest stays where it was.
  void take(sys::UniqueFd connection, sys::UniqueFd ram, sys::UniqueFd listener,
            Interruption& interruption) {
    migration::DestinationOptions destination_options;
    destination_options.ram = std::move(ram);
    destination_options.listener = std::move(listener);
    destination_options.admit = [this](vmm::MachineConfig& config) { admit(config); };
    destination_options.console = consoles_.sink();
    migration::Destination destination(std::move(connection), std::move(destination_options));
    interruption.watch(&destination);
    std::unique_ptr<vmm::Machine> machine;
    try {
      machine = destination.run();
    } catch (...) {
      interruption.watch(nullptr);
      throw;
    }
    interruption.watch(nullptr);
    auto post_copy = destination.take_post_copy();
    const bool memory_follows = post_copy != nullptr;
    guest_->arrived(std::move(machine), std::move(post_copy));
    fmt::print(stderr, "godwit: receive: {} runs here now, it came by {}{}\n", name_,
               destination.transport(), memory_follows ? "; its memory follows" : "");
    if (!kernel_.empty() && ::access(kernel_.c_str(), R_OK) != 0) {
      fmt::print(stderr, "godwit: receive: {}: {}: {} cannot reboot here\n", kernel_,
                 std::strerror(errno), name_);
    }
  }

  /// The guest is here: everything else of its predecessor's, as soon as that has let it go.
  void succeed(const sys::UniqueFd& predecessor) {
    serving_->rename_socket(socket_path(options_, name_));
    await_predecessor(predecessor);
  }

  int run() {
    return serving_->run({.command = "receive",
                          .read_stdin = console_.read_stdin(),
                          .boot = false,
                          .verbose = false});
  }

 private:
  void admit(vmm::MachineConfig& config) {
    if (options_.has("name")) config.name = options_.text("name");
    if (const std::string why = name_complaint(config.name); !why.empty()) {
      throw std::runtime_error(why);
    }
    if (const std::string why = memory_complaint(config.memory_bytes); !why.empty()) {
      throw std::runtime_error("its memory, " + why);
    }
    replace_devices(config, arrival_);
    name_ = config.name;
    kernel_ = config.kernel;
    std::string path = socket_path(options_, name_);
    if (options_.has("predecessor")) path += kNextSocket;  // as long as it has the other
    auto socket = std::make_unique<ControlSocket>(path, "a guest named " + name_);
    guest_.emplace(config, consoles_, Guest::Arriving{});
    guest_->set_abandon([path](const std::string& why) {
      fmt::print(stderr, "godwit: receive: {}\n", why);
      ::unlink(path.c_str());
      restore_terminal();
      ::_exit(kExitFailure);
    });
    guest_->set_successor_words(successor_words(options_, name_));
    serving_.emplace(*guest_, std::move(socket));
  }

  const Options& options_;
  const ConsoleConfigs console_;
  const Arrival arrival_;
  std::string name_;
  std::string kernel_;
  Consoles consoles_;
  std::optional<Guest> guest_;
  std::optional<Serving> serving_;  // after guest_: it goes first
};

void await_guest(Reception& reception, const std::string& where, Interruption& interruption) {
  const Listener listener = listen_on(where);
  migration::Destination::warm_up();  // before a source is told to come
  fmt::print(stderr, "godwit: receive: listening on {}\n", listener.address());
  sys::UniqueFd connection = listener.accept(interruption.event());
  if (connection) reception.take(std::move(connection), {}, listener.share(), interruption);
}

/// From the process that this one succeeds.
void take_over(Reception& reception, const std::string& descriptors, Interruption& interruption) {
  try {
    Predecessor predecessor = take_predecessor(descriptors);
    const sys::UniqueFd end(::fcntl(predecessor.connection.get(), F_DUPFD_CLOEXEC, 0));
    reception.take(std::move(predecessor.connection), std::move(predecessor.ram), {}, interruption);
    reception.succeed(end);
  } catch (const std::invalid_argument& error) {
    throw UsageError(fmt::format("--predecessor: {}", error.what()));
  }
}

/// The early answer to what admit() would find only when a guest comes.
void check_socket_is_free(const Options& options) {
  if (!options.has("name") && !options.has("api")) return;
  const std::string name = options.has("name") ? options.text("name") : "";
  const std::string path = socket_path(options, name);
  require_socket_directory(path);
  if (socket_is_live(path)) {
    throw std::runtime_error(fmt::format("a guest is already running at {}", path));
  }
}

}  // namespace

int receive_command(const Words& words) {
  Options options(
      "receive --listen HOST:PORT [OPTION...]",
      "Waits for one guest from another host (godwit migrate) and goes on running it here, "
      "as\n`godwit run` does. Its disks and kernel are opened by the paths, its taps by the "
      "names they have there.",
      kServeExitCodes);
  options.value("listen", "HOST:PORT", "where to wait; port 0 lets the kernel choose")
      .value("name", "NAME", "call the guest NAME here")
      .value("predecessor", "FD,FD", "take a guest of this host over; for godwit upgrade to use");
  add_arrival_options(options);
  add_serve_options(options);
  if (!options.parse(words)) return kExitOk;

  const ConsoleConfigs console = console_configs(options);
  const bool succeeds = options.has("predecessor");
  const std::string where = succeeds ? "" : options.text("listen");
  if (options.has("name")) {
    const std::string why = name_complaint(options.text("name"));
    if (!why.empty()) throw UsageError("--name: " + why);
  }
  check_kvm();
  if (!succeeds) check_socket_is_free(options);
  HostEvents::block_signals();
  Reception reception(options, console);
  Interruption interruption;
  {
    const HostEvents events(false, {.input = {}, .quit = {}, .signal = [&](int number) {
                                      interruption.raise(number);
                                    }});
    try {
      if (succeeds) {
        take_over(reception, options.text("predecessor"), interruption);
      } else {
        await_guest(reception, where, interruption);
      }
    } catch (const std::exception&) {
      if (interruption.signal() == 0) throw;
    }
  }
  if (interruption.signal() != 0) {
    fmt::print(stderr, "godwit: receive: {}\n", ::strsignal(interruption.signal()));
    return kExitSignal + interruption.signal();
  }
  return reception.run();
}

}  // namespace godwit::node
