#include "migration/destination.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>

#include <chrono>
#include <future>
#include <optional>
#include <random>
#include <utility>

#include "migration/digest.h"
#include "migration/pre_fault.h"
#include "migration/rdma_channel.h"
#include "migration/rdma_connect.h"
#include "migration/shared_channel.h"
#include "migration/stream_door.h"
#include "migration/tcp_channel.h"
#include "vmm/sys/error.h"
#include "vmm/sys/userfault.h"

namespace godwit::migration {

namespace {

constexpr int kHelloTimeoutMs = 10000;
constexpr int kCommitTimeoutMs = 30000;  // the source commits at once, or is gone
constexpr std::chrono::milliseconds kPausedPatience{800};
constexpr std::chrono::milliseconds kMostForRelease{10};  // while the guest stands still
constexpr std::chrono::seconds kLongestDryRun{60};
constexpr int kGiveUpTimeoutMs = 1000;  // for the source to say that it has heard a refusal
constexpr std::chrono::minutes kAskPatience{10};  // for a source that does not know

/// What nobody can guess who has not heard it: 128 bits.
std::string random_token() {
  std::random_device random;
  return fmt::format("{:08x}{:08x}{:08x}{:08x}", random(), random(), random(), random());
}

sys::UniqueFd duplicate(const sys::UniqueFd& fd) {
  return sys::UniqueFd(fd ? sys::check(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0), "fcntl") : -1);
}

double cpu_ms() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto ms = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) * 1e3 + static_cast<double>(t.tv_usec) / 1e3;
  };
  return ms(usage.ru_utime) + ms(usage.ru_stime);
}

}  // namespace

Destination::Destination(sys::UniqueFd connection, DestinationOptions options)
    : wire_(std::move(connection)), options_(std::move(options)), cpu_before_ms_(cpu_ms()) {}

void Destination::warm_up() noexcept {
  load_rdma_drivers();
  vmm::Machine::warm_up();
}

std::unique_ptr<vmm::Machine> Destination::run() {
  wire_.set_deadline(Wire::Clock::now() + std::chrono::milliseconds(kHelloTimeoutMs));
  const bool as_wanted = !options_.tls || wire_.accept_tls(*options_.tls);
  wire_.greet();
  try {
    prepare(as_wanted);
    if (dry_run_) {
      rehearse();
    } else {
      take_guest();
    }
  } catch (const std::exception& error) {
    // The guest may have run for a moment: no word, so that the source does not run it as well.
    if (resuming_) throw;
    source_gave_up_ = dynamic_cast<const PeerGaveUp*>(&error) != nullptr;
    refuse(error.what());
    throw;
  }
  channel_.reset();
  if (dry_run_) return nullptr;
  return std::move(machine_);
}

void Destination::refuse(const char* why) noexcept {
  try {
    if (machine_) machine_->unlock_disks();  // before the source takes its locks again
    if (post_copy_) {
      const std::lock_guard lock(mutex_);
      post_copy_->say(MessageKind::kRefuse, encode_reason(why));
      post_copy_.reset();
    } else {
      wire_.send_json(MessageKind::kRefuse, encode_reason(why));
      if (promised_) hear_it_give_up();
    }
  } catch (const std::exception&) {
    // It is gone: nobody to tell.
  }
}

// A source that hears of a refusal says so by its Abort.
void Destination::hear_it_give_up() {
  while (!source_gave_up_) {
    const FrameHeader header = wire_.receive_header(kGiveUpTimeoutMs);
    wire_.receive_payload(header);
    source_gave_up_ = header.kind == MessageKind::kAbort;
  }
}

void Destination::deny_to_source(const sys::EventFd& stop) {
  channel_.reset();
  hold_.reset();
  machine_.reset();
  const Wire closed = std::move(wire_);  // a Commit that is in it will never be read
  answer_source({std::move(options_.listener), token_, options_.tls}, MessageKind::kNever,
                encode_reason("it never heard the commit"), stop,
                std::chrono::steady_clock::now() + kAskPatience);
}

