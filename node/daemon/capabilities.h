// What hosts can and guests need, words of their owners, as the balancer's bits. Only words of this
// node's configuration and of its own guests have one: what others say adds nothing. Guarded by the
// node's lock.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace godwit::node {

class Capabilities {
 public:
  static constexpr std::size_t kMost = 64;

  /// Gives each word a bit. False, and nothing is changed, when there are not enough bits.
  bool add(const std::vector<std::string>& words);
  /// Has every one of them a bit?
  bool knows(const std::vector<std::string>& words) const;
  /// Of those that have one.
  std::uint64_t bits(const std::vector<std::string>& words) const;

 private:
  std::map<std::string, unsigned> bits_;
};

}  // namespace godwit::node
