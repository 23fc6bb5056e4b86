#include "vmm/sys/schedstat.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <unistd.h>

#include <array>
#include <charconv>

#include "vmm/sys/unique_fd.h"

namespace godwit::sys {

std::optional<std::uint64_t> parse_run_delay(std::string_view text) {
  const std::size_t space = text.find(' ');
  if (space == std::string_view::npos) return std::nullopt;
  std::uint64_t on_cpu = 0, waited = 0;
  const char* const end = text.data() + text.size();
  const auto first = std::from_chars(text.data(), text.data() + space, on_cpu);
  if (first.ec != std::errc{} || first.ptr != text.data() + space) return std::nullopt;
  const auto second = std::from_chars(text.data() + space + 1, end, waited);
  if (second.ec != std::errc{}) return std::nullopt;
  // A third figure follows; without its space the second may have been cut off.
  if (second.ptr == end || *second.ptr != ' ') return std::nullopt;
  return waited;
}

std::optional<std::uint64_t> run_delay_ns(pid_t tid) {
  const std::string path = fmt::format("/proc/self/task/{}/schedstat", tid);
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) return std::nullopt;
  std::array<char, 128> text;
  const ssize_t size = ::read(file.get(), text.data(), text.size());
  if (size <= 0) return std::nullopt;
  return parse_run_delay({text.data(), static_cast<std::size_t>(size)});
}

}  // namespace godwit::sys
