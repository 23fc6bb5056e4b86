// libibverbs, loaded by the first verb: what a process never uses, a guest that does not move by
// RDMA above all, it does not pay for (the library and its netlink libraries cost 0.6 MiB). These
// are the library's own functions, by their own names; it is not linked.
#include <dlfcn.h>
#include <fmt/format.h>

#include "migration/verbs.h"

namespace {

/// Throws RdmaError. Never unloaded: its drivers keep threads and forks in mind.
template <typename Function>
Function* verb(const char* name) {
  static void* const library = [] {
    void* const loaded = ::dlopen("libibverbs.so.1", RTLD_NOW | RTLD_LOCAL);
    if (loaded == nullptr) {
      throw godwit::migration::RdmaError(
          fmt::format("no RDMA without libibverbs: {}", ::dlerror()));
    }
    return loaded;
  }();
  void* const found = ::dlsym(library, name);
  if (found == nullptr) throw godwit::migration::RdmaError(::dlerror());
  return reinterpret_cast<Function*>(found);
}

}  // namespace

// Some are macros, too: hence the parentheses.
#define GODWIT_VERB(result, name, parameters, ...)                \
  extern "C" result(name) parameters {                            \
    static auto* const function = verb<result parameters>(#name); \
    return function(__VA_ARGS__);                                 \
  }

GODWIT_VERB(ibv_device**, ibv_get_device_list, (int* count), count)
GODWIT_VERB(void, ibv_free_device_list, (ibv_device * *list), list)
GODWIT_VERB(const char*, ibv_get_device_name, (ibv_device * device), device)
GODWIT_VERB(ibv_context*, ibv_open_device, (ibv_device * device), device)
GODWIT_VERB(int, ibv_close_device, (ibv_context * context), context)
GODWIT_VERB(int, ibv_query_device, (ibv_context * context, ibv_device_attr* attributes), context,
            attributes)
GODWIT_VERB(int, ibv_query_port,
            (ibv_context * context, std::uint8_t port, _compat_ibv_port_attr* attributes), context,
            port, attributes)
GODWIT_VERB(int, _ibv_query_gid_ex,  // NOLINT(bugprone-reserved-identifier)
            (ibv_context* context, std::uint32_t port, std::uint32_t index, ibv_gid_entry* entry,
             std::uint32_t flags, std::size_t size),
            context, port, index, entry, flags, size)
GODWIT_VERB(ibv_pd*, ibv_alloc_pd, (ibv_context * context), context)
GODWIT_VERB(int, ibv_dealloc_pd, (ibv_pd * domain), domain)
GODWIT_VERB(ibv_mr*, ibv_reg_mr, (ibv_pd * domain, void* address, std::size_t length, int access),
            domain, address, length, access)
GODWIT_VERB(ibv_mr*, ibv_reg_mr_iova2,
            (ibv_pd * domain, void* address, std::size_t length, std::uint64_t iova,
             unsigned access),
            domain, address, length, iova, access)
GODWIT_VERB(int, ibv_dereg_mr, (ibv_mr * region), region)
GODWIT_VERB(ibv_comp_channel*, ibv_create_comp_channel, (ibv_context * context), context)
GODWIT_VERB(int, ibv_destroy_comp_channel, (ibv_comp_channel * channel), channel)
GODWIT_VERB(ibv_cq*, ibv_create_cq,
            (ibv_context * context, int size, void* user, ibv_comp_channel* channel, int vector),
            context, size, user, channel, vector)
GODWIT_VERB(int, ibv_destroy_cq, (ibv_cq * queue), queue)
GODWIT_VERB(int, ibv_get_cq_event, (ibv_comp_channel * channel, ibv_cq** queue, void** user),
            channel, queue, user)
GODWIT_VERB(void, ibv_ack_cq_events, (ibv_cq * queue, unsigned count), queue, count)
GODWIT_VERB(ibv_qp*, ibv_create_qp, (ibv_pd * domain, ibv_qp_init_attr* attributes), domain,
            attributes)
GODWIT_VERB(int, ibv_modify_qp, (ibv_qp * pair, ibv_qp_attr* attributes, int mask), pair,
            attributes, mask)
GODWIT_VERB(int, ibv_destroy_qp, (ibv_qp * pair), pair)
GODWIT_VERB(const char*, ibv_wc_status_str, (ibv_wc_status status), status)
