#include "node/daemon/capabilities.h"

#include <algorithm>

namespace godwit::node {

bool Capabilities::add(const std::vector<std::string>& words) {
  auto more = bits_;
  for (const std::string& word : words) more.emplace(word, static_cast<unsigned>(more.size()));
  if (more.size() > kMost) return false;
  bits_ = std::move(more);
  return true;
}

bool Capabilities::knows(const std::vector<std::string>& words) const {
  return std::all_of(words.begin(), words.end(),
                     [this](const std::string& word) { return bits_.contains(word); });
}

std::uint64_t Capabilities::bits(const std::vector<std::string>& words) const {
  std::uint64_t all = 0;
  for (const std::string& word : words) {
    if (const auto found = bits_.find(word); found != bits_.end()) {
      all |= std::uint64_t{1} << found->second;
    }
  }
  return all;
}

}  // namespace godwit::node
