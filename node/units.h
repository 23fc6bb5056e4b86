// Sizes, times and rates as people write them on a command line: "256M", "50ms", "1Gbit". Pure
// functions; a number without its unit is refused, because a guess would be wrong for somebody.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

namespace godwit::node {

/// The text is no such quantity; what() says why, in words that follow "--flag: ".
class UnitError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// "256M", "1.5G", "4096B", "2GiB", or "0": bytes, powers of 1024. Throws UnitError.
std::uint64_t parse_size(std::string_view text);

/// "250us", "50ms", "1.5s", "10min", or "0": nanoseconds. Throws UnitError.
std::uint64_t parse_time_ns(std::string_view text);

/// "1Gbit", "2.5Gbit", "800Mbit", or "0": bits a second, powers of 1000. Throws UnitError.
std::uint64_t parse_rate(std::string_view text);

/// A plain decimal number within [low, high]. Throws UnitError.
std::uint64_t parse_count(std::string_view text, std::uint64_t low, std::uint64_t high);

/// The inverse, for messages: "256M", "16.5T", "4097B"; at most one decimal, rounded.
std::string format_size(std::uint64_t bytes);

/// "900 us", "35 ms", "1.25 s", "3 min 20 s".
std::string format_time_ms(double milliseconds);

/// How long ago, or how long yet, for a person: "64 s", "12 min", "30 h", "12 days".
std::string format_age(double seconds);

/// "850 Mbit/s", "9.41 Gbit/s".
std::string format_rate(double bits_per_second);

}  // namespace godwit::node