void Destination::interrupt() {
  const std::lock_guard lock(mutex_);
  if (post_copy_) {
    post_copy_->interrupt();
  } else if (!resuming_) {
    wire_.interrupt();
  }
}

// Builds the machine in the shape the peer names, and the channel that it chooses.
void Destination::prepare(bool as_wanted) {
  const FrameHeader header = wire_.receive_header(kHelloTimeoutMs);
  const auto introduction = wire_.receive_payload(header);
  if (header.kind == MessageKind::kResume) {
    throw ChannelError("asked about an earlier move, of which nothing is known here");
  }
  if (header.kind != MessageKind::kHello) {
    throw ChannelError(fmt::format("the peer sent {}, Hello was due", kind_name(header.kind)));
  }
  if (!as_wanted) {
    throw ChannelError(
        "the source does not use TLS, and guests come here by nothing else: say godwit migrate "
        "--tls-cert, --tls-key and --tls-ca");
  }
  Hello hello = decode_hello(introduction);
  introduced_ = true;
  dry_run_ = hello.dry_run;
  wire_.set_deadline(std::nullopt);
  if (dry_run_) wire_.set_deadline(Wire::Clock::now() + kLongestDryRun);
  if (const std::string why = vmm::Machine::refusal(hello.requirements); !why.empty()) {
    throw ChannelError(why);
  }
  options_.admit(hello.machine, dry_run_);
  max_bandwidth_ = hello.max_bandwidth;
  const bool shared_ram = static_cast<bool>(options_.ram);
  Accept accept;
  may_post_copy_ = hello.postcopy;
  if (!shared_ram) accept.token = token_ = random_token();
  if (may_post_copy_) {
    if (hello.machine.huge_pages) throw ChannelError("no post-copy for a guest in huge pages");
    if (const std::string why = sys::UserFault::complaint(); !why.empty()) {
      throw ChannelError("no post-copy without userfaultfd at the destination: " + why);
    }
  }
  machine_ = shared_ram
                 ? std::make_unique<vmm::Machine>(hello.machine, options_.console,
                                                  memory::GivenRam{std::move(options_.ram), true})
                 : std::make_unique<vmm::Machine>(hello.machine, options_.console);
  hold_.emplace(machine_->memory());
  if (may_post_copy_) machine_->memory().keep_mapped();
  accept.disks_tell = disks_tell_ = !shared_ram && machine_->disks_tell();

  std::unique_ptr<RdmaChannel> rdma;
  if (!hello.rdma.empty()) {
    try {
      require_memlock(options_.pin ? machine_->memory().size() : hello.data_bytes);
      RdmaEndpoints endpoints = answer_endpoints(wire_.fd(), hello.rdma);
      accept.rdma = addresses_of(endpoints);
      rdma = std::make_unique<RdmaChannel>(wire_, machine_->memory(), Role::kDestination,
                                           std::move(endpoints));
      if (options_.pin) rdma->register_all_of_ram();
    } catch (const RdmaError& error) {
      accept.rdma.clear();
      accept.rdma_reason = error.what();
      rdma.reset();
    }
  }
  std::optional<StreamDoor> door;
  if (options_.listener && hello.streams > 1 && !shared_ram) {
    accept.streams = hello.streams;
    accept.join = random_token();
    door.emplace(options_.listener.get(), accept.join, accept.streams - 1, options_.tls);
  }
  wire_.send_json(MessageKind::kAccept, encode(accept));
  if (door) door->await_frame(wire_, kHelloTimeoutMs);
  const FrameHeader begin = wire_.receive_header(kHelloTimeoutMs);
  const auto payload = wire_.receive_payload(begin);
  if (begin.kind == MessageKind::kAbort)
    throw PeerGaveUp("the source gave up: " + decode_reason(payload));
  if (begin.kind != MessageKind::kBegin) {
    throw ChannelError(fmt::format("the peer sent {}, Begin was due", kind_name(begin.kind)));
  }
  const auto [transport, streams, ports] = decode_begin(payload);
  transport_ = transport;
  if (shared_ram != (transport_ == "shared") || streams > accept.streams) {
    throw ChannelError(fmt::format("the peer began by {} and {} streams, which was not agreed",
                                   transport_, streams));
  }
  if (shared_ram) {
    channel_ = std::make_unique<SharedChannel>(wire_);
  } else if (transport_ == "rdma") {
    if (!rdma) throw ChannelError("the peer began by RDMA, which was not agreed");
    rdma->keep_ports(ports);
    rdma_ = rdma.get();
    channel_ = std::move(rdma);
  } else {
    channel_ =
        std::make_unique<TcpChannel>(wire_, machine_->memory(), Role::kDestination,
                                     door ? door->take(wire_, streams - 1) : std::vector<Wire>());
  }
}

