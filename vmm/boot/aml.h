// ACPI machine language, as little of it as our DSDT needs (ACPI 6.4, chapter 20), and resource
// templates (6.4). Pure functions that return encoded bytes; terms are concatenated by join().
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string_view>
#include <vector>

namespace godwit::boot::aml {

using Bytes = std::vector<std::uint8_t>;

Bytes join(std::initializer_list<Bytes> parts);

/// `path`: name segments of four characters, one or two of them joined by '.', an optional leading
/// '\'.
Bytes name_string(std::string_view path);
Bytes integer(std::uint64_t value);
Bytes string(std::string_view text);
/// "PNP0A03" in its compressed form (6.1.5): three capitals and four hexadecimal digits.
Bytes eisa_id(std::string_view id);

Bytes name(std::string_view path, const Bytes& object);   // DefName
Bytes scope(std::string_view path, const Bytes& terms);   // DefScope
Bytes device(std::string_view path, const Bytes& terms);  // DefDevice
Bytes package(std::initializer_list<Bytes> elements);     // DefPackage
Bytes serialized_method(std::string_view path, unsigned arguments,
                        const Bytes& terms);               // DefMethod
Bytes notify(std::string_view path, std::uint64_t value);  // DefNotify
/// An operation region of one I/O port, and a field that is its byte.
Bytes io_register(std::string_view region, std::string_view field, std::uint16_t port);
/// Local0 = field: reads it once.
Bytes store_local(std::string_view field);
/// If (Local0 & mask) { terms }
Bytes if_local_bits(std::uint64_t mask, const Bytes& terms);

/// A buffer of resource descriptors, closed with an end tag.
Bytes resource_template(std::initializer_list<Bytes> descriptors);
Bytes io_ports(std::uint16_t first, std::uint8_t count);       // 6.4.2.5
Bytes bus_numbers(std::uint16_t first, std::uint16_t last);    // 6.4.3.5.3, a producer
Bytes memory_window(std::uint32_t first, std::uint32_t last);  // 6.4.3.5.2, a producer
Bytes edge_interrupt(std::uint32_t gsi);                       // 6.4.3.6, active high

}  // namespace godwit::boot::aml
