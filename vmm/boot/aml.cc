#include "vmm/boot/aml.h"

#include <stdexcept>
#include <string>

namespace godwit::boot::aml {
namespace {

template <typename T>
void append(Bytes& out, T value) {
  for (std::size_t i = 0; i < sizeof value; ++i) {
    out.push_back(static_cast<std::uint8_t>(value >> (8 * i)));
  }
}

void append(Bytes& out, const Bytes& bytes) { out.insert(out.end(), bytes.begin(), bytes.end()); }

/// `body` with its PkgLength (20.2.4), which counts itself, in front.
Bytes with_length(const Bytes& body) {
  Bytes out;
  if (body.size() + 1 < 0x40) {
    out.push_back(static_cast<std::uint8_t>(body.size() + 1));
  } else {
    const std::size_t length = body.size() + 2;
    if (length >= 0x1000) throw std::logic_error("AML package too long");
    out.push_back(static_cast<std::uint8_t>(0x40 | (length & 0xf)));
    out.push_back(static_cast<std::uint8_t>(length >> 4));
  }
  append(out, body);
  return out;
}

}  // namespace

Bytes join(std::initializer_list<Bytes> parts) {
  Bytes out;
  for (const Bytes& part : parts) append(out, part);
  return out;
}

Bytes name_string(std::string_view path) {
  Bytes out;
  if (path.starts_with('\\')) {
    out.push_back('\\');
    path.remove_prefix(1);
  }
  if (path.size() == 9 && path[4] == '.') {
    out.push_back(0x2e);  // DualNamePrefix
  } else if (path.size() != 4) {
    throw std::logic_error("AML name must be one or two segments");
  }
  for (const char c : path) {
    if (c != '.') out.push_back(static_cast<std::uint8_t>(c));
  }
  return out;
}

Bytes integer(std::uint64_t value) {
  Bytes out;
  if (value <= 1) {
    append(out, static_cast<std::uint8_t>(value));  // ZeroOp, OneOp
  } else if (value <= 0xff) {
    out.push_back(0x0a);
    append(out, static_cast<std::uint8_t>(value));
  } else if (value <= 0xffff) {
    out.push_back(0x0b);
    append(out, static_cast<std::uint16_t>(value));
  } else if (value <= 0xffff'ffff) {
    out.push_back(0x0c);
    append(out, static_cast<std::uint32_t>(value));
  } else {
    out.push_back(0x0e);
    append(out, value);
  }
  return out;
}

Bytes string(std::string_view text) {
  Bytes out = {0x0d};
  for (const char c : text) out.push_back(static_cast<std::uint8_t>(c));
  out.push_back(0);
  return out;
}

Bytes eisa_id(std::string_view id) {
  if (id.size() != 7) throw std::logic_error("EISA id must have 7 characters");
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < 3; ++i)
    value = value << 5 | ((static_cast<unsigned char>(id[i]) - 0x40u) & 0x1f);
  value =
      value << 16 | static_cast<std::uint32_t>(std::stoul(std::string(id.substr(3)), nullptr, 16));
  // Stored with its bytes swapped.
  return {0x0c, static_cast<std::uint8_t>(value >> 24), static_cast<std::uint8_t>(value >> 16),
          static_cast<std::uint8_t>(value >> 8), static_cast<std::uint8_t>(value)};
}

Bytes name(std::string_view path, const Bytes& object) {
  return join({{0x08}, name_string(path), object});
}

Bytes scope(std::string_view path, const Bytes& terms) {
  return join({{0x10}, with_length(join({name_string(path), terms}))});
}

Bytes device(std::string_view path, const Bytes& terms) {
  return join({{0x5b, 0x82}, with_length(join({name_string(path), terms}))});
}

Bytes package(std::initializer_list<Bytes> elements) {
  Bytes body = {static_cast<std::uint8_t>(elements.size())};
  for (const Bytes& element : elements) append(body, element);
  return join({{0x12}, with_length(body)});
}

Bytes serialized_method(std::string_view path, unsigned arguments, const Bytes& terms) {
  const Bytes flags = {static_cast<std::uint8_t>(arguments | 0x08)};
  return join({{0x14}, with_length(join({name_string(path), flags, terms}))});
}

Bytes notify(std::string_view path, std::uint64_t value) {
  return join({{0x86}, name_string(path), integer(value)});
}

Bytes io_register(std::string_view region, std::string_view field, std::uint16_t port) {
  const Bytes region_term =
      join({{0x5b, 0x80}, name_string(region), {0x01}, integer(port), integer(1)});  // SystemIO
  const Bytes bits = {0x08};
  const Bytes byte_access = {0x01};
  const Bytes field_term =
      join({{0x5b, 0x81},
            with_length(join({name_string(region), byte_access, name_string(field), bits}))});
  return join({region_term, field_term});
}

Bytes store_local(std::string_view field) {
  const Bytes local0 = {0x60};
  return join({{0x70}, name_string(field), local0});  // DefStore
}

Bytes if_local_bits(std::uint64_t mask, const Bytes& terms) {
  const Bytes local0 = {0x60};
  const Bytes no_target = {0x00};
  const Bytes condition = join({{0x7b}, local0, integer(mask), no_target});  // DefAnd
  return join({{0xa0}, with_length(join({condition, terms}))});
}

Bytes resource_template(std::initializer_list<Bytes> descriptors) {
  const Bytes content = join({join(descriptors), {0x79, 0x00}});  // end tag, no checksum
  return join({{0x11}, with_length(join({integer(content.size()), content}))});
}

Bytes io_ports(std::uint16_t first, std::uint8_t count) {
  Bytes out = {0x47, 0x01};  // decodes 16 bits
  append(out, first);
  append(out, first);
  out.push_back(1);  // alignment
  out.push_back(count);
  return out;
}

Bytes bus_numbers(std::uint16_t first, std::uint16_t last) {
  Bytes out = {0x88, 0x0d, 0x00, 0x02, 0x0c, 0x00};  // bus numbers; both ends fixed
  append(out, std::uint16_t{0});
  append(out, first);
  append(out, last);
  append(out, std::uint16_t{0});
  append(out, static_cast<std::uint16_t>(last - first + 1));
  return out;
}

Bytes memory_window(std::uint32_t first, std::uint32_t last) {
  Bytes out = {0x87, 0x17, 0x00, 0x00, 0x0c, 0x01};  // memory; both ends fixed; read/write
  append(out, std::uint32_t{0});
  append(out, first);
  append(out, last);
  append(out, std::uint32_t{0});
  append(out, last - first + 1);
  return out;
}

Bytes edge_interrupt(std::uint32_t gsi) {
  Bytes out = {0x89, 0x06, 0x00, 0x03, 0x01};  // consumer, edge, active high, exclusive; one of it
  append(out, gsi);
  return out;
}

}  // namespace godwit::boot::aml
