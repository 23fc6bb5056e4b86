#include "vmm/cpuid.h"

#include <gtest/gtest.h>

#include <cstring>

#include "vmm/clock.h"
#include "vmm/requirements.h"

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

const kvm_cpuid_entry2& get(const CpuidEntries& entries, std::uint32_t function,
                            std::uint32_t index = 0) {
  for (const auto& entry : entries) {
    if (entry.function == function && entry.index == index) return entry;
  }
  throw std::out_of_range("no such leaf");
}

/// A host that has everything.
CpuidEntries host() {
  constexpr std::uint32_t kAll = UINT32_MAX;
  return {leaf(0, 0, 7, 0x68747541, 0x444d4163, 0x69746e65),  // AuthenticAMD
          leaf(1, 0, 0, kAll, kAll, kAll),
          leaf(7, 0, 0, kAll, kAll, kAll),
          leaf(0xa, 0, kAll, kAll, kAll, kAll),
          leaf(0xd, 0, 7, 0x340, 0x340, 0),
          leaf(0xd, 2, 0x100, 0x240, 0, 0),
          leaf(0x1f, 0, kAll, kAll, kAll, kAll),
          leaf(0x4000'0001, 0, kAll, 0, 0, 0),
          leaf(0x8000'0001, 0, 0, 0, kAll, kAll),
          leaf(0x8000'0007, 0, 0, 0, 0, kAll),
          leaf(0x8000'0008, 0, 48, 0, 0, 0)};
}

TEST(Cpuid, HidesWhatCannotMove) {
  const CpuidEntries guest = guest_cpuid(host(), true, 0, 1);
  EXPECT_EQ(get(guest, 1).ecx & 1u << 5, 0u);            // VMX
  EXPECT_EQ(get(guest, 0x8000'0001).ecx & 1u << 2, 0u);  // SVM
  EXPECT_EQ(get(guest, 0x8000'0007).edx & 1u << 8, 0u);  // invariant TSC
  EXPECT_EQ(get(guest, 0x4000'0001).eax & 1u << 4, 0u);  // asynchronous page faults
  EXPECT_EQ(get(guest, 0xa).eax, 0u);                    // performance counters
  EXPECT_NE(get(guest, 1).ecx & 1u << 31, 0u);           // hypervisor
  EXPECT_NE(get(guest, 1).ecx & 1u << 24, 0u);           // TSC deadline
  EXPECT_EQ(get(guest_cpuid(host(), false, 0, 1), 1).ecx & 1u << 24, 0u);
}

TEST(Cpuid, TellsEveryVcpuWhoItIs) {
  for (const unsigned cpus : {1u, 2u, 3u, 16u}) {
    for (unsigned i = 0; i < cpus; ++i) {
      const CpuidEntries guest = guest_cpuid(host(), true, i, cpus);
      EXPECT_EQ(get(guest, 1).ebx >> 24, i);
      EXPECT_EQ(get(guest, 0xb, 0).edx, i);
      EXPECT_EQ(get(guest, 0xb, 1).ebx, cpus);
      EXPECT_GE(1u << get(guest, 0xb, 1).eax, cpus);
      EXPECT_EQ((get(guest, 1).edx >> 28 & 1) != 0, cpus > 1);
      EXPECT_THROW(get(guest, 0x1f), std::out_of_range);
    }
  }
}

TEST(Cpuid, NamesMissingFeatures) {
  const CpuidEntries guest = guest_cpuid(host(), true, 0, 1);
  EXPECT_TRUE(missing_features(guest, guest).empty());
  CpuidEntries weaker = host();
  for (auto& entry : weaker) {
    if (entry.function == 7) entry.ebx &= ~(1u << 5 | 1u << 16);
  }
  EXPECT_EQ(missing_features(guest, guest_cpuid(weaker, true, 0, 1)),
            (std::vector<std::string>{"avx2 (7.0.ebx[5])", "avx512f (7.0.ebx[16])"}));
  // The other way round nothing is missing: a guest may move to a stronger host.
  EXPECT_TRUE(missing_features(guest_cpuid(weaker, true, 0, 1), guest).empty());
  CpuidEntries intel = host();
  std::memcpy(&intel[0].ebx, "Genu", 4);
  std::memcpy(&intel[0].edx, "ineI", 4);
  std::memcpy(&intel[0].ecx, "ntel", 4);
  EXPECT_EQ(missing_features(guest, guest_cpuid(intel, true, 0, 1)),
            (std::vector<std::string>{"a CPU of AuthenticAMD (here: GenuineIntel)"}));
  CpuidEntries other_layout = host();
  for (auto& entry : other_layout) {
    if (entry.function == 0xd && entry.index == 2) entry.ebx = 0x300;
  }
  EXPECT_EQ(missing_features(guest, guest_cpuid(other_layout, true, 0, 1)).size(), 1u);
}

TEST(Requirements, SurviveTheWay) {
  Requirements needed;
  needed.cpus = 2;
  needed.tsc_khz = 2'000'000;
  needed.cpuid = guest_cpuid(host(), true, 0, 2);
  const Requirements got = requirements_from_json(to_json(needed));
  EXPECT_EQ(got.cpus, 2u);
  EXPECT_EQ(got.tsc_khz, 2'000'000u);
  EXPECT_EQ(refusal_of(got, needed.cpuid, {.khz = 2'000'000}), "");
  EXPECT_EQ(
      refusal_of(got, needed.cpuid, {.khz = 2'600'000}),
      "this host lacks what the guest uses: a TSC of 2000000 kHz (here: 2600000 kHz, and no TSC "
      "scaling)");
  EXPECT_EQ(refusal_of(got, needed.cpuid, {.khz = 2'600'000, .scales = true}), "");
}

TEST(Requirements, RefuseEverythingElse) {
  for (const char* text :
       {"", "{", "[]", "null", "{}", R"({"version":2,"cpus":1,"tsc_khz":0,"cpuid":[]})",
        R"({"version":1,"cpus":0,"tsc_khz":0,"cpuid":[]})",
        R"({"version":1,"cpus":99,"tsc_khz":0,"cpuid":[]})",
        R"({"version":1,"cpus":1,"tsc_khz":-1,"cpuid":[]})",
        R"({"version":1,"cpus":1,"tsc_khz":0})", R"({"version":1,"cpus":1,"tsc_khz":0,"cpuid":{}})",
        R"({"version":1,"cpus":1,"tsc_khz":0,"cpuid":[[1,2,3,4,5,6,99999999999]]})",
        R"({"version":1,"cpus":1,"tsc_khz":0,"cpuid":[[1,2,3,4,5,6,"7"]]})"}) {
    EXPECT_THROW(requirements_from_json(text), std::runtime_error) << text;
  }
}

TEST(Clock, GoesOnByTheTimeThatPassedIfThatIsSane) {
  constexpr std::uint64_t kSecond = 1'000'000'000;
  constexpr std::uint64_t kLongest = 60 * kSecond;
  EXPECT_EQ(elapsed_ns(100, 350, kLongest), 250u);
  EXPECT_EQ(elapsed_ns(350, 100, kLongest), 0u);  // the other host's clock is behind
  EXPECT_EQ(elapsed_ns(0, 60 * kSecond, kLongest), 60 * kSecond);
  EXPECT_EQ(elapsed_ns(0, 61 * kSecond, kLongest), 0u);  // no move takes that long
  EXPECT_EQ(elapsed_ns(UINT64_MAX, 0, kLongest), 0u);
}

TEST(Clock, AcceptsTscRatesThatOnlyDifferByNoise) {
  EXPECT_TRUE(tsc_rate_fits(2'000'000, {.khz = 2'000'900}));
  EXPECT_FALSE(tsc_rate_fits(2'000'000, {.khz = 2'003'000}));
  EXPECT_FALSE(tsc_rate_fits(2'003'000, {.khz = 2'000'000}));
  EXPECT_TRUE(tsc_rate_fits(2'400'000, {.khz = 2'000'000, .scales = true}));
  EXPECT_TRUE(tsc_rate_fits(2'000'000, {.khz = 2'060'000, .steady = false}));
  EXPECT_FALSE(tsc_rate_fits(2'000'000, {.khz = 2'400'000, .steady = false}));
  EXPECT_TRUE(tsc_rate_fits(0, {.khz = 2'000'000}));
}

}  // namespace
}  // namespace godwit::vmm
