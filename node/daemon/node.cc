#include "node/daemon/node.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <time.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

#include "migration/tls/module.h"
#include "node/daemon/bounded_file.h"
#include "node/units.h"

namespace godwit::node {

using nlohmann::json;

namespace {
constexpr double kDay = 86'400;  // seconds
constexpr std::uintmax_t kLogBytes = 1 << 20, kConsoleBytes = 16 << 20;
constexpr double kCertificateWarning = 30 * kDay;

/// Its own for as long as the descriptor is open.
sys::UniqueFd claim(const std::string& directory) {
  for (const char* below : {"", "/guests", "/log", "/console"}) {
    std::filesystem::create_directories(directory + below);
  }
  // Not the directory itself: it may be that of the control sockets, too, which they lock.
  const std::string file = directory + "/node.lock";
  sys::UniqueFd fd(::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd) throw std::system_error(errno, std::generic_category(), file);
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) < 0) {
    throw std::runtime_error(
        fmt::format("another node runs with the \"directory\" {}: give each its own", directory));
  }
  return fd;
}

}  // namespace

Node::Node(NodeConfig config, const std::shared_ptr<const tls::Context>& tls)
    : config_(std::move(config)),
      directory_(claim(config_.directory)),
      records_(config_.directory + "/decisions.jsonl"),
      mode_(config_.mode),
      policy_(config_.policy),
      boot_seconds_(boot_seconds()),
      paths_(config_.directory + "/paths.json"),
      peers_(config_, tls) {
  capabilities_.add(config_.capabilities);
  if (tls) certificate_ends_ = tls->module().own_certificate().valid_until;
  if (!groups_.path().empty()) {
    fmt::print(stderr, "godwit: node: guests have control groups below {}\n", groups_.path());
  }
  host_ = host_load_.sample();
  adopt();
  end_orphans();
  close_records();
  look_at_door();
  ticker_ = std::thread([this] { tick(); });
}

Node::~Node() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  ticker_.join();
  if (drainer_.joinable()) drainer_.join();
  if (sleeper_.joinable()) sleeper_.join();
  for (Move& move : moves_) move.thread.join();
}

// CLOCK_BOOTTIME: goes on over a suspend and over a restart of the node, and no one can set it.
double Node::seconds() const {
  timespec time{};
  ::clock_gettime(CLOCK_BOOTTIME, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

void Node::tick() {
  auto due = std::chrono::steady_clock::now();
  for (;;) {
    const double now = seconds();
    try {
      look_after_guests(now);
      balance(now);
      judge(now);
      look_after_sleep(now);
      look_after_certificate(now);
      bound_logs();
    } catch (const std::exception& error) {
      fmt::print(stderr, "godwit: node: {}\n", error.what());
    }
    due = std::max(due + config_.interval, std::chrono::steady_clock::now());
    std::unique_lock lock(mutex_);
    changed_.wait_until(lock, due, [this] { return ending_; });
    if (ending_) return;
    for (auto move = moves_.begin(); move != moves_.end();) {
      if (!move->done) {
        ++move;
        continue;
      }
      move->thread.join();
      move = moves_.erase(move);
    }
  }
}

std::optional<double> Node::certificate_left() const {
  if (!certificate_ends_) return {};
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return static_cast<double>(*certificate_ends_) - std::chrono::duration<double>(now).count();
}

/// Says once a day that it will not be valid for long.
void Node::look_after_certificate(double now) {
  const auto left = certificate_left();
  if (!left || *left > kCertificateWarning || now < warn_again_) return;
  warn_again_ = now + kDay;
  fmt::print(stderr, "godwit: node: certificate {} {}: put a new one there and restart the node\n",
             config_.tls->certificate,
             *left > 0 ? "expires in " + format_age(*left) : "has expired, no peer accepts it");
}

/// A guest may print for ever.
void Node::bound_logs() {
  std::vector<std::string> names;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [name, guest] : guests_) names.push_back(name);
  }
  for (const std::string& name : names) {
    bound_file(log_of(name), kLogBytes);
    for (const char* end : {".log", ".hvc"}) {
      bound_file(fmt::format("{}/console/{}{}", config_.directory, name, end), kConsoleBytes);
    }
  }
}

json Node::set_mode(std::optional<Mode> mode, std::optional<balancer::Goal> goal) {
  const std::lock_guard lock(mutex_);
  if (mode) mode_ = *mode;
  if (goal && *goal != policy_.goal) {
    policy_ = config_.policies.at(static_cast<std::size_t>(*goal));
    wanted_ = 0;  // what the other goal wanted
    empty_since_ = -1;
  }
  return {{"mode", mode_name(mode_)}, {"goal", goal_name(policy_.goal)}};
}

}  // namespace godwit::node
