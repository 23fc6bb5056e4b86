#include "node/console.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string_view>

#include "vmm/sys/for_option.h"

namespace godwit::node {

namespace {

constexpr std::size_t kHighWater = 64 * 1024;
constexpr std::size_t kBatch = 4096;
constexpr std::chrono::milliseconds kLinger{2};
constexpr std::byte kCtrlA{0x01};

sys::UniqueFd open_log(const std::string& path) {
  sys::UniqueFd fd(
      ::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0640));
  if (!fd) throw std::runtime_error(fmt::format("{}: {}", path, std::strerror(errno)));
  return fd;
}

}  // namespace

ConsoleConfig parse_console(const std::string& text) {
  constexpr std::string_view kFilePrefix = "file:";
  if (text == "stdio") return {ConsoleConfig::Kind::kStdio, ""};
  if (text == "none") return {ConsoleConfig::Kind::kNone, ""};
  if (text.rfind(kFilePrefix, 0) == 0 && text.size() > kFilePrefix.size()) {
    return {ConsoleConfig::Kind::kFile, text.substr(kFilePrefix.size())};
  }
  throw std::invalid_argument("must be stdio, none or file:PATH");
}

ConsoleOutput::ConsoleOutput(const ConsoleConfig& config) {
  if (config.kind == ConsoleConfig::Kind::kNone) return;
  if (config.kind == ConsoleConfig::Kind::kFile) owned_ = open_log(config.path);
  fd_ = owned_ ? owned_.get() : STDOUT_FILENO;
  thread_ = std::thread([this] { run(); });
}

ConsoleOutput::ConsoleOutput(sys::UniqueFd fd) : owned_(std::move(fd)), fd_(owned_.get()) {
  thread_ = std::thread([this] { run(); });
}

ConsoleOutput::~ConsoleOutput() {
  if (!thread_.joinable()) return;
  {
    std::unique_lock lock(mutex_);
    closing_ = true;
    changed_.notify_all();
    changed_.wait_for(lock, std::chrono::seconds(2),
                      [this] { return broken_ || (pending_.empty() && !writing_); });
    broken_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void ConsoleOutput::write(std::span<const std::byte> bytes) {
  if (fd_ < 0) return;
  std::unique_lock lock(mutex_);
  const auto room = [this] { return pending_.size() < kHighWater || broken_; };
  changed_.wait(lock, [&] { return room() || hurry_; });
  // Nothing is lost, and what piles up meanwhile stays small.
  if (!room()) changed_.wait_for(lock, std::chrono::milliseconds(1), room);
  if (broken_ || bytes.empty()) return;
  const bool first = pending_.empty();
  pending_.insert(pending_.end(), bytes.begin(), bytes.end());
  line_ended_ |= bytes.back() == std::byte{'\n'};
  if (first || line_ended_ || hurry_ || pending_.size() >= kBatch) changed_.notify_all();
}

void ConsoleOutput::hurry(bool on) {
  const std::lock_guard lock(mutex_);
  hurry_ = on;
  changed_.notify_all();
}

void ConsoleOutput::run() {
  std::vector<std::byte> batch;
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return !pending_.empty() || closing_ || broken_; });
    changed_.wait_for(lock, kLinger, [this] {
      return line_ended_ || hurry_ || pending_.size() >= kBatch || closing_ || broken_;
    });
    if (broken_ || pending_.empty()) break;
    batch.swap(pending_);
    line_ended_ = false;
    writing_ = true;
    lock.unlock();
    changed_.notify_all();
    const bool written = write_out(batch);
    lock.lock();
    batch.clear();
    writing_ = false;
    if (!written) broken_ = true;
    changed_.notify_all();
  }
}

bool ConsoleOutput::write_out(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    // Poll first, in slices: the end of the program must not wait for a terminal nobody reads.
    pollfd poller{fd_, POLLOUT, 0};
    if (::poll(&poller, 1, 100) == 0) {
      const std::lock_guard lock(mutex_);
      if (broken_) return false;
      continue;
    }
    // A pipe that polls writable takes PIPE_BUF bytes without blocking.
    const ssize_t count = ::write(fd_, bytes.data(), std::min(bytes.size(), kBatch));
    if (count >= 0) {
      bytes = bytes.subspan(static_cast<std::size_t>(count));
    } else if (errno != EINTR && errno != EAGAIN) {
      if (errno != EPIPE && errno != EIO) {  // a reader that left is no news
        fmt::print(stderr, "godwit: console output is lost from here on: {}\n",
                   std::strerror(errno));
      }
      return false;
    }
  }
  return true;
}

Consoles::Consoles(const ConsoleConfigs& configs)
    : serial_(sys::for_option("console", [&] { return ConsoleOutput(configs.serial); })),
      hvc_(sys::for_option("hvc", [&] { return ConsoleOutput(configs.hvc); })),
      hvc_is_typed_to_(configs.hvc.kind == ConsoleConfig::Kind::kStdio) {}

vmm::ConsoleSink Consoles::sink() {
  vmm::ConsoleSink sink;
  sink.serial = [this](std::span<const std::byte> bytes) { serial_.write(bytes); };
  sink.hvc = [this](std::span<const std::byte> bytes) { hvc_.write(bytes); };
  return sink;
}

void Consoles::hurry(bool on) {
  serial_.hurry(on);
  hvc_.hurry(on);
}

EscapeFilter::Result EscapeFilter::take(std::span<const std::byte> typed) {
  Result result;
  for (const std::byte byte : typed) {
    if (!escaped_) {
      escaped_ = byte == kCtrlA;
      if (!escaped_) result.bytes.push_back(byte);
      continue;
    }
    escaped_ = false;
    if (byte == std::byte{'x'} || byte == std::byte{'X'}) {
      result.quit = true;
      return result;
    }
    if (byte == kCtrlA || byte == std::byte{'a'}) result.bytes.push_back(kCtrlA);
  }
  return result;
}

}  // namespace godwit::node
