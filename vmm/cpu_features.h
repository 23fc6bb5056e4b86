// Names of CPUID feature bits, as Linux spells them in /proc/cpuinfo (Intel SDM 2A, CPUID; AMD APM
// 3, appendix E; Documentation/virt/kvm/x86/cpuid.rst).
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

namespace godwit::vmm {

enum class CpuidRegister { kEax, kEbx, kEcx, kEdx };

/// One register of one leaf in which every bit is a feature of its own.
struct FeatureWord {
  std::uint32_t leaf;
  std::uint32_t subleaf;
  CpuidRegister reg;
  std::array<std::string_view, 32> names;  // empty where there is none we know
};

std::span<const FeatureWord> feature_words();

}  // namespace godwit::vmm
