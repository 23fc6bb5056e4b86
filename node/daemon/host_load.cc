#include "node/daemon/host_load.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <string_view>
#include <utility>

namespace godwit::node {
namespace {

constexpr std::size_t kMaxFile = 1 << 20;  // bytes; /proc/stat of 512 CPUs has 60 KiB
constexpr double kMinSeconds = 0.01;       // between two looks that are compared
constexpr double kMemoryPressure = 0.1;    // of the time
constexpr std::string_view kBlank = " \t";

/// The whole file; empty when it cannot be read.
std::string contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text;
  for (std::array<char, 8192> part; file && text.size() < kMaxFile;) {
    file.read(part.data(), part.size());
    text.append(part.data(), static_cast<std::size_t>(file.gcount()));
  }
  return text;
}

/// Takes the first line off `text`, without its end; nullopt when there is no whole one.
std::optional<std::string_view> take_line(std::string_view& text) {
  const std::size_t end = text.find('\n');
  if (end == std::string_view::npos) return std::nullopt;
  const std::string_view line = text.substr(0, end);
  text.remove_prefix(end + 1);
  return line;
}

/// Takes the first word off `line`; empty at its end.
std::string_view take_word(std::string_view& line) {
  line.remove_prefix(std::min(line.find_first_not_of(kBlank), line.size()));
  const std::string_view word = line.substr(0, line.find_first_of(kBlank));
  line.remove_prefix(word.size());
  return word;
}

template <typename Number>
std::optional<Number> number(std::string_view word) {
  Number value{};
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
  if (error != std::errc{} || end != word.data() + word.size()) return std::nullopt;
  return value;
}

std::optional<std::uint64_t> take_count(std::string_view& line) {
  return number<std::uint64_t>(take_word(line));
}

/// What a counter has grown by; one that stepped back (a driver was loaded again, 32 bits wrapped)
/// has not.
double growth(std::uint64_t before, std::uint64_t now) {
  return now > before ? static_cast<double>(now - before) : 0;
}

/// The value of "KEY=" among the words of a line.
std::optional<std::string_view> value_of(std::string_view key, std::string_view line) {
  for (auto word = take_word(line); !word.empty(); word = take_word(line)) {
    if (word.starts_with(key)) return word.substr(key.size());
  }
  return std::nullopt;
}

}  // namespace

bool HostSample::short_of_memory() const {
  return memory_pressure && memory_pressure->avg10 > kMemoryPressure;
}

HostLoad::HostLoad(std::string proc, std::string sys, Clock clock)
    : proc_(std::move(proc)), sys_(std::move(sys)), clock_(std::move(clock)), when_(clock_()) {
  look_at_cpus();
  traffic_ = traffic();
  pressure("cpu", cpu_stall_, std::nullopt);
  pressure("memory", memory_stall_, std::nullopt);
  pressure("io", io_stall_, std::nullopt);
}

HostSample HostLoad::sample() {
  const auto now = clock_();
  std::optional<double> seconds = std::chrono::duration<double>(now - when_).count();
  if (*seconds < kMinSeconds && *seconds >= 0) seconds.reset();
  look_at_cpus();
  look_at_memory();
  look_at_network(seconds);
  last_.cpu_pressure = pressure("cpu", cpu_stall_, seconds);
  last_.memory_pressure = pressure("memory", memory_stall_, seconds);
  last_.io_pressure = pressure("io", io_stall_, seconds);
  if (seconds) when_ = now;
  return last_;
}

/// proc(5), /proc/stat. Busy is a share of the ticks of all fields, so neither a clock nor the
/// length of a tick matters, and no field has to be right for it to lie between 0 and 1.
void HostLoad::look_at_cpus() {
  const std::string text = contents(proc_ + "/stat");
  std::string_view rest = text;
  std::optional<CpuTicks> ticks;
  unsigned cpus = 0;
  while (auto line = take_line(rest)) {
    const std::string_view name = take_word(*line);
    if (!name.starts_with("cpu")) break;  // they come first
    if (name != "cpu") {
      if (number<unsigned>(name.substr(3))) ++cpus;
      continue;
    }
    CpuTicks read{};
    std::size_t fields = 0;
    for (; fields < read.size(); ++fields) {
      const auto count = take_count(*line);
      if (!count) break;
      read[fields] = *count;
    }
    if (fields >= 4) ticks = read;
  }
  if (cpus > 0) last_.cpus = cpus;
  if (ticks && cpu_ticks_) {
    constexpr std::size_t kIdle = 3, kIoWait = 4;
    double busy = 0, all = 0;
    for (std::size_t i = 0; i < ticks->size(); ++i) {
      const double grown = growth((*cpu_ticks_)[i], (*ticks)[i]);
      all += grown;
      if (i != kIdle && i != kIoWait) busy += grown;
    }
    if (all > 0) last_.cpu_busy = last_.cpus * (busy / all);
  }
  if (ticks) cpu_ticks_ = ticks;
  last_.cpu_busy = std::min(last_.cpu_busy, static_cast<double>(last_.cpus));
}

