// How soon the vCPUs of a machine get a CPU that others want, too. Owned by Machine.
#pragma once

#include <memory>
#include <stop_token>
#include <thread>
#include <vector>

#include "vmm/sys/urgency.h"
#include "vmm/vcpu.h"

namespace godwit::vmm {

class VcpuUrgency {
 public:
  /// `vcpus` outlives it.
  explicit VcpuUrgency(const std::vector<std::unique_ptr<Vcpu>>& vcpus) : vcpus_(vcpus) {}

  /// The highest lasts 50 ms; then it is a high one. One caller at a time.
  void set(sys::Urgency urgency) noexcept;

 private:
  void rush(const std::stop_token& stop) noexcept;
  void set_all(sys::Urgency urgency) noexcept;

  const std::vector<std::unique_ptr<Vcpu>>& vcpus_;
  std::jthread rush_;
};

}  // namespace godwit::vmm
