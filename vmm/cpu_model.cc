#include "vmm/cpu_model.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <optional>
#include <stdexcept>

#include "vmm/cpu_features.h"

namespace godwit::vmm {
namespace {

template <typename... Numbers>
constexpr std::uint32_t bits(Numbers... numbers) {
  return (0u | ... | (1u << numbers));
}

/// One register of one leaf: the bits that each level, 2 to 4, adds to those below, and what a
/// guest of any level may have beside them.
struct Baseline {
  std::uint32_t leaf;
  CpuidRegister reg;
  std::array<std::uint32_t, 3> adds;
  std::uint32_t optional;
};

constexpr std::array<Baseline, 6> kBaselines = {{
    // SSE3 SSSE3 CX16 SSE4.1 SSE4.2 POPCNT; FMA MOVBE XSAVE AVX F16C | x2APIC TSC deadline
    // hypervisor
    {1,
     CpuidRegister::kEcx,
     {bits(0, 9, 13, 19, 20, 23), bits(12, 22, 26, 28, 29), 0},
     bits(21, 24, 31) | bits(27)},
    // FPU CX8 CMOV MMX FXSR SSE SSE2 | what every x86-64 CPU has besides
    {1,
     CpuidRegister::kEdx,
     {bits(0, 8, 15, 23, 24, 25, 26), 0, 0},
     bits(1, 2, 3, 4, 5, 6, 7, 9, 11, 12, 13, 14, 16, 17, 19, 28)},
    // BMI1 AVX2 BMI2; AVX512 F DQ CD BW VL. Every CPU with AVX2 has FSGSBASE and SMEP, every one
    // with AVX-512 SMAP, but a hypervisor below may hide them: optional.
    {7, CpuidRegister::kEbx, {0, bits(3, 5, 8), bits(16, 17, 28, 30, 31)}, bits(0, 7, 20)},
    // | MD_CLEAR, SPEC_CTRL, STIBP, FLUSH_L1D, SSBD
    {7, CpuidRegister::kEdx, {0, 0, 0}, bits(10, 26, 27, 28, 31)},
    // LAHF; LZCNT | the AMD topology
    {0x8000'0001, CpuidRegister::kEcx, {bits(0), bits(5), 0}, bits(1, 4, 22)},
    // SYSCALL, long mode | NX, and what AMD repeats of leaf 1
    {0x8000'0001,
     CpuidRegister::kEdx,
     {bits(11, 29), 0, 0},
     bits(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 14, 15, 16, 17, 20, 23, 24)},
}};
constexpr std::uint32_t kAmdSpeculation = bits(12, 14, 15, 24, 25);  // IBPB IBRS STIBP SSBD

/// 2 to 4, or nothing for "host".
std::optional<unsigned> level_of(std::string_view model) {
  if (model == "x86-64-v2") return 2;
  if (model == "x86-64-v3") return 3;
  if (model == "x86-64-v4") return 4;
  return std::nullopt;
}

std::uint32_t needed_bits(const Baseline& baseline, unsigned level) {
  std::uint32_t needed = 0;
  for (unsigned i = 2; i <= level; ++i) needed |= baseline.adds[i - 2];
  return needed;
}

std::uint32_t& register_of(kvm_cpuid_entry2& entry, CpuidRegister reg) {
  switch (reg) {
    case CpuidRegister::kEax:
      return entry.eax;
    case CpuidRegister::kEbx:
      return entry.ebx;
    case CpuidRegister::kEcx:
      return entry.ecx;
    case CpuidRegister::kEdx:
      break;
  }
  return entry.edx;
}

void clear(kvm_cpuid_entry2& entry) { entry.eax = entry.ebx = entry.ecx = entry.edx = 0; }

/// XSAVE's components (x87, SSE, AVX, the three of AVX-512) and the size of their area.
void mask_xsave(CpuidEntries& entries, unsigned level) {
  const std::uint32_t components = level < 3 ? 0 : level == 3 ? 0x07 : 0xe7;
  std::uint32_t size = level < 3 ? 0 : 576;  // the legacy region and the header
  std::uint32_t present = 0;
  for (const kvm_cpuid_entry2& entry : entries) {
    if (entry.function == 0xd && entry.index == 0) present = entry.eax & components;
  }
  for (kvm_cpuid_entry2& entry : entries) {
    if (entry.function != 0xd || entry.index < 2) continue;
    if (entry.index >= 32 || (present & 1u << entry.index) == 0) {
      clear(entry);
    } else {
      size = std::max(size, entry.ebx + entry.eax);
    }
  }
  for (kvm_cpuid_entry2& entry : entries) {
    if (entry.function != 0xd || entry.index > 1) continue;
    if (entry.index == 0) {
      entry.eax = present;
      entry.ebx = entry.ecx = size;
      entry.edx = 0;
    } else {
      entry.eax &= level < 3    ? 0
                   : level == 3 ? bits(0)
                                : bits(0, 1, 2);  // XSAVEOPT; XSAVEC XGETBV1
      entry.ebx = entry.ecx = entry.edx = 0;      // no supervisor states
    }
  }
}

void mask(kvm_cpuid_entry2& entry, unsigned level) {
  if (entry.function == 7 && entry.index != 0) return clear(entry);
  switch (entry.function) {
    case 6:
      entry.eax &= bits(2);  // ARAT: KVM's timer always runs
      break;
    case 7:
      entry.eax = entry.ecx = 0;
      break;
    case 0x12:  // SGX
    case 0x14:  // processor trace
    case 0x19:  // key locker
    case 0x1d:  // AMX
    case 0x1e:
    case 0x8000'0021:
      return clear(entry);
    case 0x8000'0008:
      entry.ebx &= kAmdSpeculation;
      break;
    default:
      break;
  }
  for (const Baseline& baseline : kBaselines) {
    if (baseline.leaf != entry.function) continue;
    register_of(entry, baseline.reg) &= needed_bits(baseline, level) | baseline.optional;
  }
}

}  // namespace

bool is_cpu_model(std::string_view model) { return model == "host" || level_of(model); }

void apply_cpu_model(std::string_view model, CpuidEntries& entries) {
  const auto level = level_of(model);
  if (!level) return;
  for (kvm_cpuid_entry2& entry : entries) mask(entry, *level);
  mask_xsave(entries, *level);
}

std::vector<std::string> lacking_of_model(std::string_view model, const CpuidEntries& entries) {
  const auto level = level_of(model);
  if (!level) return {};
  CpuidEntries wanted;
  for (const Baseline& baseline : kBaselines) {
    kvm_cpuid_entry2 entry = {};
    entry.function = baseline.leaf;
    register_of(entry, baseline.reg) = needed_bits(baseline, *level);
    wanted.push_back(entry);
  }
  return missing_bits(wanted, entries);
}

void require_cpu_model(const std::string& model, const CpuidEntries& supported) {
  if (!is_cpu_model(model)) {
    throw std::runtime_error(
        fmt::format("\"{}\" is no CPU model: there are {}", model, kCpuModels));
  }
  std::string list;
  for (const std::string& name : lacking_of_model(model, supported)) list += ", " + name;
  if (list.empty()) return;
  throw std::runtime_error(
      fmt::format("this host cannot give a guest the CPU {}: it lacks{}", model, list.substr(1)));
}

}  // namespace godwit::vmm
