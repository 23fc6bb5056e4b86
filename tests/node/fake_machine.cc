#include "tests/node/fake_machine.h"

#include <memory>

namespace godwit::node {

namespace {
std::unique_ptr<FakeWorld>& slot() {
  static auto world = std::make_unique<FakeWorld>();
  return world;
}
}  // namespace

FakeWorld& world() { return *slot(); }
void reset_world() { slot() = std::make_unique<FakeWorld>(); }

struct Move::Impl {
  vmm::Machine& machine;
  std::string to;
  bool dry_run = false;
};
Move::Move(vmm::Machine& machine, const MoveRequest& request,
           const migration::PinnedMemory* /*pinned*/)
    : impl_(new Impl{machine, request.to, request.dry_run}) {
  if (request.to == "nonsense") throw BadRequest("to: nonsense is not HOST:PORT");
}
Move::Move(vmm::Machine& machine, const std::string& program, const std::vector<std::string>& words)
    : impl_(new Impl{machine, program}) {
  for (const std::string& word : words) world().note(word);
}
Move::~Move() = default;
const std::string& Move::to() const { return impl_->to; }
Move::End Move::run() {
  world().note("move");
  std::unique_lock lock(world().mutex);
  world().changed.wait(lock, [] { return world().move_end || world().move_cancelled; });
  if (world().strands) {
    lock.unlock();
    impl_->machine.pause();
    return End::kHere;
  }
  const End end = world().move_end.value_or(End::kHere);
  lock.unlock();
  if (world().stops_it) impl_->machine.pause();
  return end;
}
Move::End Move::resume() {
  world().note("move resumed");
  return End::kMoved;
}
bool Move::can_resume() const { return world().move_end == End::kPaused; }
bool Move::can_ask() const { return world().may_ask; }
Move::Word Move::ask() {
  world().note("ask");
  return world().next_word();
}
Move::Word Move::ask_disks() { return Word::kNone; }
void Move::stop_asking() {
  if (world().may_ask) world().note("stop asking");
}
void Move::settle(bool there, const std::string& why) {
  if (world().may_ask) world().note(std::string("settle ") + (there ? "there: " : "here: ") + why);
}
bool Move::dry_run() const { return impl_->dry_run; }
bool Move::in_post_copy() const { return false; }
void Move::cancel() {
  const std::lock_guard lock(world().mutex);
  world().move_cancelled = true;
  world().changed.notify_all();
}
void Move::take_back(vmm::Machine& machine) {
  world().note("take back");
  if (!world().take_back_error.empty()) throw std::runtime_error(world().take_back_error);
  machine.resume();
}
struct SnapshotJob::Impl {};
SnapshotJob::SnapshotJob(vmm::Machine& /*machine*/, const SnapshotRequest& /*request*/)
    : impl_(new Impl) {}
SnapshotJob::~SnapshotJob() = default;
bool SnapshotJob::run() {
  world().note("snapshot");
  std::unique_lock lock(world().mutex);
  world().changed.wait(lock, [] { return world().snapshot_end || world().move_cancelled; });
  return world().snapshot_end.value_or(false);
}
void SnapshotJob::cancel() {
  const std::lock_guard lock(world().mutex);
  world().move_cancelled = true;
  world().changed.notify_all();
}
nlohmann::json SnapshotJob::report() const { return {{"status", "whatever"}}; }

nlohmann::json Move::progress() const { return {{"phase", "rounds"}}; }
nlohmann::json Move::report() const { return {{"status", "whatever"}}; }

}  // namespace godwit::node

namespace godwit::vmm {

using node::world;

struct Machine::Parts {
  MachineConfig config;
  ConsoleSink console;
  memory::GuestMemory memory{config.memory_bytes};
  bool running = false;
  bool stop = false;
};

Machine::Machine(MachineConfig config, ConsoleSink console)
    : parts_(new Parts{std::move(config), std::move(console)}) {
  parts_->memory.store<std::uint8_t>(0, 1);
  parts_->memory.store<std::uint8_t>(1 << 20, 1);
  world().note("build");
  ++world().machines;
}
Machine::~Machine() { --world().machines; }
const MachineConfig& Machine::config() const { return parts_->config; }
void Machine::lock_disks() { world().note("lock"); }
void Machine::unlock_disks() { world().note("unlock"); }
void Machine::boot() {
  world().note("boot");
  if (world().while_booting) world().while_booting();
  if (!world().boot_error.empty()) throw std::runtime_error(world().boot_error);
}
void Machine::resume() {
  parts_->running = true;
  world().note("resume");
}
void Machine::pause() {
  parts_->running = false;
  world().note("pause");
}
void Machine::set_urgency(sys::Urgency /*urgency*/) noexcept {}
bool Machine::running() const { return parts_->running; }
void Machine::press_power_button() { world().note("button"); }
bool Machine::panicked() const { return world().panicked; }
End Machine::wait() {
  std::unique_lock lock(world().mutex);
  world().changed.wait(lock, [this] { return parts_->stop || world().end; });
  if (parts_->stop) return {End::Kind::kStopped, ""};
  End end = *world().end;
  world().end.reset();
  return end;
}
void Machine::request_stop() {
  const std::lock_guard lock(world().mutex);
  parts_->stop = true;
  world().changed.notify_all();
}
std::size_t Machine::console_input(std::span<const std::byte> bytes) { return bytes.size() / 2; }
std::size_t Machine::hvc_input(std::span<const std::byte> bytes) { return bytes.size(); }
std::uint64_t Machine::vcpu_cpu_ns() const { return 5'000'000; }
Usage Machine::usage() const { return {5'000'000, 2'000'000, 4096, 512}; }
memory::GuestMemory& Machine::memory() { return parts_->memory; }
void Machine::set_balloon(std::uint64_t bytes) { world().balloon = bytes; }
std::vector<DiskErrors> Machine::disk_errors() const { return {}; }
std::optional<BalloonState> Machine::balloon() const {
  return BalloonState{world().balloon, 4096, 8192, {{"free_bytes", 77}}};
}

std::uint64_t Machine::first_instruction_ns() const { return 1; }

}  // namespace godwit::vmm
