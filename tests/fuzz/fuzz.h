// What a fuzz target is: LLVMFuzzerTestOneInput, as libFuzzer calls it, and fuzz_seeds, from which
// our own driver (driver.cc) begins. A target must survive
// every input: what it is given is a guest's, a peer's or a file's bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace godwit::fuzz {

using Bytes = std::vector<std::uint8_t>;

/// Inputs worth mutating: well-formed ones.
std::vector<Bytes> fuzz_seeds();

/// Takes an input apart; what is not there any more is zero.
class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : rest_(data, size) {}
  bool empty() const { return rest_.empty(); }
  template <typename T>
  T take() {
    static_assert(std::is_trivially_copyable_v<T>);
    T value{};
    const std::size_t size = std::min(sizeof value, rest_.size());
    if (size > 0) std::memcpy(&value, rest_.data(), size);
    rest_ = rest_.subspan(size);
    return value;
  }
  std::span<const std::uint8_t> bytes(std::size_t most) {
    const auto some = rest_.first(std::min(most, rest_.size()));
    rest_ = rest_.subspan(some.size());
    return some;
  }

 private:
  std::span<const std::uint8_t> rest_;
};

template <typename T>
void put(Bytes& bytes, const T& value) {
  const auto* at = reinterpret_cast<const std::uint8_t*>(&value);
  bytes.insert(bytes.end(), at, at + sizeof value);
}

}  // namespace godwit::fuzz
