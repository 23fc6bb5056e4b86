// Reader for PlanetLab CPU traces: one file a guest, one integer (percent of a CPU) a line, one
// line every five minutes. Trace files come from elsewhere: anything out of range is refused with
// the file and line. Source of the format: CoMon/PlanetLab, Park and Pai, "CoMon", SIGOPS OSR
// 40(1), 2006.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace godwit::balancer::simulator {

struct Trace {
  std::string name;
  std::vector<std::uint8_t> percent;  // 0..100, one value a sample
};

inline constexpr double kSampleSeconds = 300;
inline constexpr std::size_t kSamplesPerDay = 288;

// Parses the text of one trace. Exactly `samples` lines are taken; fewer, a value that is not an
// integer from 0 to 100, or more than `samples` values throws std::runtime_error naming `name` and
// the line.
Trace parse_trace(std::string name, std::string_view text, std::size_t samples = kSamplesPerDay);

// Reads every regular file of `directory`, sorted by name (bytes); names may contain spaces. Hidden
// files are skipped. Throws std::runtime_error when the directory is missing, empty, has more than
// 1,000,000 files, or a file is larger than 64 KiB or malformed.
std::vector<Trace> read_traces(const std::filesystem::path& directory,
                               std::size_t samples = kSamplesPerDay);

}  // namespace godwit::balancer::simulator
