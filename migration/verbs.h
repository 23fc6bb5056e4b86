// Verbs objects as owners: constructed means usable, destroyed in the order that verbs demands. One
// thread at a time, but for registrations, which any thread may make. Failures throw RdmaError with
// the verb's name.
#pragma once

#include <infiniband/verbs.h>

#include <cerrno>
#include <cstdint>
#include <memory>
#include <stdexcept>

namespace godwit::migration {

class RdmaError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

template <typename T, int (*Destroy)(T*)>
struct VerbsDeleter {
  void operator()(T* object) const { Destroy(object); }
};
using VerbsContext = std::unique_ptr<ibv_context, VerbsDeleter<ibv_context, ibv_close_device>>;
using VerbsDomain = std::unique_ptr<ibv_pd, VerbsDeleter<ibv_pd, ibv_dealloc_pd>>;
using VerbsEvents =
    std::unique_ptr<ibv_comp_channel, VerbsDeleter<ibv_comp_channel, ibv_destroy_comp_channel>>;
using VerbsQueue = std::unique_ptr<ibv_cq, VerbsDeleter<ibv_cq, ibv_destroy_cq>>;
using VerbsPair = std::unique_ptr<ibv_qp, VerbsDeleter<ibv_qp, ibv_destroy_qp>>;
using MemoryRegion = std::unique_ptr<ibv_mr, VerbsDeleter<ibv_mr, ibv_dereg_mr>>;

[[noreturn]] void fail_verb(const char* verb, int error_number = errno);

/// `object`, or a throw where the verb that made it returned null.
template <typename T>
T* usable(T* object, const char* verb) {
  if (object == nullptr) fail_verb(verb);
  return object;
}

/// What the first use of RDMA in a process would otherwise do, and be slow at.
void load_rdma_drivers() noexcept;

/// Throws RdmaError with the remedy when RLIMIT_MEMLOCK does not let this process pin `bytes`.
void require_memlock(std::uint64_t bytes);

/// What the peer may do with memory that is registered here.
enum class PeerMay { kNothing, kRead, kWrite };

}  // namespace godwit::migration
