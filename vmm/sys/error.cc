#include "vmm/sys/error.h"

#include <cerrno>

namespace godwit::sys {

void throw_errno(const std::string& what) { throw_errno(what, errno); }

void throw_errno(const std::string& what, int error_number) {
  throw std::system_error(error_number, std::generic_category(), what);
}

}  // namespace godwit::sys
