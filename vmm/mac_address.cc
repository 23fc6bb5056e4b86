#include "vmm/mac_address.h"

#include <fmt/format.h>

#include <charconv>

namespace godwit::vmm {

std::optional<MacAddress> parse_mac(std::string_view text) {
  MacAddress mac{};
  if (text.size() != 3 * mac.size() - 1) return std::nullopt;
  for (std::size_t i = 0; i < mac.size(); ++i) {
    const char* const at = text.data() + 3 * i;
    if (i > 0 && at[-1] != ':') return std::nullopt;
    const auto [end, error] = std::from_chars(at, at + 2, mac[i], 16);
    if (error != std::errc() || end != at + 2) return std::nullopt;
  }
  if ((mac[0] & 1) != 0 || mac == MacAddress{}) return std::nullopt;
  return mac;
}

std::string derived_mac(std::string_view guest_name, unsigned index) {
  std::uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  const auto add = [&hash](unsigned byte) { hash = (hash ^ (byte & 0xff)) * 0x100000001b3; };
  for (const char c : guest_name) add(static_cast<unsigned char>(c));
  add(0);  // no name holds one, so "a" + 1 and "a1" + 0 stay apart
  add(index);
  hash ^= hash >> 32;
  return fmt::format("{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", ((hash >> 40) & 0xfc) | 0x02,
                     (hash >> 32) & 0xff, (hash >> 24) & 0xff, (hash >> 16) & 0xff,
                     (hash >> 8) & 0xff, hash & 0xff);
}

}  // namespace godwit::vmm
