#include "vmm/requirements.h"

#include <fmt/core.h>

#include <nlohmann/json.hpp>
#include <stdexcept>

#include "vmm/boot/layout.h"

namespace godwit::vmm {
namespace {

constexpr int kVersion = 1;

struct NamedCap {
  int capability;
  const char* name;
};
constexpr NamedCap kNeeded[] = {
    {KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP"},
    {KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"},
    {KVM_CAP_SET_TSS_ADDR, "KVM_CAP_SET_TSS_ADDR"},
    {KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID"},
    {KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE"},
    {KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS"},
    {KVM_CAP_DEBUGREGS, "KVM_CAP_DEBUGREGS"},
    {KVM_CAP_XSAVE, "KVM_CAP_XSAVE"},
    {KVM_CAP_XCRS, "KVM_CAP_XCRS"},
    {KVM_CAP_IRQ_ROUTING, "KVM_CAP_IRQ_ROUTING"},
    {KVM_CAP_IRQFD, "KVM_CAP_IRQFD"},
    {KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD"},
    {KVM_CAP_ADJUST_CLOCK, "KVM_CAP_ADJUST_CLOCK"},
    {KVM_CAP_GET_TSC_KHZ, "KVM_CAP_GET_TSC_KHZ"},
    {KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"},
};

std::string join(const std::vector<std::string>& parts) {
  std::string text;
  for (const std::string& part : parts) {
    if (!text.empty()) text += ", ";
    text += part;
  }
  return text;
}

}  // namespace

std::string to_json(const Requirements& requirements) {
  return nlohmann::json{{"version", kVersion},
                        {"cpus", requirements.cpus},
                        {"tsc_khz", requirements.tsc_khz},
                        {"cpuid", nlohmann::json::parse(cpuid_to_json(requirements.cpuid))}}
      .dump();
}

Requirements requirements_from_json(const std::string& text) {
  const auto json = nlohmann::json::parse(text, nullptr, false);
  const auto number = [&](const char* key, std::uint64_t max) -> std::uint64_t {
    const auto item = json.find(key);
    if (item == json.end() || !item->is_number_unsigned() || item->get<std::uint64_t>() > max) {
      throw std::runtime_error(fmt::format("the guest's requirements are malformed ({})", key));
    }
    return item->get<std::uint64_t>();
  };
  if (!json.is_object()) throw std::runtime_error("the guest's requirements are malformed");
  if (number("version", UINT32_MAX) != kVersion) {
    throw std::runtime_error("the guest's requirements are of another version");
  }
  Requirements requirements;
  requirements.cpus = static_cast<unsigned>(number("cpus", boot::kMaxCpus));
  if (requirements.cpus == 0) {
    throw std::runtime_error("the guest's requirements are malformed (cpus)");
  }
  requirements.tsc_khz = static_cast<std::uint32_t>(number("tsc_khz", UINT32_MAX));
  const auto cpuid = json.find("cpuid");
  requirements.cpuid = cpuid_from_json(cpuid == json.end() ? "" : cpuid->dump());
  return requirements;
}

std::string refusal_of(const Requirements& needed, const CpuidEntries& offered,
                       const HostTsc& tsc) {
  std::vector<std::string> missing = missing_features(needed.cpuid, offered);
  if (!tsc_rate_fits(needed.tsc_khz, tsc)) {
    missing.push_back(
        fmt::format("a TSC of {} kHz (here: {} kHz, and no TSC scaling)", needed.tsc_khz, tsc.khz));
  }
  return missing.empty() ? "" : "this host lacks what the guest uses: " + join(missing);
}

void check_host(const kvm::Kvm& kvm) {
  std::vector<std::string> missing;
  for (const NamedCap& needed : kNeeded) {
    if (kvm.check_extension(needed.capability) == 0) missing.emplace_back(needed.name);
  }
  if (!missing.empty()) throw std::runtime_error("this host's KVM lacks " + join(missing));
}

}  // namespace godwit::vmm
