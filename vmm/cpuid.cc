#include "vmm/cpuid.h"

#include <fmt/core.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "vmm/cpu_features.h"
#include "vmm/cpu_model.h"

namespace godwit::vmm {
namespace {

constexpr std::uint32_t bit(unsigned n) { return 1u << n; }

const kvm_cpuid_entry2* find(const CpuidEntries& entries, std::uint32_t leaf,
                             std::uint32_t subleaf) {
  for (const auto& entry : entries) {
    if (entry.function == leaf && entry.index == subleaf) return &entry;
  }
  return nullptr;
}

std::uint32_t value_of(const kvm_cpuid_entry2& entry, CpuidRegister reg) {
  switch (reg) {
    case CpuidRegister::kEax:
      return entry.eax;
    case CpuidRegister::kEbx:
      return entry.ebx;
    case CpuidRegister::kEcx:
      return entry.ecx;
    case CpuidRegister::kEdx:
      return entry.edx;
  }
  return 0;
}

std::uint32_t value_of(const CpuidEntries& entries, std::uint32_t leaf, std::uint32_t subleaf,
                       CpuidRegister reg) {
  const auto* entry = find(entries, leaf, subleaf);
  return entry == nullptr ? 0 : value_of(*entry, reg);
}

void clear_leaf(kvm_cpuid_entry2& entry) { entry.eax = entry.ebx = entry.ecx = entry.edx = 0; }

/// Replaces bits [low, low + width) of `value`.
void set_field(std::uint32_t& value, unsigned low, unsigned width, std::uint32_t field) {
  const std::uint32_t mask = ((width == 32 ? 0 : bit(width)) - 1u) << low;
  value = (value & ~mask) | ((field << low) & mask);
}

void set_basic(kvm_cpuid_entry2& entry, bool tsc_deadline, unsigned index, unsigned cpus) {
  set_field(entry.ebx, 24, 8, index);
  set_field(entry.ebx, 16, 8, cpus);
  entry.ecx &= ~(bit(5) | bit(3) | bit(15));  // VMX, MONITOR, PDCM (performance counters)
  entry.ecx |= bit(31);                       // hypervisor
  set_field(entry.ecx, 24, 1, tsc_deadline ? 1 : 0);
  entry.edx &= ~bit(21);  // debug store
  set_field(entry.edx, 28, 1, cpus > 1 ? 1 : 0);
}

/// Intel leaf 4, AMD 0x8000001D: level 3 is shared by all, what is below by none.
void set_cache(kvm_cpuid_entry2& entry, unsigned cpus) {
  if ((entry.eax & 0x1f) == 0) return;
  const unsigned level = (entry.eax >> 5) & 7;
  const unsigned sharing = std::bit_ceil(cpus) - 1;
  set_field(entry.eax, 14, 12, level >= 3 ? sharing : 0);
  if (entry.function == 4) set_field(entry.eax, 26, 6, sharing);
}

/// Leaves whose meaning is a whole, not single features.
void adjust(kvm_cpuid_entry2& entry, bool tsc_deadline, unsigned index, unsigned cpus) {
  switch (entry.function) {
    case 0:
      entry.eax = std::max(entry.eax, 0xbu);  // the topology leaf is there in any case
      break;
    case 1:
      set_basic(entry, tsc_deadline, index, cpus);
      break;
    case 4:
    case 0x8000'001d:
      set_cache(entry, cpus);
      break;
    case 5:            // MONITOR
    case 0xa:          // performance counters
    case 0x8000'000a:  // SVM
    case 0x8000'001b:  // instruction based sampling
    case 0x8000'0022:  // performance counters
      clear_leaf(entry);
      break;
    case 7:
      // Control-flow enforcement keeps supervisor state whose save area differs between kernels.
      if (entry.index == 0) {
        entry.ecx &= ~bit(7);   // SHSTK
        entry.edx &= ~bit(20);  // IBT
      }
      break;
    case 0x4000'0001:
      // Asynchronous page faults in flight cannot move; neither can KVM's own migration protocol.
      entry.eax &= ~(bit(4) | bit(10) | bit(14) | bit(17));
      break;
    case 0x8000'0001:
      entry.ecx &= ~(bit(2) | bit(10) | bit(12) | bit(23) | bit(24) | bit(28));
      break;
    case 0x8000'0007:
      entry.edx &= ~bit(8);  // invariant TSC: kvmclock shall be the clock, it survives a move
      break;
    case 0x8000'0008:
      set_field(entry.ecx, 0, 8, cpus - 1);
      set_field(entry.ecx, 12, 4, static_cast<std::uint32_t>(std::bit_width(cpus - 1)));
      break;
    case 0x8000'001e:
      entry.eax = index;
      set_field(entry.ebx, 0, 16, index);
      entry.ecx = 0;
      break;
    default:
      break;
  }
}

kvm_cpuid_entry2 make_leaf(std::uint32_t leaf, std::uint32_t subleaf, std::uint32_t eax,
                           std::uint32_t ebx, std::uint32_t ecx, std::uint32_t edx) {
  kvm_cpuid_entry2 entry = {};
  entry.function = leaf;
  entry.index = subleaf;
  entry.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
  entry.eax = eax;
  entry.ebx = ebx;
  entry.ecx = ecx;
  entry.edx = edx;
  return entry;
}

bool is_topology(const kvm_cpuid_entry2& entry) {
  return entry.function == 0xb || entry.function == 0x1f || entry.function == 0x8000'0026;
}

/// "AuthenticAMD": leaf 0 keeps it in EBX, EDX, ECX.
std::string vendor_of(const CpuidEntries& entries) {
  const auto* entry = find(entries, 0, 0);
  if (entry == nullptr) return "unknown";
  std::string vendor(12, ' ');
  std::memcpy(vendor.data(), &entry->ebx, 4);
  std::memcpy(vendor.data() + 4, &entry->edx, 4);
  std::memcpy(vendor.data() + 8, &entry->ecx, 4);
  for (char& c : vendor) {
    if (c < ' ' || c > '~') c = '?';
  }
  return vendor;
}

std::string feature_name(const FeatureWord& word, unsigned n) {
  static constexpr std::string_view kRegisters[] = {"eax", "ebx", "ecx", "edx"};
  const std::string where = fmt::format("{:x}.{}.{}[{}]", word.leaf, word.subleaf,
                                        kRegisters[static_cast<unsigned>(word.reg)], n);
  return word.names[n].empty() ? where : fmt::format("{} ({})", word.names[n], where);
}

/// What the guest relies on besides feature bits.
void compare_shape(const CpuidEntries& needed, const CpuidEntries& offered,
                   std::vector<std::string>& missing) {
  if (vendor_of(needed) != vendor_of(offered)) {
    missing.push_back(fmt::format("a CPU of {} (here: {})", vendor_of(needed), vendor_of(offered)));
  }
  const auto address_bits = [](const CpuidEntries& entries) {
    return value_of(entries, 0x8000'0008, 0, CpuidRegister::kEax) & 0xff;
  };
  if (address_bits(needed) > address_bits(offered)) {
    missing.push_back(fmt::format("{} bits of physical address (here: {})", address_bits(needed),
                                  address_bits(offered)));
  }
  // XSAVE's layout: where each component that the guest may use lies.
  const auto components = value_of(needed, 0xd, 0, CpuidRegister::kEax);
  for (std::uint32_t i = 2; i < 32; ++i) {
    if ((components & bit(i)) == 0) continue;
    for (const auto reg : {CpuidRegister::kEax, CpuidRegister::kEbx}) {
      if (value_of(needed, 0xd, i, reg) == value_of(offered, 0xd, i, reg)) continue;
      missing.push_back(fmt::format("the same XSAVE layout (component {})", i));
      break;
    }
  }
}

}  // namespace

CpuidEntries guest_cpuid(const CpuidEntries& supported, bool tsc_deadline, unsigned index,
                         unsigned cpus, std::string_view model) {
  CpuidEntries entries;
  for (kvm_cpuid_entry2 entry : supported) {
    if (is_topology(entry)) continue;
    adjust(entry, tsc_deadline, index, cpus);
    entries.push_back(entry);
  }
  apply_cpu_model(model, entries);
  // Extended topology (Intel SDM 2A, leaf 0BH): one thread a core, all cores in one package.
  const auto core_bits = static_cast<std::uint32_t>(std::bit_width(cpus - 1));
  entries.push_back(make_leaf(0xb, 0, 0, 1, 1 << 8 | 0, index));
  entries.push_back(make_leaf(0xb, 1, core_bits, cpus, 2 << 8 | 1, index));
  entries.push_back(make_leaf(0xb, 2, 0, 0, 2, index));
  return entries;
}

CpuidEntries guest_cpuid(const kvm::Kvm& kvm, unsigned index, unsigned cpus,
                         std::string_view model) {
  return guest_cpuid(kvm.supported_cpuid(), kvm.check_extension(KVM_CAP_TSC_DEADLINE_TIMER) != 0,
                     index, cpus, model);
}

std::vector<std::string> missing_features(const CpuidEntries& needed, const CpuidEntries& offered) {
  std::vector<std::string> missing;
  compare_shape(needed, offered, missing);
  for (std::string& name : missing_bits(needed, offered)) missing.push_back(std::move(name));
  return missing;
}

std::vector<std::string> missing_bits(const CpuidEntries& needed, const CpuidEntries& offered) {
  std::vector<std::string> missing;
  for (const FeatureWord& word : feature_words()) {
    std::uint32_t lacking = 0;
    for (const kvm_cpuid_entry2& entry : needed) {
      if (entry.function != word.leaf || entry.index != word.subleaf) continue;
      lacking |= value_of(entry, word.reg);
    }
    lacking &= ~value_of(offered, word.leaf, word.subleaf, word.reg);
    for (unsigned n = 0; n < 32; ++n) {
      if ((lacking & bit(n)) != 0) missing.push_back(feature_name(word, n));
    }
  }
  return missing;
}

std::string cpuid_to_json(const CpuidEntries& entries) {
  auto list = nlohmann::json::array();
  for (const auto& entry : entries) {
    list.push_back(
        {entry.function, entry.index, entry.flags, entry.eax, entry.ebx, entry.ecx, entry.edx});
  }
  return list.dump();
}

CpuidEntries cpuid_from_json(const std::string& text) {
  constexpr std::size_t kMaxLeaves = 4096;
  const auto list = nlohmann::json::parse(text, nullptr, false);
  if (!list.is_array() || list.size() > kMaxLeaves) {
    throw std::runtime_error("the list of CPU features is malformed");
  }
  CpuidEntries entries;
  for (const auto& item : list) {
    if (!item.is_array() || item.size() != 7 ||
        !std::all_of(item.begin(), item.end(), [](const auto& v) {
          return v.is_number_unsigned() && v.template get<std::uint64_t>() <= UINT32_MAX;
        })) {
      throw std::runtime_error("the list of CPU features is malformed");
    }
    kvm_cpuid_entry2 entry = make_leaf(item[0], item[1], item[3], item[4], item[5], item[6]);
    entry.flags = item[2];
    entries.push_back(entry);
  }
  return entries;
}

}  // namespace godwit::vmm
