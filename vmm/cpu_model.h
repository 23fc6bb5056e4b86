// CPU models: "host", and the levels of the x86-64 psABI (version 1.0, table 3.1) as baselines for
// clusters of different machines. Pure. Any thread.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "vmm/cpuid.h"

namespace godwit::vmm {

inline constexpr std::string_view kCpuModels = "host, x86-64-v2, x86-64-v3, x86-64-v4";
bool is_cpu_model(std::string_view model);

/// Masks a guest's leaves down to `model`: the instructions of that level and none beyond it, what
/// every operating system needs, and the controls against speculative execution, which this host
/// has or has not. "host" changes nothing.
void apply_cpu_model(std::string_view model, CpuidEntries& entries);

/// The instructions of `model` that `entries` lack, each named as by missing_features().
std::vector<std::string> lacking_of_model(std::string_view model, const CpuidEntries& entries);

/// Throws std::runtime_error where `model` is none or a host that has `supported` cannot give it to
/// a guest: one line that names all it lacks.
void require_cpu_model(const std::string& model, const CpuidEntries& supported);

}  // namespace godwit::vmm