// Pages land in RAM that nobody will use, and the switch-over is gone through with a machine that
// has never run. The disks are the source's all the time.
void Destination::rehearse() {
  const auto next = [this] {
    Message message = channel_->receive(-1);
    if (message.kind == MessageKind::kAbort)
      throw PeerGaveUp("the source gave up: " + decode_reason(message.payload));
    return message;
  };
  Message message = next();
  while (message.kind == MessageKind::kBegin) {
    begin_anew(message);
    message = next();
  }
  if (message.kind != MessageKind::kRehearse) {
    throw ChannelError(
        fmt::format("the peer sent {} in a dry run, Rehearse was due", kind_name(message.kind)));
  }
  channel_->send(MessageKind::kState, machine_->save());
  message = next();
  if (message.kind != MessageKind::kState) {
    throw ChannelError(
        fmt::format("the peer sent {} in a dry run, State was due", kind_name(message.kind)));
  }
  const auto released = restore_and_seal(message.payload);
  channel_->send(MessageKind::kReady, {});
}

// The source has written its last page; to take its access away takes as long as the restore, to
// give back what it had access to may take longer: the result tells when that is done.
std::future<void> Destination::restore_and_seal(std::span<const std::byte> state) {
  std::packaged_task<void()> seal([this] { channel_->seal(); });
  std::future<void> sealed = seal.get_future();
  auto released = std::async(std::launch::async, [this, seal = std::move(seal)]() mutable {
    seal();
    channel_->release();
  });
  machine_->restore(state);
  if (!dry_run_) machine_->lock_disks();
  sealed.get();
  return released;
}

// RDMA has failed. Its queue pair goes before a page comes by TCP: none that is late can land.
void Destination::begin_anew(const Message& begin) {
  const auto [transport, streams, ports] = decode_begin(begin.payload);
  transport_ = transport;
  if (rdma_ == nullptr || transport_ != "tcp" || streams > 1)
    throw ChannelError("the peer began a second time");
  rdma_ = nullptr;
  channel_.reset();
  channel_ = std::make_unique<TcpChannel>(wire_, machine_->memory(), Role::kDestination);
}

// Pages land in RAM until the state comes.
Destination::Handover Destination::receive_handover(PreFault& pre_fault) {
  Handover handover;
  for (;;) {
    Message message = channel_->receive(-1);
    pre_fault.stop();
    switch (message.kind) {
      case MessageKind::kAbort:
        throw PeerGaveUp("the source gave up: " + decode_reason(message.payload));
      case MessageKind::kBegin:
        begin_anew(message);
        handover = {};
        break;
      case MessageKind::kVerify:
        handover.digests = std::move(message.payload);
        break;
      case MessageKind::kOffer:
        if (rdma_ == nullptr) throw ChannelError("the peer offered memory without RDMA");
        handover.offer = decode_offer(message.payload, machine_->memory().pages());
        break;
      case MessageKind::kMissing:
        if (!may_post_copy_) throw ChannelError("the peer began post-copy, which was not agreed");
        handover.missing = decode_missing(message.payload, machine_->memory().pages());
        break;
      case MessageKind::kState:
        handover.state = std::move(message.payload);
        return handover;
      default:
        throw ChannelError(fmt::format("the peer sent {}, State was due", kind_name(message.kind)));
    }
  }
}