void HostLoad::look_at_memory() {
  const std::string text = contents(proc_ + "/meminfo");
  std::string_view rest = text;
  std::optional<std::uint64_t> total, available;  // KiB
  std::uint64_t huge_pages = 0, huge_page = 0;    // number; KiB
  while (auto line = take_line(rest)) {
    const std::string_view name = take_word(*line);
    if (name == "MemTotal:") total = take_count(*line);
    if (name == "MemAvailable:") available = take_count(*line);
    if (name == "HugePages_Free:") huge_pages = take_count(*line).value_or(0);
    if (name == "Hugepagesize:") huge_page = take_count(*line).value_or(0);
  }
  if (!total || !available || *total == 0) return;
  last_.memory_mb = static_cast<double>(*total) / 1024;
  const double all = static_cast<double>(*available) +
                     static_cast<double>(huge_pages) * static_cast<double>(huge_page);
  last_.memory_available_mb = std::min(all, static_cast<double>(*total)) / 1024;
}

void HostLoad::look_at_network(std::optional<double> seconds) {
  if (!seconds) return;
  const auto before = std::exchange(traffic_, traffic());
  if (!before || !traffic_ || *seconds < 0) return;
  double rx = 0, tx = 0;
  for (const auto& [device, bytes] : *traffic_) {
    const auto then = before->find(device);
    if (then == before->end()) continue;
    rx += growth(then->second.rx, bytes.rx);
    tx += growth(then->second.tx, bytes.tx);
  }
  last_.network_rx_bytes_per_s = rx / *seconds;
  last_.network_tx_bytes_per_s = tx / *seconds;
}

/// proc(5), /proc/net/dev: two lines of heads, then "NAME: 8 figures received 8 sent", bytes first.
std::optional<HostLoad::Traffic> HostLoad::traffic() const {
  const std::string text = contents(proc_ + "/net/dev");
  std::string_view rest = text;
  if (text.empty()) return std::nullopt;
  Traffic hardware, others;
  while (auto line = take_line(rest)) {
    const std::size_t colon = line->find(':');
    if (colon == std::string_view::npos) continue;
    std::string_view head = line->substr(0, colon);
    const std::string device(take_word(head));
    line->remove_prefix(colon + 1);
    std::optional<std::uint64_t> rx = take_count(*line), tx;
    for (int i = 1; i < 8; ++i) take_word(*line);
    tx = take_count(*line);
    const bool named = !device.empty() && device.find('/') == std::string::npos;
    if (!named || !rx || !tx || device == "lo") continue;
    if (has_hardware(device)) {
      hardware[device] = {*rx, *tx};
    } else if (hardware.empty() && !is_made_of_others(device)) {
      others[device] = {*rx, *tx};
    }
  }
  return hardware.empty() ? others : hardware;
}

bool HostLoad::has_hardware(const std::string& device) const {
  std::error_code ignored;
  return std::filesystem::exists(sys_ + "/class/net/" + device + "/device", ignored);
}

/// Those would be counted twice. sysfs shows what lies below as "lower_NAME".
bool HostLoad::is_made_of_others(const std::string& device) const {
  std::error_code error;
  std::filesystem::directory_iterator entry(sys_ + "/class/net/" + device, error), end;
  for (; !error && entry != end; entry.increment(error)) {
    if (entry->path().filename().string().starts_with("lower_")) return true;
  }
  return false;
}

std::optional<Pressure> HostLoad::pressure(const char* resource, Stall& before,
                                           std::optional<double> seconds) const {
  const std::string text = contents(proc_ + "/pressure/" + resource);
  std::string_view rest = text;
  auto line = take_line(rest);
  const auto avg10 = line ? value_of("avg10=", *line) : std::nullopt;
  const auto total = line ? value_of("total=", *line) : std::nullopt;
  const auto percent = avg10 ? number<double>(*avg10) : std::nullopt;
  const auto total_us = total ? number<std::uint64_t>(*total) : std::nullopt;
  if (!percent || !total_us || !std::isfinite(*percent) || take_word(*line) != "some") {
    before = {};
    return std::nullopt;
  }
  if (seconds || !before.total_us) {
    if (seconds && *seconds > 0 && before.total_us) {
      before.now = std::clamp(growth(*before.total_us, *total_us) / 1e6 / *seconds, 0.0, 1.0);
    }
    before.total_us = *total_us;
  }
  return Pressure{std::clamp(*percent / 100, 0.0, 1.0), before.now};
}

}  // namespace godwit::node
