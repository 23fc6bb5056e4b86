#include "vmm/devices/virtio/queue.h"

#include <gtest/gtest.h>

#include "tests/vmm/devices/virtio/driver.h"

namespace godwit::devices {
namespace {

using Pop = Virtqueue::Pop;

class VirtqueueTest : public testing::Test {
 protected:
  static constexpr std::uint16_t kSize = 8;
  static constexpr std::uint64_t kIndirectTable = 0x8000, kData = 0x10000;

  VirtqueueTest() {
    place();
    start(kFeatureIndirect | kFeatureEventIndex);
  }

  void place() {
    queue_.state().descriptors = ring_.descriptors();
    queue_.state().available = ring_.available();
    queue_.state().used = ring_.used();
    queue_.state().size = kSize;
    queue_.state().enabled = 1;
  }
  void start(std::uint64_t features) { queue_.start(features); }
  Pop offer_and_pop(std::uint16_t head) {
    ring_.offer(head);
    return queue_.pop(chain_);
  }
  std::uint64_t address_of(std::span<const std::byte> bytes) {
    return static_cast<std::uint64_t>(bytes.data() - memory_.page_bytes({0, 1}).data());
  }

  memory::GuestMemory memory_{1 << 20};
  DriverRing ring_{memory_, 0x1000, kSize};
  Virtqueue queue_{memory_, kSize};
  Chain chain_;
};

TEST_F(VirtqueueTest, GivesChainsInOrderWithTheirBuffers) {
  ring_.set_chain(0, {{kData, 16}, {kData + 16, 32}, {kData + 4096, 64, true}});
  ring_.set_chain(5, {{kData + 8192, 1, true}});
  ring_.offer(5);
  ring_.offer(0);
  ASSERT_EQ(queue_.pop(chain_), Pop::kChain);
  EXPECT_EQ(chain_.head, 5);
  EXPECT_TRUE(chain_.readable.empty());
  ASSERT_EQ(chain_.writable.size(), 1u);
  ASSERT_EQ(queue_.pop(chain_), Pop::kChain);
  EXPECT_EQ(chain_.head, 0);
  ASSERT_EQ(chain_.readable.size(), 2u);
  EXPECT_EQ(address_of(chain_.readable[1]), kData + 16);
  EXPECT_EQ(chain_.readable[1].size(), 32u);
  ASSERT_EQ(chain_.writable.size(), 1u);
  EXPECT_EQ(address_of(chain_.writable[0].bytes()), kData + 4096);
  EXPECT_EQ(queue_.pop(chain_), Pop::kEmpty);
}

TEST_F(VirtqueueTest, FollowsIndirectTables) {
  ring_.set_descriptor_at(kIndirectTable, kData, 16, kDescNext, 2);
  ring_.set_descriptor_at(kIndirectTable + 16, ~0ULL, ~0U, 0, 0);  // not part of the chain
  ring_.set_descriptor_at(kIndirectTable + 32, kData + 64, 8, kDescWrite, 0);
  ring_.set_descriptor(0, kData + 512, 4, kDescNext, 3);  // 2.7.5.3.2: direct ones may come first
  ring_.set_descriptor(3, kIndirectTable, 48, kDescIndirect, 0);
  ASSERT_EQ(offer_and_pop(0), Pop::kChain);
  ASSERT_EQ(chain_.readable.size(), 2u);
  EXPECT_EQ(address_of(chain_.readable[0]), kData + 512);
  EXPECT_EQ(address_of(chain_.readable[1]), kData);
  ASSERT_EQ(chain_.writable.size(), 1u);
  EXPECT_EQ(address_of(chain_.writable[0].bytes()), kData + 64);
}

TEST_F(VirtqueueTest, TakesAChainAsLongAsTheQueueAndNoLonger) {
  std::vector<Buffer> buffers(kSize, {kData, 4});
  ring_.set_chain(0, buffers);
  EXPECT_EQ(offer_and_pop(0), Pop::kChain);
  EXPECT_EQ(chain_.readable.size(), kSize);
  for (std::uint64_t i = 0; i <= kSize; ++i) {
    ring_.set_descriptor_at(kIndirectTable + 16 * i, kData, 4, i < kSize ? kDescNext : 0,
                            static_cast<std::uint16_t>(i + 1));
  }
  ring_.set_descriptor(0, kIndirectTable, 16 * (kSize + 1), kDescIndirect, 0);
  EXPECT_EQ(offer_and_pop(0), Pop::kBroken);
}

TEST_F(VirtqueueTest, EveryMalformedChainBreaksItForGood) {
  struct Case {
    const char* what;
    std::function<void()> lay_out;
  };
  const auto descriptor = [this](std::uint64_t address, std::uint32_t length, int flags, int next) {
    ring_.set_descriptor(0, address, length, static_cast<std::uint16_t>(flags),
                         static_cast<std::uint16_t>(next));
  };
  const auto table = [this](std::uint64_t address, std::uint32_t length, int flags, int next) {
    ring_.set_descriptor_at(kIndirectTable, address, length, static_cast<std::uint16_t>(flags),
                            static_cast<std::uint16_t>(next));
    ring_.set_descriptor(0, kIndirectTable, 16, kDescIndirect, 0);
  };
  const std::vector<Case> cases = {
      {"loop to itself", [&] { descriptor(kData, 4, kDescNext, 0); }},
      {"next outside", [&] { descriptor(kData, 4, kDescNext, kSize); }},
      {"buffer outside RAM", [&] { descriptor(1 << 20, 4, 0, 0); }},
      {"buffer across the end", [&] { descriptor((1 << 20) - 2, 4, kDescWrite, 0); }},
      {"buffer that wraps", [&] { descriptor(~0ULL - 1, 4, 0, 0); }},
      {"huge buffer", [&] { descriptor(0, ~0U, kDescWrite, 0); }},
      {"readable after writable",
       [&] {
         ring_.set_chain(0, {{kData, 4, true}, {kData, 4, false}});
       }},
      {"indirect and next", [&] { descriptor(kIndirectTable, 16, kDescIndirect | kDescNext, 1); }},
      {"empty table", [&] { descriptor(kIndirectTable, 0, kDescIndirect, 0); }},
      {"odd table", [&] { descriptor(kIndirectTable, 17, kDescIndirect, 0); }},
      {"table outside RAM", [&] { descriptor((1 << 20) - 8, 16, kDescIndirect, 0); }},
      {"table in a table", [&] { table(kIndirectTable, 16, kDescIndirect, 0); }},
      {"table with a loop", [&] { table(kData, 4, kDescNext, 0); }},
      {"table with next outside", [&] { table(kData, 4, kDescNext, 1); }},
      {"table with a buffer outside", [&] { table(1 << 20, 1, kDescWrite, 0); }},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.what);
    c.lay_out();
    EXPECT_EQ(offer_and_pop(0), Pop::kBroken);
    ring_.set_chain(0, {{kData, 4}});
    EXPECT_EQ(queue_.pop(chain_), Pop::kBroken);
    EXPECT_FALSE(queue_.push(0, 0));
    EXPECT_FALSE(queue_.wants_interrupt());
    EXPECT_FALSE(queue_.arm_doorbell());
    queue_.reset();
    place();
    start(kFeatureIndirect | kFeatureEventIndex);
    ring_.set_available_index(0);
  }
}

TEST_F(VirtqueueTest, AHeadOrAnIndexOutsideBreaksIt) {
  EXPECT_EQ(offer_and_pop(kSize), Pop::kBroken);
  start(0);
  ring_.set_chain(0, {{kData, 4}});
  for (std::uint64_t i = 0; i < kSize; ++i)
    memory_.store(ring_.available() + 4 + 2 * i, std::uint16_t{0});
  ring_.set_available_index(kSize);
  EXPECT_EQ(queue_.pop(chain_), Pop::kChain);
  ring_.set_available_index(kSize + 2);
  EXPECT_EQ(queue_.pop(chain_), Pop::kBroken);
}

TEST_F(VirtqueueTest, AnIndirectTableNeedsTheFeature) {
  start(0);
  ring_.set_descriptor_at(kIndirectTable, kData, 16, 0, 0);
  ring_.set_descriptor(0, kIndirectTable, 16, kDescIndirect, 0);
  EXPECT_EQ(offer_and_pop(0), Pop::kBroken);
}

TEST_F(VirtqueueTest, MisplacedAreasAreSeenBeforeUse) {
  const auto good = queue_.state();
  const auto with = [&](auto change) {
    queue_.state() = good;
    change(queue_.state());
    queue_.start(0);
    return queue_.pop(chain_) == Pop::kBroken && !queue_.placed_well();
  };
  EXPECT_TRUE(with([](auto& s) { s.descriptors += 8; }));
  EXPECT_TRUE(with([](auto& s) { s.available += 1; }));
  EXPECT_TRUE(with([](auto& s) { s.used += 2; }));
  EXPECT_TRUE(with([](auto& s) { s.descriptors = (1 << 20) - 16; }));
  EXPECT_TRUE(with([](auto& s) { s.available = (1 << 20) - 20; }));  // the event index is cut off
  EXPECT_TRUE(with([](auto& s) { s.used = ~0ULL - 3; }));
  EXPECT_TRUE(with([](auto& s) { s.size = 3; }));
  EXPECT_TRUE(with([](auto& s) { s.size = 16; }));
  EXPECT_TRUE(with([](auto& s) { s.size = 0; }));
  EXPECT_FALSE(with([](auto&) {}));
}

TEST_F(VirtqueueTest, IndicesWrapAround) {
  ring_.set_chain(3, {{kData, 4}});
  queue_.state().next_available = 0xfffe;
  queue_.state().next_used = 0xfffe;
  ring_.set_available_index(0xfffe);
  for (int i = 0; i < 5; ++i) {
    ASSERT_EQ(offer_and_pop(3), Pop::kChain) << i;
    ASSERT_TRUE(queue_.push(3, 7));
    const auto at = static_cast<std::uint16_t>(0xfffe + i);
    EXPECT_EQ(ring_.used_id(at), 3u);
    EXPECT_EQ(ring_.used_length(at), 7u);
    EXPECT_EQ(ring_.used_index(), static_cast<std::uint16_t>(at + 1));
  }
}

TEST_F(VirtqueueTest, EventIndexDecidesAboutInterrupts) {
  ring_.set_used_event(2);
  EXPECT_TRUE(queue_.push(0, 0));
  EXPECT_TRUE(queue_.wants_interrupt());  // the first is always told
  EXPECT_TRUE(queue_.push(0, 0));
  EXPECT_FALSE(queue_.wants_interrupt());
  EXPECT_TRUE(queue_.push(0, 0));
  EXPECT_TRUE(queue_.wants_interrupt());  // entry 2 was used
  EXPECT_FALSE(queue_.wants_interrupt());
  EXPECT_TRUE(queue_.push(0, 0));
  EXPECT_FALSE(queue_.wants_interrupt());
  ring_.set_used_event(5);
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(queue_.push(0, 0));
  EXPECT_TRUE(queue_.wants_interrupt());  // passed inside a batch
}

TEST_F(VirtqueueTest, WithoutEventIndexTheFlagDecides) {
  start(0);
  EXPECT_TRUE(queue_.push(0, 0));
  EXPECT_TRUE(queue_.wants_interrupt());
  ring_.set_available_flags(1);
  EXPECT_TRUE(queue_.push(0, 0));
  EXPECT_FALSE(queue_.wants_interrupt());
}

TEST_F(VirtqueueTest, ArmingTheDoorbellSeesWhatCameMeanwhile) {
  ring_.set_chain(0, {{kData, 4}});
  EXPECT_FALSE(queue_.arm_doorbell());
  EXPECT_EQ(ring_.available_event(), 0);
  EXPECT_EQ(offer_and_pop(0), Pop::kChain);
  EXPECT_FALSE(queue_.arm_doorbell());
  EXPECT_EQ(ring_.available_event(), 1);
  ring_.offer(0);
  EXPECT_TRUE(queue_.arm_doorbell());
}

TEST_F(VirtqueueTest, MarksDirtyWhatItWrites) {
  memory_.track_writes(true);
  ring_.set_chain(0, {{kData + 100, 10, true}});
  ring_.offer(0);
  memory::PageBitmap pages(memory_.pages());
  memory_.collect_writes(pages);
  pages.clear();
  ASSERT_EQ(queue_.pop(chain_), Pop::kChain);
  chain_.writable[0].bytes()[0] = std::byte{1};
  memory_.collect_writes(pages);
  EXPECT_EQ(pages.count(), 0u);  // not before the data landed
  chain_.writable.clear();
  memory_.collect_writes(pages);
  EXPECT_EQ(pages.ranges(), (std::vector<memory::PageRange>{{kData / 4096, 1}}));
  pages.clear();
  queue_.push(0, 10);
  memory_.collect_writes(pages);
  EXPECT_EQ(pages.ranges(), (std::vector<memory::PageRange>{{ring_.used() / 4096, 1}}));
}

}  // namespace
}  // namespace godwit::devices
