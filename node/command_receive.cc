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
#include "node/tls_options.h"

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

void require_free(const std::string& socket) {
  require_socket_directory(socket);
  if (socket_is_live(socket)) {
    throw std::runtime_error(fmt::format("a guest is already running at {}", socket));
  }
}

/// The early answer to what admit() would find only when a guest comes.
void check_socket_is_free(const Options& options) {
  if (!options.has("name") && !options.has("api")) return;
  const std::string name = options.has("name") ? options.text("name") : "";
  const std::string path = socket_path(options, name);
  require_free(path);
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
      : options_(options),
        console_(console),
        arrival_(arrival(options)),
        tls_files_(tls_files(options)),
        consoles_(console) {
    // What is wrong with the files is found out before a source is told to come.
    if (tls_files_ && options.has("listen")) {
      tls_ = std::make_shared<const tls::Context>(*tls_files_);
    }
  }

  /// False when no guest was to come: it was a dry run, whatever came of it, or a stranger. Throws
  /// when one was, and stays where it was.
  bool take(sys::UniqueFd connection, sys::UniqueFd ram, sys::UniqueFd listener,
            Interruption& interruption) {
    migration::DestinationOptions destination_options;
    destination_options.ram = std::move(ram);
    destination_options.listener = std::move(listener);
    destination_options.tls = tls_;
    destination_options.admit = [this](vmm::MachineConfig& config, bool dry_run) {
      admit(config, dry_run);
    };
    destination_options.console = consoles_.sink();
    destination_options.pin = options_.on("rdma-pin");
    migration::Destination destination(std::move(connection), std::move(destination_options));
    interruption.watch(&destination);
    std::unique_ptr<vmm::Machine> machine;
    try {
      machine = destination.run();
    } catch (const std::exception& error) {
      interruption.watch(nullptr);
      if (interruption.signal() != 0) throw;
      if (destination.source_may_ask()) await_question(destination, error.what(), interruption);
      if (destination.introduced() && !destination.dry_run()) throw;
      fmt::print(stderr, "godwit: receive: {}{}; still listening\n",
                 destination.dry_run() ? "a dry run failed: " : "", error.what());
      return false;
    }
    interruption.watch(nullptr);
    if (!machine) {
      fmt::print(stderr, "godwit: receive: {} could come here by {}: a dry run; still listening\n",
                 name_, destination.transport());
      return false;
    }
    witness_ = destination.take_witness();
    auto post_copy = destination.take_post_copy();
    const bool memory_follows = post_copy != nullptr;
    guest_->arrived(std::move(machine), std::move(post_copy));
    fmt::print(stderr, "godwit: receive: {} runs here now, it came by {}{}{}\n", name_,
               destination.transport(), tls_ ? " and TLS" : "",
               memory_follows ? "; its memory follows" : "");
    if (!kernel_.empty() && ::access(kernel_.c_str(), R_OK) != 0) {
      fmt::print(stderr, "godwit: receive: {}: {}: {} cannot reboot here\n", kernel_,
                 std::strerror(errno), name_);
    }
    return true;
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
  /// Nobody else can tell the source that its guest will not run here.
  void await_question(migration::Destination& destination, const std::string& why,
                      const Interruption& interruption) {
    fmt::print(stderr,
               "godwit: receive: {}; {} will not run here: waiting for the other host to ask, for "
               "10 minutes at most\n",
               why, name_);
    guest_->refused();
    destination.deny_to_source(interruption.event());
  }

  void admit(vmm::MachineConfig& config, bool dry_run) {
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
    if (dry_run) return require_free(path);
    if (options_.has("predecessor")) path += kNextSocket;  // as long as it has the other
    auto socket = std::make_unique<ControlSocket>(path, "a guest named " + name_);
    guest_.emplace(config, consoles_, Guest::Arriving{});
    guest_->set_abandon([path](const std::string& why) {
      fmt::print(stderr, "godwit: receive: {}\n", why);
      ::unlink(path.c_str());
      restore_terminal();
      ::_exit(kExitFailure);
    });
    if (options_.on("rdma-pin")) guest_->pin_memory();
    guest_->set_successor_words(successor_words(options_, name_));
    guest_->set_tls(tls_files_);
    serving_.emplace(*guest_, std::move(socket));
  }

  const Options& options_;
  const ConsoleConfigs console_;
  const Arrival arrival_;
  const std::optional<tls::Files> tls_files_;
  std::shared_ptr<const tls::Context> tls_;  // by which it comes
  std::string name_;
  std::string kernel_;
  Consoles consoles_;
  std::optional<Guest> guest_;
  std::optional<Serving> serving_;               // after guest_: it goes first
  std::unique_ptr<migration::Witness> witness_;  // where the source may not know that it is here
};

void await_guest(Reception& reception, const std::string& where, Interruption& interruption) {
  const Listener listener = listen_on(where);
  migration::Destination::warm_up();  // before a source is told to come
  fmt::print(stderr, "godwit: receive: listening on {}\n", listener.address());
  for (bool here = false; !here;) {
    sys::UniqueFd connection = listener.accept(interruption.event());
    here = !connection || reception.take(std::move(connection), {}, listener.share(), interruption);
  }
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
