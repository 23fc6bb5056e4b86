// top: what a node sees of its host, its guests and its peers, drawn again and again.
#include <fmt/format.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <nlohmann/json.hpp>
#include <optional>

#include "node/commands.h"
#include "node/daemon/screen_line.h"
#include "node/daemon/top_view.h"
#include "node/exit_codes.h"
#include "node/local_node.h"
#include "node/options.h"
#include "node/terminal.h"
#include "node/units.h"
#include "vmm/sys/error.h"
#include "vmm/sys/unique_fd.h"

namespace godwit::node {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

namespace {

constexpr std::chrono::seconds kAnswerTimeout{2};  // keys and signals wait that long at most

struct Size {
  unsigned columns, rows;
};

std::optional<Size> terminal_size() {
  winsize size{};
  if (::isatty(STDOUT_FILENO) != 1 || ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0) return {};
  if (size.ws_col == 0 || size.ws_row == 0) return Size{80, 24};  // a serial line does not know
  return Size{size.ws_col, size.ws_row};
}

/// The terminal as a canvas, left as it was found.
class Screen {
 public:
  Screen() {
    if (in_foreground(STDIN_FILENO)) keys_.emplace(STDIN_FILENO);
    write("\033[?1049h\033[?25l");  // the alternate screen, no cursor
  }
  ~Screen() { write("\033[?25h\033[?1049l"); }
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;

  bool has_keys() const { return keys_.has_value(); }

  /// In place, so that nothing flickers: each line is emptied just before it is written.
  static void draw(const std::string& frame) {
    std::string out = "\033[H\033[K";
    for (std::size_t i = 0; i < frame.size(); ++i) {
      if (frame[i] != '\n') {
        out += frame[i];
      } else if (i + 1 < frame.size()) {  // a line feed after the last one would scroll
        out += "\r\n\033[K";
      }
    }
    write(out + "\033[J");
  }

 private:
  static void write(const std::string& text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  }
  std::optional<RawTerminal> keys_;
};

/// Blocks signals that would leave the terminal as it is, and reads them instead.
sys::UniqueFd watch_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH, SIGCONT}) {
    sigaddset(&set, signal);
  }
  sys::check(::sigprocmask(SIG_BLOCK, &set, nullptr), "sigprocmask");
  return sys::UniqueFd(sys::check(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK), "signalfd"));
}

class Top {
 public:
  Top(const LocalNode& client, std::chrono::milliseconds interval, json first)
      : client_(client), interval_(interval), node_(std::move(first)) {}

  /// Until somebody ends it; returns the exit code.
  int run() {
    const sys::UniqueFd signals = watch_signals();
    const Screen screen;
    Clock::time_point next = Clock::now() + interval_;
    for (;;) {
      draw();
      if (const auto code = wait_until(next, signals, screen)) return *code;
      if (Clock::now() < next) continue;  // resized
      ask();
      next = Clock::now() + interval_;
    }
  }

 private:
  void ask() {
    try {
      node_ = client_.request("GET", "/v1/node", nullptr, kAnswerTimeout);
      answered_ = Clock::now();
      complaint_.clear();
    } catch (const ClientError& error) {  // it restarts, perhaps
      complaint_ = error.what();
    }
  }

  void draw() const {
    const Size size = terminal_size().value_or(Size{80, 24});
    if (complaint_.empty()) return Screen::draw(render_top(node_, size.columns, size.rows, true));
    const auto silence = std::chrono::duration<double, std::milli>(Clock::now() - answered_);
    ScreenLine line(size.columns);
    line.add(fmt::format("{} old: {}", format_time_ms(silence.count()), complaint_), Style::kBad);
    std::string frame = line.text(true) + '\n';
    if (size.rows > 1) frame += render_top(node_, size.columns, size.rows - 1, true);
    Screen::draw(frame);
  }

  /// Waits for the time, a resize, or an end: then the exit code.
  static std::optional<int> wait_until(Clock::time_point when, const sys::UniqueFd& signals,
                                       const Screen& screen) {
    for (;;) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(when - Clock::now()).count();
      if (left <= 0) return {};
      std::array<pollfd, 2> polled{
          {{signals.get(), POLLIN, 0}, {screen.has_keys() ? STDIN_FILENO : -1, POLLIN, 0}}};
      const int ready = ::poll(polled.data(), polled.size(), static_cast<int>(left));
      if (ready < 0 && errno != EINTR) sys::throw_errno("poll");
      if (ready <= 0) continue;
      signalfd_siginfo info{};
      if (::read(signals.get(), &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
        const auto signal = static_cast<int>(info.ssi_signo);
        if (signal == SIGWINCH || signal == SIGCONT) return std::optional<int>();
        return kExitSignal + signal;
      }
      if (polled[1].revents != 0 && ends()) return kExitOk;
    }
  }

  /// Reads what was typed: q, Ctrl-C, Ctrl-D, or that there is no terminal any more.
  static bool ends() {
    std::array<char, 64> typed{};
    const ssize_t count = ::read(STDIN_FILENO, typed.data(), typed.size());
    if (count < 0 && (errno == EINTR || errno == EAGAIN)) return false;
    if (count <= 0) return true;
    return std::string_view(typed.data(), static_cast<std::size_t>(count))
               .find_first_of("qQ\x03\x04") != std::string_view::npos;
  }

  const LocalNode& client_;
  const std::chrono::milliseconds interval_;
  json node_;
  Clock::time_point answered_ = Clock::now();
  std::string complaint_;
};

std::chrono::milliseconds interval_of(const Options& options) {
  const std::uint64_t nanoseconds = options.time_ns("interval");
  if (nanoseconds < 100'000'000 || nanoseconds > 3'600'000'000'000) {
    throw UsageError("--interval: from 100ms to 60min");
  }
  return std::chrono::milliseconds(nanoseconds / 1'000'000);
}

}  // namespace

int top_command(const Words& words) {
  Options options("top [--node SOCKET] [--interval 1s] [--once] [--json]",
                  "Shows a node as it works: hosts with their load, guests, moves, last decisions.",
                  "In a bar '#' is the load now and '|' the forecast; '>' is more than there is.\n"
                  "Keys: q or Ctrl-C ends it. Without a terminal it is as with --once.\n"
                  "Exit codes: 0 done, 1 failed (no node there), 2 wrong usage,\n"
                  "128+N ended by signal N.");
  LocalNode::add_option(options)
      .value("interval", "TIME", "time between two looks, 100ms to 60min", "1s")
      .flag("once", "print one frame of plain text, and end")
      .flag("json", "print the answer of GET /v1/node, and end");
  if (!options.parse(words)) return kExitOk;
  const auto interval = interval_of(options);
  const LocalNode client(options);
  json node = client.request("GET", "/v1/node", nullptr, kAnswerTimeout);
  if (options.on("json")) {
    fmt::print("{}\n", node.dump(2, ' ', false, json::error_handler_t::replace));
    return kExitOk;
  }
  if (options.on("once") || !terminal_size()) {
    fmt::print("{}", render_top(node, 0, 0, false));
    return kExitOk;
  }
  return Top(client, interval, std::move(node)).run();
}

}  // namespace godwit::node
