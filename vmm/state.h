// Versioned sections of machine state: {kind, version, instance, size} and then plain bytes. Exact
// match or refuse. Not thread-safe. A reader trusts nothing: every read is bounds-checked and
// throws StateError with the section's name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace godwit::vmm {

class StateError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Identifies a section on the wire. `kind` is at most 15 characters ("serial", "vcpu",
/// "virtio-blk").
struct SectionHeader {
  char kind[16];
  std::uint32_t version;
  std::uint32_t instance;
  std::uint64_t size;  // bytes of payload that follow
};
static_assert(sizeof(SectionHeader) == 32);

class StateWriter {
 public:
  /// Opens a section; everything put until the next begin() or finish() belongs to it.
  void begin(std::string_view kind, std::uint32_t version, std::uint32_t instance);
  void put_bytes(std::span<const std::byte> bytes);
  template <typename T>
  void put(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    put_bytes(std::as_bytes(std::span(&value, 1)));
  }
  /// A counted array of trivially copyable elements.
  template <typename T>
  void put_array(std::span<const T> values) {
    put<std::uint64_t>(values.size());
    put_bytes(std::as_bytes(values));
  }
  /// Closes the last section and returns all of them.
  std::vector<std::byte> finish();

 private:
  void close_section();
  std::vector<std::byte> bytes_;
  std::size_t section_start_ = SIZE_MAX;  // offset of the open section's header
};

class StateReader {
 public:
  /// `bytes` must outlive the reader.
  explicit StateReader(std::span<const std::byte> bytes) : rest_(bytes) {}

  /// Opens the next section, which must be exactly this one; the previous one must be read to its
  /// end.
  void begin(std::string_view kind, std::uint32_t version, std::uint32_t instance);
  void get_bytes(std::span<std::byte> out);
  template <typename T>
  T get() {
    static_assert(std::is_trivially_copyable_v<T>);
    T value;
    get_bytes(std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }
  /// The counterpart of put_array; at most `max` elements.
  template <typename T>
  std::vector<T> get_array(std::size_t max) {
    const auto count = get<std::uint64_t>();
    if (count > max || count > section_.size() / sizeof(T)) fail("array too long");
    std::vector<T> values(count);
    get_bytes(std::as_writable_bytes(std::span(values)));
    return values;
  }
  /// Throws unless every section was read to its end.
  void finish();
  [[noreturn]] void fail(const std::string& why) const;

 private:
  std::span<const std::byte> rest_;     // after the open section
  std::span<const std::byte> section_;  // what is left of the open section
  std::string name_ = "state";
};

}  // namespace godwit::vmm
