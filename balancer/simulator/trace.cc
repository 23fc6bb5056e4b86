#include "balancer/simulator/trace.h"

#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <stdexcept>

namespace godwit::balancer::simulator {

namespace {

constexpr std::size_t kMaximumFiles = 1'000'000;
constexpr std::size_t kMaximumFileBytes = 64 * 1024;

// Names come from the file system and end up in messages: control bytes must not reach a terminal.
std::string printable(std::string_view name) {
  std::string text;
  for (const char c : name) text += (c >= 0x20 && c != 0x7f) ? c : '?';
  return text;
}

std::uint8_t parse_percent(std::string_view line, const std::string& name, std::size_t number) {
  while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.remove_suffix(1);
  int value = -1;
  const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), value);
  if (error != std::errc{} || end != line.data() + line.size() || value < 0 || value > 100) {
    throw std::runtime_error(fmt::format("trace '{}', line {}: expected an integer from 0 to 100",
                                         printable(name), number));
  }
  return static_cast<std::uint8_t>(value);
}

std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text(kMaximumFileBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (!file.is_open() || file.bad()) {
    throw std::runtime_error(fmt::format("trace '{}': cannot be read", printable(path.string())));
  }
  text.resize(static_cast<std::size_t>(file.gcount()));
  if (text.size() > kMaximumFileBytes) {
    throw std::runtime_error(
        fmt::format("trace '{}': larger than 64 KiB, not a trace", printable(path.string())));
  }
  return text;
}

}  // namespace

Trace parse_trace(std::string name, std::string_view text, std::size_t samples) {
  Trace trace;
  trace.percent.reserve(samples);
  std::size_t number = 0;
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    ++number;
    if (trace.percent.size() == samples) {
      if (line.empty() || line == "\r") continue;
      throw std::runtime_error(fmt::format("trace '{}', line {}: more than {} samples",
                                           printable(name), number, samples));
    }
    trace.percent.push_back(parse_percent(line, name, number));
  }
  if (trace.percent.size() != samples) {
    throw std::runtime_error(fmt::format("trace '{}': {} samples, expected {}", printable(name),
                                         trace.percent.size(), samples));
  }
  trace.name = std::move(name);
  return trace;
}

std::vector<Trace> read_traces(const std::filesystem::path& directory, std::size_t samples) {
  std::error_code error;
  std::vector<std::filesystem::path> files;
  for (auto entry = std::filesystem::directory_iterator(directory, error);
       !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    const bool hidden = entry->path().filename().string().front() == '.';
    if (hidden || !entry->is_regular_file(error)) continue;
    if (files.size() == kMaximumFiles) {
      throw std::runtime_error(
          fmt::format("{}: more than {} files", printable(directory.string()), kMaximumFiles));
    }
    files.push_back(entry->path());
  }
  if (error) {
    throw std::runtime_error(fmt::format("cannot read the trace directory {}: {}",
                                         printable(directory.string()), error.message()));
  }
  if (files.empty()) {
    throw std::runtime_error(
        fmt::format("{}: no trace files; give one day's directory", printable(directory.string())));
  }
  std::sort(files.begin(), files.end(), [](const auto& a, const auto& b) {
    return a.filename().native() < b.filename().native();
  });
  std::vector<Trace> traces;
  traces.reserve(files.size());
  for (const auto& file : files) {
    traces.push_back(parse_trace(file.filename().string(), read_file(file), samples));
  }
  return traces;
}

}  // namespace godwit::balancer::simulator
