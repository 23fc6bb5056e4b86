// MAC addresses as text and bytes. Pure functions.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace godwit::vmm {

using MacAddress = std::array<std::uint8_t, 6>;

/// "02:1f:..." with two hexadecimal digits a byte; nullopt for anything else, and for an address
/// that no station can have: all zero, or a multicast one.
std::optional<MacAddress> parse_mac(std::string_view text);

/// The address of a guest's network card `index` that was given none: always the same for the same
/// name, locally administered (IEEE 802, 8.2), and by chance hardly ever that of another name.
std::string derived_mac(std::string_view guest_name, unsigned index);

}  // namespace godwit::vmm
