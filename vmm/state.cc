#include "vmm/state.h"

#include <fmt/core.h>

#include <algorithm>

namespace godwit::vmm {
namespace {

std::string name_of(std::string_view kind, std::uint32_t instance) {
  return fmt::format("{}[{}]", kind, instance);
}

/// What the peer calls a section, made fit to print: it may be any 16 bytes.
std::string printable_kind(const SectionHeader& header) {
  std::string kind;
  for (const char c : header.kind) {
    if (c == '\0') break;
    kind += c > ' ' && c <= '~' ? c : '?';
  }
  return kind;
}

}  // namespace

void StateWriter::begin(std::string_view kind, std::uint32_t version, std::uint32_t instance) {
  SectionHeader header = {};
  if (kind.empty() || kind.size() >= sizeof header.kind) {
    throw std::invalid_argument("section kind must have 1 to 15 characters");
  }
  close_section();
  std::copy(kind.begin(), kind.end(), header.kind);
  header.version = version;
  header.instance = instance;
  section_start_ = bytes_.size();
  const auto raw = std::as_bytes(std::span(&header, 1));
  bytes_.insert(bytes_.end(), raw.begin(), raw.end());
}

void StateWriter::put_bytes(std::span<const std::byte> bytes) {
  if (section_start_ == SIZE_MAX) throw std::logic_error("state put outside a section");
  bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
}

std::vector<std::byte> StateWriter::finish() {
  close_section();
  section_start_ = SIZE_MAX;
  return std::move(bytes_);
}

void StateWriter::close_section() {
  if (section_start_ == SIZE_MAX) return;
  const std::uint64_t size = bytes_.size() - section_start_ - sizeof(SectionHeader);
  std::memcpy(bytes_.data() + section_start_ + offsetof(SectionHeader, size), &size, sizeof size);
}

void StateReader::begin(std::string_view kind, std::uint32_t version, std::uint32_t instance) {
  if (!section_.empty()) fail(fmt::format("{} bytes too many", section_.size()));
  name_ = name_of(kind, instance);
  SectionHeader header;
  if (rest_.size() < sizeof header) fail("missing");
  std::memcpy(&header, rest_.data(), sizeof header);
  rest_ = rest_.subspan(sizeof header);
  // Byte for byte, padding included: there is one spelling of a section.
  char wanted[sizeof header.kind] = {};
  kind.copy(wanted, sizeof wanted - 1);
  if (std::memcmp(header.kind, wanted, sizeof wanted) != 0 || header.instance != instance) {
    fail(fmt::format("found section {} in its place",
                     name_of(printable_kind(header), header.instance)));
  }
  if (header.version != version) {
    fail(fmt::format("version {}, this build reads version {}", header.version, version));
  }
  if (header.size > rest_.size()) fail("truncated");
  section_ = rest_.first(header.size);
  rest_ = rest_.subspan(header.size);
}

void StateReader::get_bytes(std::span<std::byte> out) {
  if (out.size() > section_.size()) fail("too short");
  std::copy_n(section_.begin(), out.size(), out.begin());
  section_ = section_.subspan(out.size());
}

void StateReader::finish() {
  if (!section_.empty()) fail(fmt::format("{} bytes too many", section_.size()));
  if (!rest_.empty()) fail(fmt::format("{} bytes after the last section", rest_.size()));
}

void StateReader::fail(const std::string& why) const {
  throw StateError(fmt::format("machine state: section {}: {}", name_, why));
}

}  // namespace godwit::vmm
