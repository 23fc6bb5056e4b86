#include "migration/postcopy_destination.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <chrono>

#include "migration/page_frames.h"
#include "vmm/sys/error.h"

namespace godwit::migration {

using memory::kPageSize;
using memory::PageBitmap;
using memory::PageRange;
using std::chrono::milliseconds;

namespace {

constexpr milliseconds kPatience{3000};       // with bytes that nobody acknowledges
constexpr milliseconds kResumeTimeout{2000};  // to take what a source that comes back is told
constexpr milliseconds kCommitTimeout{30'000};
constexpr milliseconds kTellLeft{100};  // how often the source hears how much is left
constexpr int kConfirmTimeoutMs = 10'000;
constexpr milliseconds kConfirmPatience{
    600'000};  // for a source that does not know that all is here

/// Readable as soon as one of them is.
sys::UniqueFd any_of(const std::array<int, 4>& fds) {
  sys::UniqueFd all(sys::check(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1"));
  for (const int fd : fds) {
    epoll_event event{EPOLLIN, {}};
    if (fd >= 0) sys::check(::epoll_ctl(all.get(), EPOLL_CTL_ADD, fd, &event), "epoll_ctl");
  }
  return all;
}

class Stopped : public std::exception {};

}  // namespace

PostCopy::PostCopy(Wire wire, memory::GuestMemory& memory, PageBitmap missing, Comeback comeback,
                   Offer offer)
    : wire_(std::make_unique<Wire>(std::move(wire))),
      pages_(memory, std::move(missing)),
      ram_pages_(memory.pages()),
      comeback_(std::move(comeback)) {
  wire_->set_deadline(std::nullopt);
  wire_->set_patience(kPatience);
  if (offer.endpoint) {
    fetcher_ = std::make_unique<RdmaFetcher>(std::move(offer.endpoint), pages_,
                                             std::move(offer.extents), offer.bits_per_second);
  }
  thread_ = std::thread([this] { follow(); });
}

PostCopy::~PostCopy() {
  stop_ = true;
  wake_.signal();
  thread_.join();
}

void PostCopy::say(MessageKind kind, std::string text) {
  {
    const std::lock_guard lock(mutex_);
    outbox_.emplace_back(kind, std::move(text));
  }
  wake_.signal();
}

void PostCopy::await_commit() {
  std::unique_lock lock(mutex_);
  const bool heard =
      changed_.wait_for(lock, kCommitTimeout, [&] { return committed_ || !failed_.empty(); });
  if (!heard) throw ChannelError("the source did not commit in time");
  if (!committed_ && gave_up_) throw PeerGaveUp(failed_);
  if (!committed_) throw ChannelError(failed_);
}

void PostCopy::interrupt() {
  const std::lock_guard lock(mutex_);
  if (wire_ && !committed_) wire_->interrupt();
}

PostCopy::Status PostCopy::status() const {
  const std::lock_guard lock(mutex_);
  Status now = status_;
  now.missing_bytes = pages_.left() * kPageSize;
  now.faults = pages_.faults();
  return now;
}

std::string PostCopy::complaint() const {
  const Status now = status();
  if (now.done) return {};
  return fmt::format("{} KiB of its memory are still to come from the host that it left{}",
                     now.missing_bytes / 1024,
                     now.lost ? ", and the link to that is lost: " + now.reason : "");
}

// Whatever happens in it, somebody may be waiting for a page: it ends only with the last one, or as
// the owner wants.
void PostCopy::follow() {
  for (;;) {
    try {
      serve();
    } catch (const Stopped&) {
      return;
    } catch (const std::exception& error) {
      gave_up_ = dynamic_cast<const PeerGaveUp*>(&error) != nullptr;
      if (!lose(error.what())) return;
    }
    if (confirmed_ || !await_source()) return;
  }
}

void PostCopy::serve() {
  const sys::UniqueFd any =
      any_of({pages_.fd(), wire_->fd(), wake_.fd(), fetcher_ ? fetcher_->event_fd() : -1});
  for (;;) {
    const bool stop = take_news();
    if (stop) throw Stopped();
    ask(pages_.take_faults());
    if (pages_.left() == 0 && told_running_) return say_arrived();
    if (wire_->frame_waiting()) {
      take_frame();
    } else if (!fetch()) {
      wire_->wait_for(any.get(), fetcher_ ? fetcher_->next_step_ms() : -1);
    }
  }
}

// By RDMA, where it goes by that; false when an event is to be waited for.
bool PostCopy::fetch() {
  if (!fetcher_) return false;
  if (const auto now = Wire::Clock::now(); now - last_left_ > kTellLeft) {
    last_left_ = now;
    const std::uint64_t left = pages_.left();
    wire_->send({.kind = MessageKind::kLeft}, std::as_bytes(std::span(&left, 1)));
  }
  if (fetcher_->step()) return true;
  fetcher_->arm();
  return fetcher_->step();
}

// Sends what is to be said; true when this is to end, which the source then knows, too.
bool PostCopy::take_news() {
  wake_.drain();
  const bool stop = stop_;  // read first: what was said before it goes out
  std::deque<std::pair<MessageKind, std::string>> news;
  {
    const std::lock_guard lock(mutex_);
    news.swap(outbox_);
  }
  for (const auto& [kind, text] : news) told_running_ |= kind == MessageKind::kRunning;
  try {
    for (const auto& [kind, text] : news) wire_->send_json(kind, text);
    if (stop && committed_) wire_->send({.kind = MessageKind::kArrived});  // no more pages wanted
  } catch (const ChannelError&) {
    if (!stop) throw;
  }
  return stop;
}

void PostCopy::ask(const std::vector<PageRange>& wanted) {
  std::vector<PageRange> sorted = wanted;
  std::sort(sorted.begin(), sorted.end(),
            [](const PageRange& a, const PageRange& b) { return a.first < b.first; });
  if (fetcher_) return fetcher_->want(sorted);
  for (std::span<const PageRange> rest = sorted; !rest.empty();) {
    const auto some = rest.first(std::min<std::size_t>(rest.size(), kMaxRangesInFrame));
    wire_->send({.kind = MessageKind::kFetch}, std::as_bytes(some));
    rest = rest.subspan(some.size());
  }
}

void PostCopy::take_frame() {
  const FrameHeader header = wire_->receive_header(-1);
  if (header.kind == MessageKind::kPages) return take_pages(header);
  if (header.kind == MessageKind::kZero) return take_zero(header);
  const auto payload = wire_->receive_payload(header);
  if (header.kind != MessageKind::kCommit || committed_) {
    throw ChannelError(fmt::format("the peer sent {} out of turn", kind_name(header.kind)));
  }
  {
    const std::lock_guard lock(mutex_);
    committed_ = true;
  }
  changed_.notify_all();
}

void PostCopy::take_pages(const FrameHeader& header) {
  const auto ranges = receive_page_table(*wire_, header, ram_pages_);
  std::vector<iovec> parts;
  for (const PageRange& range : ranges) {
    pages_.require_missing(range);
    const auto target = pages_.landing(range);
    parts.push_back({target.data(), target.size()});
  }
  wire_->receive_parts(parts);
  for (const PageRange& range : ranges) pages_.arrived(range);
}

void PostCopy::take_zero(const FrameHeader& header) {
  for (const PageRange& range :
       decode_ranges(wire_->receive_payload(header), ram_pages_, kMaxRangesInFrame)) {
    pages_.require_missing(range);
    pages_.arrived_as_zero(range);
  }
}

// The source ends when it hears it, so its answer matters, if only to the source.
void PostCopy::say_arrived() {
  bool first = false;
  {
    const std::lock_guard lock(mutex_);
    first = !status_.done;
    status_ = {};
    status_.done = true;
  }
  if (first) pages_.release();
  wire_->send({.kind = MessageKind::kArrived});
  const FrameHeader header = wire_->receive_header(kConfirmTimeoutMs);
  confirmed_ = header.kind == MessageKind::kArrived;
}

/// The connection is gone. False when that is the end: the guest was not committed.
bool PostCopy::lose(const std::string& why) {
  fetcher_.reset();
  const std::lock_guard lock(mutex_);
  wire_.reset();
  if (!committed_) {
    failed_ = why;
    pages_.release();  // restoring the state may wait for a page
    changed_.notify_all();
    return false;
  }
  if (!status_.done) {
    status_.lost = true;
    status_.reason = why;
  }
  return true;
}

// Meanwhile who needs a page that is here gets it; the others wait.
bool PostCopy::await_source() {
  const auto until = Wire::Clock::now() + kConfirmPatience;
  while (!stop_) {
    const bool done = pages_.left() == 0;
    if (done && Wire::Clock::now() > until) return false;
    std::array<pollfd, 3> polls{{{done ? -1 : pages_.fd(), POLLIN, 0},
                                 {comeback_.listener.get(), POLLIN, 0},
                                 {wake_.fd(), POLLIN, 0}}};
    if (::poll(polls.data(), polls.size(), 1000) <= 0) continue;
    if (polls[2].revents != 0) wake_.drain();
    if (polls[0].revents != 0) pages_.take_faults();
    if (polls[1].revents == 0) continue;
    sys::UniqueFd connection(::accept4(comeback_.listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (connection && take_source(std::move(connection))) return true;
  }
  return false;
}

/// Whether this is the source that comes back.
bool PostCopy::take_source(sys::UniqueFd connection) try {
  std::optional<Wire> taken = migration::take_source(std::move(connection), comeback_);
  if (!taken) return false;
  auto wire = std::make_unique<Wire>(std::move(*taken));
  wire->set_deadline(Wire::Clock::now() + kResumeTimeout);
  wire->send_json(MessageKind::kAccept, encode(Accept{}));
  wire->send({.kind = MessageKind::kMissing}, std::as_bytes(pages_.missing().words()));
  wire->set_deadline(std::nullopt);
  {
    const std::lock_guard lock(mutex_);
    wire_ = std::move(wire);
    status_.lost = false;
    status_.reason.clear();
  }
  if (!status_.done) ask(pages_.waited_for());
  return true;
} catch (const std::exception&) {
  return false;  // whoever it was: the next one may be it
}

}  // namespace godwit::migration
