#include "node/daemon/bounded_file.h"

#include <filesystem>

namespace godwit::node {

void bound_file(const std::string& path, std::uintmax_t most) {
  namespace fs = std::filesystem;
  std::error_code error;
  if (fs::file_size(path, error) <= most || error || !fs::is_regular_file(path, error)) return;
  if (fs::copy_file(path, path + ".1", fs::copy_options::overwrite_existing, error)) {
    fs::resize_file(path, 0, error);
  }
}

}  // namespace godwit::node
