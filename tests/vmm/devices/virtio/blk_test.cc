#include "vmm/devices/virtio/blk.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "tests/vmm/devices/virtio/blk_fixture.h"

namespace godwit::devices {
namespace {

constexpr std::uint64_t kData = 4 << 20;

/// Every case with both engines.
class VirtioBlkTest : public testing::TestWithParam<IoEngine::Kind> {
 protected:
  ScratchFile file_{kImageSize};
  BlkMachine machine_{file_.path, false, GetParam()};
  BlkDriver driver_{machine_};
};

INSTANTIATE_TEST_SUITE_P(Engines, VirtioBlkTest,
                         testing::Values(IoEngine::Kind::kBest, IoEngine::Kind::kSynchronous),
                         [](const auto& param) {
                           return param.param == IoEngine::Kind::kBest ? "Best" : "Synchronous";
                         });

TEST_P(VirtioBlkTest, ShowsItsSizeAndLimits) {
  const auto config = machine_.registers.config;
  EXPECT_EQ(read_as<std::uint64_t>(machine_.device, config), kImageSectors);
  EXPECT_EQ(read_as<std::uint32_t>(machine_.device, config + 12), 254u);
  EXPECT_EQ(read_as<std::uint32_t>(machine_.device, config + 20), 512u);
}

TEST_P(VirtioBlkTest, WritesAndReadsBack) {
  ASSERT_EQ(driver_.bring_up(), 15);
  driver_.fill(kData, 4096, 'w');
  EXPECT_EQ(driver_.request(kBlkOut, 8, {{kData, 4096}}), kBlkOk);
  EXPECT_EQ(driver_.last_length, 1u);
  EXPECT_EQ(file_.read(4096, 4096), std::vector<char>(4096, 'w'));
  EXPECT_EQ(driver_.request(kBlkIn, 8, {{kData + 8192, 1024, true}, {kData + 16384, 3072, true}}),
            kBlkOk);
  EXPECT_EQ(driver_.last_length, 4097u);
  EXPECT_EQ(driver_.bytes(kData + 8192, 1024), std::vector<char>(1024, 'w'));
  EXPECT_EQ(driver_.bytes(kData + 16384, 3072), std::vector<char>(3072, 'w'));
  EXPECT_EQ(driver_.request(kBlkFlush, 0, {}), kBlkOk);
  EXPECT_GT(machine_.vectors.fired(0), 0);
}

}  // namespace
}  // namespace godwit::devices
