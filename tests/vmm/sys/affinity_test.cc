#include "vmm/sys/affinity.h"

#include <gtest/gtest.h>

#include "tests/vmm/sys/on_one_cpu.h"

namespace godwit::sys {
namespace {

TEST(Affinity, CountsTheCpusThatTheThreadMayRunOnOnly) {
  const unsigned before = usable_cpus();
  {
    const OnOneCpu one;
    EXPECT_EQ(before, static_cast<unsigned>(one.before()));
    EXPECT_EQ(usable_cpus(), 1u);
  }
  EXPECT_EQ(usable_cpus(), before);
}

}  // namespace
}  // namespace godwit::sys
