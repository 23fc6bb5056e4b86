// Files that another process appends to, without an end: a guest's console, what its process says.
#pragma once

#include <cstdint>
#include <string>

namespace godwit::node {

/// When `path` is above `most` bytes, what is in it goes to `path`.1, in place of what was there,
/// and `path` is empty. Whoever has it open (O_APPEND) goes on; what is written during the change
/// may be in neither. Nothing happens to what cannot be read or written.
void bound_file(const std::string& path, std::uintmax_t most);

}  // namespace godwit::node
