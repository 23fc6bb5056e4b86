// Wire's pages: guest RAM goes to the socket and comes from it by a pipe, in whose buffers the
// kernel only refers to pages (splice(2), vmsplice(2)). So the source copies nothing, and the
// destination once, from the socket's buffers into the page cache of its memfd, where a page that
// is not there yet need neither be cleared first nor be mapped.
#include <fcntl.h>
#include <poll.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <csignal>

#include "migration/wire.h"

namespace godwit::migration {

namespace {
constexpr int kPipeBytes = 1 << 20;  // most that anybody gets (pipe-max-size); less will do
}  // namespace

Wire::Pipe::Pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return;
  out = sys::UniqueFd(ends[0]);
  in = sys::UniqueFd(ends[1]);
  ::fcntl(in.get(), F_SETPIPE_SZ, kPipeBytes);
  bytes = static_cast<std::size_t>(std::max(::fcntl(in.get(), F_GETPIPE_SZ), 0));
  ::signal(SIGPIPE, SIG_IGN);  // no flag of splice(2) keeps it away
}

const Wire::Pipe& Wire::pipe() {
  if (!pipe_) pipe_.emplace();
  return *pipe_;
}

void Wire::send_by_reference(std::span<const std::byte> bytes, bool more) {
  while (!bytes.empty()) {
    const iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
    const ssize_t taken = ::vmsplice(pipe().in.get(), &part, 1, SPLICE_F_NONBLOCK);
    if (taken < 0) {
      if (errno == EINTR) continue;
      fail("send to the peer");
    }
    bytes = bytes.subspan(static_cast<std::size_t>(taken));
    const unsigned flags =
        SPLICE_F_MOVE | SPLICE_F_NONBLOCK | (more || !bytes.empty() ? SPLICE_F_MORE : 0);
    for (auto left = static_cast<std::size_t>(taken); left > 0;) {
      const ssize_t sent = ::splice(pipe().out.get(), nullptr, fd(), nullptr, left, flags);
      if (sent < 0) {
        if (errno != EAGAIN && errno != EINTR) fail_send();
        wait(POLLOUT);
        continue;
      }
      bytes_sent_ += static_cast<std::uint64_t>(sent);
      left -= static_cast<std::size_t>(sent);
    }
  }
}

void Wire::receive_into_file(int file, std::uint64_t offset, std::uint64_t bytes) {
  while (bytes > 0) {
    const ssize_t got =
        ::splice(fd(), nullptr, pipe().in.get(), nullptr,
                 std::min<std::uint64_t>(bytes, pipe().bytes), SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    if (got == 0) throw ChannelError("the peer closed the connection");
    if (got < 0) {
      if (errno != EAGAIN && errno != EINTR) fail("receive from the peer");
      // It stops at urgent data for good, and poll(2) says that there is something.
      pollfd urgent{fd(), POLLPRI, 0};
      if (::poll(&urgent, 1, 0) == 1 && (urgent.revents & POLLPRI) != 0)
        throw ChannelError("the peer sent urgent data, which the protocol does not know");
      wait_for_bytes(bytes);
      continue;
    }
    bytes -= static_cast<std::uint64_t>(got);
    for (auto left = static_cast<std::size_t>(got); left > 0;) {
      auto at = static_cast<loff_t>(offset);
      const ssize_t put = ::splice(pipe().out.get(), nullptr, file, &at, left, SPLICE_F_MOVE);
      if (put < 0 && errno == EINTR) continue;
      if (put <= 0) fail("write guest RAM");
      offset += static_cast<std::uint64_t>(put);
      left -= static_cast<std::size_t>(put);
    }
  }
}

}  // namespace godwit::migration
