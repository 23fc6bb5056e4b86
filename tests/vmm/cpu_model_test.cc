#include "vmm/cpu_model.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace godwit::vmm {
namespace {

kvm_cpuid_entry2 leaf(std::uint32_t function, std::uint32_t index, std::uint32_t eax,
                      std::uint32_t ebx, std::uint32_t ecx, std::uint32_t edx) {
  kvm_cpuid_entry2 entry = {};
  entry.function = function;
  entry.index = index;
  entry.eax = eax;
  entry.ebx = ebx;
  entry.ecx = ecx;
  entry.edx = edx;
  return entry;
}

/// A host that has everything.
CpuidEntries host() {
  constexpr std::uint32_t kAll = UINT32_MAX;
  return {leaf(1, 0, 0, kAll, kAll, kAll),      leaf(7, 0, 2, kAll, kAll, kAll),
          leaf(7, 1, kAll, 0, 0, kAll),         leaf(0xd, 0, 0x602e7, 0x340, 11008, 0),
          leaf(0xd, 1, 0x1f, 0x340, 0x1800, 0), leaf(0xd, 2, 256, 576, 0, 0),
          leaf(0xd, 5, 64, 1088, 0, 0),         leaf(0xd, 6, 512, 1152, 0, 0),
          leaf(0xd, 7, 1024, 1664, 0, 0),       leaf(0xd, 9, 8, 2688, 0, 0),
          leaf(0xd, 18, 8192, 2816, 0, 0),      leaf(0x8000'0001, 0, 0, 0, kAll, kAll),
          leaf(0x8000'0008, 0, 48, kAll, 0, 0)};
}

CpuidEntries host_as(std::string_view model) {
  CpuidEntries entries = host();
  apply_cpu_model(model, entries);
  return entries;
}

const kvm_cpuid_entry2& get(const CpuidEntries& entries, std::uint32_t function,
                            std::uint32_t index = 0) {
  for (const auto& entry : entries) {
    if (entry.function == function && entry.index == index) return entry;
  }
  throw std::out_of_range("no such leaf");
}

TEST(CpuModel, AreFour) {
  for (const char* model : {"host", "x86-64-v2", "x86-64-v3", "x86-64-v4"}) {
    EXPECT_TRUE(is_cpu_model(model)) << model;
  }
  for (const char* model : {"", "x86-64", "x86-64-v1", "x86-64-v5", "HOST"}) {
    EXPECT_FALSE(is_cpu_model(model)) << model;
  }
}

TEST(CpuModel, HostIsAllOfTheHost) {
  const CpuidEntries all = host();
  const CpuidEntries entries = host_as("host");
  for (std::size_t i = 0; i < all.size(); ++i) {
    EXPECT_EQ(entries[i].ebx, all[i].ebx);
    EXPECT_EQ(entries[i].ecx, all[i].ecx);
  }
}

TEST(CpuModel, EachLevelHasItsInstructionsAndNoneOfTheNext) {
  const CpuidEntries v2 = host_as("x86-64-v2");
  const CpuidEntries v3 = host_as("x86-64-v3");
  const CpuidEntries v4 = host_as("x86-64-v4");
  EXPECT_TRUE(lacking_of_model("x86-64-v2", v2).empty());
  EXPECT_TRUE(lacking_of_model("x86-64-v3", v3).empty());
  EXPECT_TRUE(lacking_of_model("x86-64-v4", v4).empty());
  EXPECT_EQ(lacking_of_model("x86-64-v4", v3),
            (std::vector<std::string>{"avx512f (7.0.ebx[16])", "avx512dq (7.0.ebx[17])",
                                      "avx512cd (7.0.ebx[28])", "avx512bw (7.0.ebx[30])",
                                      "avx512vl (7.0.ebx[31])"}));
  const auto v3_lacks = lacking_of_model("x86-64-v3", v2);
  EXPECT_EQ(v3_lacks.size(), 9u);
  EXPECT_NE(std::find(v3_lacks.begin(), v3_lacks.end(), "avx2 (7.0.ebx[5])"), v3_lacks.end());
  for (const CpuidEntries* entries : {&v2, &v3, &v4}) {
    EXPECT_EQ(get(*entries, 7).ecx, 0u);                       // AVX512-VBMI, VAES, ...
    EXPECT_EQ(get(*entries, 7, 1).eax, 0u);                    // AVX-VNNI, ...
    EXPECT_EQ(get(*entries, 7).ebx & 1u << 29, 0u);            // SHA
    EXPECT_EQ(get(*entries, 1).ecx & 1u << 25, 0u);            // AES
    EXPECT_EQ(get(*entries, 1).ecx & 1u << 30, 0u);            // RDRAND
    EXPECT_NE(get(*entries, 1).ecx & 1u << 31, 0u);            // hypervisor
    EXPECT_NE(get(*entries, 7).edx & 1u << 26, 0u);            // SPEC_CTRL
    EXPECT_EQ(get(*entries, 0x8000'0008).eax, 48u);            // address bits
    EXPECT_NE(get(*entries, 0x8000'0001).edx & 1u << 20, 0u);  // NX
  }
}

TEST(CpuModel, SavesNoMoreRegistersThanTheLevelHas) {
  const CpuidEntries v2 = host_as("x86-64-v2");
  EXPECT_EQ(get(v2, 1).ecx & 1u << 26, 0u);  // XSAVE
  EXPECT_EQ(get(v2, 0xd).eax, 0u);
  const CpuidEntries v3 = host_as("x86-64-v3");
  EXPECT_EQ(get(v3, 0xd).eax, 0x07u);
  EXPECT_EQ(get(v3, 0xd).ecx, 832u);
  EXPECT_EQ(get(v3, 0xd, 1).eax, 1u);
  EXPECT_EQ(get(v3, 0xd, 5).eax, 0u);
  const CpuidEntries v4 = host_as("x86-64-v4");
  EXPECT_EQ(get(v4, 0xd).eax, 0xe7u);
  EXPECT_EQ(get(v4, 0xd).ecx, 2688u);
  EXPECT_EQ(get(v4, 0xd, 7).eax, 1024u);
  EXPECT_EQ(get(v4, 0xd, 9).eax, 0u);   // protection keys
  EXPECT_EQ(get(v4, 0xd, 18).eax, 0u);  // AMX
}

TEST(CpuModel, AGuestOfALevelMovesToAnyHostThatHasIt) {
  CpuidEntries older = host();
  for (auto& entry : older) {
    if (entry.function == 7) entry.ecx = 0;
  }
  EXPECT_FALSE(missing_bits(host_as("host"), older).empty());
  EXPECT_TRUE(missing_bits(host_as("x86-64-v3"), older).empty());
}

}  // namespace
}  // namespace godwit::vmm
