#include "node/units.h"

#include <fmt/format.h>

#include <array>
#include <cctype>
#include <cmath>
#include <span>

namespace godwit::node {

namespace {

struct Unit {
  std::string_view name;  // compared without case
  std::uint64_t factor;
};

constexpr std::array<Unit, 13> kSizeUnits{{{"B", 1},
                                           {"K", 1ull << 10},
                                           {"KiB", 1ull << 10},
                                           {"KB", 1ull << 10},
                                           {"M", 1ull << 20},
                                           {"MiB", 1ull << 20},
                                           {"MB", 1ull << 20},
                                           {"G", 1ull << 30},
                                           {"GiB", 1ull << 30},
                                           {"GB", 1ull << 30},
                                           {"T", 1ull << 40},
                                           {"TiB", 1ull << 40},
                                           {"TB", 1ull << 40}}};
constexpr std::array<Unit, 5> kTimeUnits{
    {{"ns", 1}, {"us", 1'000}, {"ms", 1'000'000}, {"s", 1'000'000'000}, {"min", 60'000'000'000}}};
constexpr std::array<Unit, 4> kRateUnits{
    {{"bit", 1}, {"Kbit", 1'000}, {"Mbit", 1'000'000}, {"Gbit", 1'000'000'000}}};

/// What one kind of quantity is called in messages.
struct Kind {
  std::string_view noun;      // "a size"
  std::string_view examples;  // "256M or 2G"
  std::span<const Unit> units;
};
const Kind kSize{"a size", "256M or 2G", kSizeUnits};
const Kind kTime{"a time", "50ms or 60s", kTimeUnits};
const Kind kRate{"a rate", "1Gbit or 800Mbit", kRateUnits};

bool same_word(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (std::tolower(static_cast<unsigned char>(a[i])) !=
        std::tolower(static_cast<unsigned char>(b[i]))) {
      return false;
    }
  }
  return true;
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

std::uint64_t too_large(std::string_view text) {
  throw UnitError(fmt::format("{} is too large", text));
}

/// Consumes the leading digits of `rest`.
std::uint64_t take_digits(std::string_view& rest, std::string_view text) {
  std::uint64_t value = 0;
  while (!rest.empty() && is_digit(rest.front())) {
    if (__builtin_mul_overflow(value, 10u, &value) ||
        __builtin_add_overflow(value, static_cast<unsigned>(rest.front() - '0'), &value)) {
      return too_large(text);
    }
    rest.remove_prefix(1);
  }
  return value;
}

/// Quotes what a user typed so that it cannot break the line it is reported on.
std::string quoted(std::string_view text) {
  std::string out;
  for (const char c : text.substr(0, 40)) {
    out += std::isprint(static_cast<unsigned char>(c)) != 0 ? c : '?';
  }
  return '"' + out + (text.size() > 40 ? "...\"" : "\"");
}

std::uint64_t parse(std::string_view text, const Kind& kind) {
  const auto garbage = [&] {
    return UnitError(
        fmt::format("{} is not {}, such as {}", quoted(text), kind.noun, kind.examples));
  };
  if (text.empty() || !is_digit(text.front())) throw garbage();
  std::string_view rest = text;
  const std::uint64_t whole = take_digits(rest, text);

  std::uint64_t fraction = 0;
  std::uint64_t fraction_scale = 1;
  if (!rest.empty() && rest.front() == '.') {
    rest.remove_prefix(1);
    const std::size_t before = rest.size();
    fraction = take_digits(rest, text);
    const std::size_t digits = before - rest.size();
    if (digits == 0 || digits > 6) throw garbage();
    for (std::size_t i = 0; i < digits; ++i) fraction_scale *= 10;
  }
  if (rest.empty()) {
    if (whole == 0 && fraction == 0) return 0;
    throw UnitError(fmt::format("{} lacks a unit, such as {}", text, kind.examples));
  }
  for (const Unit& unit : kind.units) {
    if (!same_word(rest, unit.name)) continue;
    std::uint64_t value = 0;
    if (__builtin_mul_overflow(whole, unit.factor, &value)) return too_large(text);
    // At most 10^6 * 6 * 10^10: cannot overflow.
    const std::uint64_t part = fraction * unit.factor / fraction_scale;
    if (__builtin_add_overflow(value, part, &value)) return too_large(text);
    return value;
  }
  throw garbage();
}

}  // namespace

std::uint64_t parse_size(std::string_view text) { return parse(text, kSize); }
std::uint64_t parse_time_ns(std::string_view text) { return parse(text, kTime); }
std::uint64_t parse_rate(std::string_view text) { return parse(text, kRate); }

std::uint64_t parse_count(std::string_view text, std::uint64_t low, std::uint64_t high) {
  std::string_view rest = text;
  if (rest.empty() || !is_digit(rest.front())) {
    throw UnitError(fmt::format("{} is not a number from {} to {}", quoted(text), low, high));
  }
  const std::uint64_t value = take_digits(rest, text);
  if (!rest.empty() || value < low || value > high) {
    throw UnitError(fmt::format("{} is not a number from {} to {}", quoted(text), low, high));
  }
  return value;
}

std::string format_size(std::uint64_t bytes) {
  static constexpr std::array<char, 5> kNames{'B', 'K', 'M', 'G', 'T'};
  std::size_t unit = 0;
  auto value = static_cast<double>(bytes);
  while (unit + 1 < kNames.size() && bytes >= (1ull << (10 * (unit + 1)))) {
    value /= 1024;
    ++unit;
  }
  if (bytes % (1ull << (10 * unit)) == 0) return fmt::format("{:.0f}{}", value, kNames.at(unit));
  return fmt::format("{:.1f}{}", value, kNames.at(unit));
}

std::string format_time_ms(double milliseconds) {
  if (milliseconds < 1) return fmt::format("{:.0f} us", milliseconds * 1000);
  if (milliseconds < 10) return fmt::format("{:.1f} ms", milliseconds);
  if (milliseconds < 1000) return fmt::format("{:.0f} ms", milliseconds);
  if (milliseconds < 60'000) return fmt::format("{:.2f} s", milliseconds / 1000);
  const auto seconds = static_cast<std::uint64_t>(std::llround(milliseconds / 1000));
  if (seconds < 3600) return fmt::format("{} min {} s", seconds / 60, seconds % 60);
  if (seconds < 86'400) return fmt::format("{} h {} min", seconds / 3600, seconds / 60 % 60);
  return fmt::format("{} d {} h", seconds / 86'400, seconds / 3600 % 24);
}

std::string format_age(double seconds) {
  if (seconds < 100) return fmt::format("{:.0f} s", seconds);
  if (seconds < 6000) return fmt::format("{:.0f} min", seconds / 60);
  if (seconds < 172'800) return fmt::format("{:.0f} h", seconds / 3600);
  return fmt::format("{:.0f} days", seconds / 86'400);
}

std::string format_rate(double bits_per_second) {
  if (bits_per_second >= 1e9) return fmt::format("{:.2f} Gbit/s", bits_per_second / 1e9);
  return fmt::format("{:.0f} Mbit/s", bits_per_second / 1e6);
}

}  // namespace godwit::node
