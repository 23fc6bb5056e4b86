#include "vmm/devices/virtio/vsock_connection.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <string_view>
#include <utility>

namespace godwit::devices {
namespace {

constexpr std::string_view kConnect = "CONNECT ";
constexpr std::size_t kMaxGreeting = kConnect.size() + 11;  // a 32-bit port and the line's end

}  // namespace

VsockConnection::VsockConnection(sys::UniqueFd socket, std::uint32_t host_port)
    : socket_(std::move(socket)), host_port_(host_port) {}

VsockConnection::VsockConnection(sys::UniqueFd socket, std::uint32_t host_port,
                                 std::uint32_t guest_port)
    : socket_(std::move(socket)),
      host_port_(host_port),
      guest_port_(guest_port),
      state_(State::kOpen),
      want_response_(true) {}

// Byte by byte: what follows the line is the guest's.
bool VsockConnection::greet() {
  while (state_ == State::kGreeting) {
    char c = 0;
    const ssize_t got = ::recv(fd(), &c, 1, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return true;
    if (got <= 0 || greeting_.size() >= kMaxGreeting) return false;
    if (c != '\n') {
      greeting_ += c;
      continue;
    }
    if (!greeting_.starts_with(kConnect)) return false;
    const char* const start = greeting_.data() + kConnect.size();
    const char* const end = greeting_.data() + greeting_.size();
    const auto [at, error] = std::from_chars(start, end, guest_port_);
    if (error != std::errc() || at != end) return false;
    state_ = State::kRequested;
    want_request_ = true;
  }
  return true;
}

bool VsockConnection::opened() {
  state_ = State::kOpen;
  const std::string answer = fmt::format("OK {}\n", host_port_);
  return ::send(fd(), answer.data(), answer.size(), MSG_NOSIGNAL | MSG_DONTWAIT) ==
         static_cast<ssize_t>(answer.size());
}

void VsockConnection::set_credit(const VsockHeader& header) {
  guest_buffer_ = header.buffer;
  guest_forwarded_ = header.forwarded;
}

std::uint32_t VsockConnection::credit() const {
  const std::uint32_t under_way = sent_ - guest_forwarded_;
  return under_way < guest_buffer_ ? guest_buffer_ - under_way : 0;
}

bool VsockConnection::take(std::span<const std::byte> data) {
  if (state_ != State::kOpen || (guest_flags_ & kVsockNoSend) != 0 ||
      data.size() > kBuffer - waiting_.size()) {
    return false;
  }
  waiting_.insert(waiting_.end(), data.begin(), data.end());
  return true;
}

bool VsockConnection::flush() {
  std::size_t done = 0;
  while (done < waiting_.size()) {
    const ssize_t sent =
        ::send(fd(), waiting_.data() + done, waiting_.size() - done, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && errno == EAGAIN) break;
    if (sent < 0) return false;
    done += static_cast<std::size_t>(sent);
  }
  waiting_.erase(waiting_.begin(), waiting_.begin() + static_cast<std::ptrdiff_t>(done));
  if (waiting_.empty()) waiting_.shrink_to_fit();
  forwarded_ += static_cast<std::uint32_t>(done);
  if (forwarded_ - told_forwarded_ >= kBuffer / 2) want_credit_ = true;
  if (waiting_.empty() && (guest_flags_ & kVsockNoSend) != 0 && !std::exchange(shut_write_, true)) {
    ::shutdown(fd(), SHUT_WR);
  }
  return true;
}

void VsockConnection::guest_shut(std::uint32_t flags) {
  guest_flags_ |= flags & (kVsockNoReceive | kVsockNoSend);
}

bool VsockConnection::finished() const {
  return waiting_.empty() && guest_flags_ == (kVsockNoReceive | kVsockNoSend);
}

void VsockConnection::program_ended(bool entirely) {
  program_done_ = true;
  want_shutdown_ = kVsockNoSend | (entirely ? kVsockNoReceive : 0);
}

short VsockConnection::events(bool guest_has_buffers) const {
  short events = 0;
  if (state_ == State::kGreeting) events |= POLLIN;
  if (can_read() && guest_has_buffers && credit() > 0) events |= POLLIN;
  if (!waiting_.empty()) events |= POLLOUT;
  return events;
}

std::uint16_t VsockConnection::due() const {
  if (want_request_) return kVsockRequest;
  if (want_response_) return kVsockResponse;
  if (want_shutdown_ != 0) return kVsockShutdown;
  if (want_credit_) return kVsockCreditUpdate;
  return 0;
}

VsockHeader VsockConnection::packet(std::uint16_t operation, std::uint64_t guest_cid) {
  VsockHeader header{.source_cid = kVsockHost,
                     .destination_cid = guest_cid,
                     .source_port = host_port_,
                     .destination_port = guest_port_,
                     .operation = operation,
                     .buffer = kBuffer,
                     .forwarded = forwarded_};
  if (operation == kVsockRequest) want_request_ = false;
  if (operation == kVsockResponse) want_response_ = false;
  if (operation == kVsockShutdown) header.flags = std::exchange(want_shutdown_, 0);
  told_forwarded_ = forwarded_;
  want_credit_ = false;
  return header;
}

}  // namespace godwit::devices