// This end gets ready, and runs the guest on commit.
void Destination::take_guest() {
  const double cpu_before_rounds_ms = cpu_ms();
  std::optional<PreFault> pre_fault(*machine_);
  Handover handover = receive_handover(*pre_fault);
  cpu_rounds_ms_ = cpu_ms() - cpu_before_rounds_ms;
  if (handover.missing) {
    pre_fault.reset();
    return take_guest_without_its_memory(std::move(handover));
  }
  if (!handover.digests.empty()) require_same_memory(machine_->memory(), handover.digests);
  wire_.set_patience(kPausedPatience);
  options_.inspect(*machine_);
  const auto released = restore_and_seal(handover.state);
  pre_fault.reset();
  promised_ = true;
  channel_->send(MessageKind::kReady, {});
  wire_.set_deadline(Wire::Clock::now() + std::chrono::milliseconds(kCommitTimeoutMs));
  const Message commit = channel_->receive(-1);
  if (commit.kind == MessageKind::kAbort) {
    throw PeerGaveUp("the source gave up: " + decode_reason(commit.payload));
  }
  if (commit.kind != MessageKind::kCommit) {
    throw ChannelError(fmt::format("the peer sent {}, Commit was due", kind_name(commit.kind)));
  }
  const auto start = std::chrono::steady_clock::now();
  // As a rule it is done long since. Nobody can reach what is left: it is only still pinned.
  released.wait_for(kMostForRelease);
  let_run();
  const Running running = running_since(start);
  try {
    wire_.send_json(MessageKind::kRunning, encode(running));
  } catch (const ChannelError&) {
    // The guest runs here whether or not the source can still hear it.
  }
  machine_->set_urgency(sys::Urgency::kHighest);
  if (token_.empty()) return;
  released.wait();
  channel_.reset();
  wire_.set_deadline(std::nullopt);
  witness_ = std::make_unique<Witness>(
      std::move(wire_), Comeback{std::move(options_.listener), token_, options_.tls}, running);
}

void Destination::let_run() {
  if (disks_tell_) machine_->mark_disks();
  {
    const std::lock_guard lock(mutex_);
    resuming_ = true;
  }
  machine_->set_urgency(sys::Urgency::kHigh);
  machine_->resume();
}

// Restoring the state needs some of the memory, too: so pages are served from here on.
void Destination::take_guest_without_its_memory(Handover handover) {
  PostCopy::Offer offer;
  offer.extents = std::move(handover.offer);
  if (!offer.extents.empty()) {
    offer.endpoint = rdma_->take_endpoint();
    offer.bits_per_second = max_bandwidth_;
  } else {
    channel_->seal();
  }
  channel_.reset();
  {
    const std::lock_guard lock(mutex_);
    post_copy_ = std::make_unique<PostCopy>(
        std::move(wire_), machine_->memory(), std::move(*handover.missing),
        Comeback{duplicate(options_.listener), token_, options_.tls}, std::move(offer));
  }
  machine_->restore(handover.state);
  machine_->lock_disks();
  promised_ = true;
  post_copy_->say(MessageKind::kReady);
  post_copy_->await_commit();
  const auto start = std::chrono::steady_clock::now();
  let_run();
  post_copy_->say(MessageKind::kRunning, encode(running_since(start)));
}

Running Destination::running_since(std::chrono::steady_clock::time_point start) const {
  Running running;
  running.resume_ms =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  running.cpu_ms = cpu_ms() - cpu_before_ms_;
  running.cpu_rounds_ms = cpu_rounds_ms_;
  return running;
}

}  // namespace godwit::migration
