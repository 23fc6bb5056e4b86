// The network card over a socket that stands in for a tap: packets both ways, mergeable buffers,
// control, what bad drivers do, and that a move loses no buffer and announces the guest.
#include "vmm/devices/virtio/net.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include "tests/vmm/devices/virtio/net_fixture.h"

namespace godwit::devices {
namespace {

class VirtioNetTest : public testing::Test {
 protected:
  NetMachine machine_;
  NetDriver driver_{machine_};
};

TEST_F(VirtioNetTest, OffersWhatItCanAndItsAddress) {
  EXPECT_EQ(machine_.device.read_config(2, 2), 0x1041u);
  const std::uint64_t offered = machine_.registers.features();
  for (const unsigned bit : {0, 1, 3, 5, 7, 8, 11, 12, 15, 16, 17, 21, 29, 32}) {
    EXPECT_NE(offered & (1ULL << bit), 0u) << bit;
  }
  EXPECT_EQ(offered & (1ULL << 10 | 1ULL << 14), 0u) << "no UFO";
  for (unsigned i = 0; i < 6; ++i) EXPECT_EQ(driver_.config<std::uint8_t>(i), kMac[i]);
  EXPECT_EQ(driver_.config<std::uint16_t>(6), 1) << "link up";
  EXPECT_EQ(driver_.config<std::uint16_t>(10), 1450) << "MTU";
  NetMachine plain(0);
  EXPECT_EQ(plain.registers.features() & (1ULL << 3), 0u);
}

TEST_F(VirtioNetTest, PacketsOfTheDriverGoOut) {
  ASSERT_EQ(driver_.bring_up(), 15);
  for (const std::size_t size : {60, 1514, 65550}) {
    driver_.send(frame_of(size, 's'));
    const auto packet = machine_.far_end();
    ASSERT_EQ(packet.size(), size + 12);
    EXPECT_EQ(packet[12], 's');
    EXPECT_EQ(packet.back(), 's');
  }
  EXPECT_EQ(machine_.net.sent_bytes(), 60u + 1514 + 65550);
}

TEST_F(VirtioNetTest, PacketsForTheGuestFillItsBuffers) {
  ASSERT_EQ(driver_.bring_up(), 15);
  driver_.give_buffers(8, 2048);
  machine_.send_to_guest(frame_of(1000, 'a'));
  const auto packet = driver_.received();
  ASSERT_EQ(packet.size(), 1u);
  EXPECT_EQ(packet[0].size(), 1012u);
  EXPECT_EQ(packet[0][10], 1) << "num_buffers";
  EXPECT_EQ(packet[0][11], 0);
  EXPECT_EQ(packet[0].back(), 'a');
  EXPECT_EQ(machine_.net.received_bytes(), 1000u);
  EXPECT_GT(machine_.vectors.fired(0), 0);
}

TEST_F(VirtioNetTest, ALargePacketIsSpreadOverSeveralBuffers) {
  ASSERT_EQ(driver_.bring_up(), 15);
  driver_.give_buffers(40, 2048);
  machine_.send_to_guest(frame_of(60000, 'b'));
  const auto parts = driver_.received();
  ASSERT_EQ(parts.size(), 30u);  // 60012 bytes
  EXPECT_EQ(parts[0][10], 30);
  for (std::size_t i = 0; i < 29; ++i) EXPECT_EQ(parts[i].size(), 2048u);
  EXPECT_EQ(parts[29].size(), 60012u - 29 * 2048);
  EXPECT_EQ(parts[29].back(), 'b');
}

TEST_F(VirtioNetTest, APacketWaitsForBuffersAndIsNotLost) {
  ASSERT_EQ(driver_.bring_up(), 15);
  machine_.send_to_guest(frame_of(5000, 'c'));
  driver_.give_buffers(2, 2048);  // too few
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  EXPECT_EQ(driver_.receive.used_index(), 0);
  driver_.give_buffers(2, 2048);
  const auto parts = driver_.received();
  ASSERT_EQ(parts.size(), 3u);
  EXPECT_EQ(parts[2].back(), 'c');
}

TEST_F(VirtioNetTest, WithoutMergingAPacketHasOneChainAndALongerOneIsDropped) {
  ASSERT_EQ(driver_.bring_up(~(1ULL << 15)), 15);
  driver_.give_buffers(4, 2048);
  machine_.send_to_guest(frame_of(5000, 'd'));
  machine_.send_to_guest(frame_of(1500, 'e'));
  const auto parts = driver_.received();
  ASSERT_EQ(parts.size(), 1u);
  EXPECT_EQ(parts[0].size(), 1512u);
  EXPECT_EQ(parts[0].back(), 'e');
}

TEST_F(VirtioNetTest, TheHostsOffloadsFollowTheDriver) {
  ASSERT_EQ(driver_.bring_up(), 15);
  EXPECT_TRUE(eventually([&] {
    return machine_.port.offloads() == NetOffloads{true, true, true, true};
  }));
  ASSERT_EQ(driver_.bring_up(~(1ULL << 8 | 1ULL << 9)), 15);
  EXPECT_TRUE(eventually([&] {
    return machine_.port.offloads() == NetOffloads{true, true, false, false};
  }));
}

TEST_F(VirtioNetTest, WritesIntoGuestMemoryAreMarkedDirty) {
  ASSERT_EQ(driver_.bring_up(), 15);
  driver_.give_buffers(4, 2048);
  machine_.memory.track_writes(true);
  machine_.send_to_guest(frame_of(3000, 'f'));
  ASSERT_EQ(driver_.received().size(), 2u);
  memory::PageBitmap pages(machine_.memory.pages());
  machine_.memory.collect_writes(pages);
  EXPECT_TRUE(pages.test(NetDriver::kBuffers / 4096));
  EXPECT_TRUE(pages.test(driver_.receive.used() / 4096));
}

TEST_F(VirtioNetTest, QuiescedItPassesNothing) {
  ASSERT_EQ(driver_.bring_up(), 15);
  driver_.give_buffers(8, 2048);
  machine_.device.quiesce();
  const auto state = save_of(machine_.device);
  driver_.send(frame_of(100, 'g'));
  machine_.send_to_guest(frame_of(100, 'h'));
  EXPECT_TRUE(machine_.far_end(20).empty());
  EXPECT_EQ(driver_.receive.used_index(), 0);
  EXPECT_EQ(save_of(machine_.device), state);
  machine_.device.resume();
  EXPECT_EQ(machine_.far_end().size(), 112u);
  EXPECT_EQ(driver_.received().size(), 1u);
}

TEST_F(VirtioNetTest, BuffersHeldForAPacketMoveWithTheGuest) {
  ASSERT_EQ(driver_.bring_up(), 15);
  driver_.give_buffers(2, 2048);
  machine_.send_to_guest(frame_of(5000, 'i'));
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  machine_.device.quiesce();
  NetMachine there;
  move_to(there, machine_);
  NetDriver driver(there);
  driver.continue_from(driver_);
  ASSERT_TRUE(there.announcement());  // then what came before has been discarded
  there.send_to_guest(frame_of(3000, 'j'));
  const auto parts = driver.received();
  ASSERT_EQ(parts.size(), 2u);
  EXPECT_EQ(parts[1].back(), 'j');
}

TEST_F(VirtioNetTest, ACopyWithAnAddressOfItsOwnDoesNotAnnounceThoseOfTheFirst) {
  ASSERT_EQ(driver_.bring_up(), 15);
  driver_.send(arp_of({kMac, {10, 0, 0, 7}}));
  ASSERT_EQ(machine_.far_end().size(), 54u);
  machine_.device.quiesce();
  constexpr std::array<std::uint8_t, 6> kOther = {0x02, 0x11, 0x22, 0x33, 0x44, 0x66};
  NetMachine copy(1450, kOther);
  move_to(copy, machine_);
  EXPECT_EQ(read_as<std::uint8_t>(copy.device, copy.registers.config + 5), 0x66);
  EXPECT_EQ(read_as<std::uint8_t>(copy.device, copy.registers.config + 6) & 2, 0)
      << "the driver would announce what it takes for its addresses";
  for (unsigned i = 0; i < VirtioNet::kAnnouncements; ++i) {
    const auto packet = copy.far_end(1500);
    ASSERT_EQ(packet.size(), 72u) << i;
    EXPECT_EQ(packet[12 + 13], '\x35') << "RARP only";
    EXPECT_EQ(packet[12 + 11], '\x66');
  }
}

TEST_F(VirtioNetTest, AfterAMoveTheGuestIsAnnounced) {
  ASSERT_EQ(driver_.bring_up(), 15);
  driver_.send(arp_of({kMac, {10, 0, 0, 7}}));
  ASSERT_EQ(machine_.far_end().size(), 54u);
  machine_.device.quiesce();
  NetMachine there;
  there.send_to_guest(frame_of(100, 'x'));  // flooded while the guest was still at the source
  const int before = there.vectors.fired(3);
  move_to(there, machine_);
  NetDriver driver(there);
  driver.continue_from(driver_);
  driver.give_buffers(2, 2048);
  for (unsigned i = 0; i < VirtioNet::kAnnouncements; ++i) {
    const auto rarp = there.far_end(1500);
    ASSERT_EQ(rarp.size(), 72u) << i;
    EXPECT_EQ(rarp[12 + 12], '\x80');
    EXPECT_EQ(rarp[12 + 13], '\x35');
    EXPECT_EQ(rarp[12 + 6], static_cast<char>(kMac[0]));
    const auto arp = there.far_end(1500);
    ASSERT_EQ(arp.size(), 72u) << i;
    EXPECT_EQ(arp[12 + 13], '\x06');
    EXPECT_EQ(arp[12 + 31], 7) << "sender's address";
    EXPECT_EQ(arp[12 + 41], 7) << "and the target's";
  }
  EXPECT_TRUE(there.far_end(600).empty()) << "enough is enough";
  EXPECT_EQ(driver.receive.used_index(), 0) << "old packets are not the guest's";
  // The driver is asked to announce as well, and says when it has.
  EXPECT_EQ(driver.config<std::uint16_t>(6), 3);
  EXPECT_GT(there.vectors.fired(3), before);
  EXPECT_EQ(driver.command(3, 0), 0);
  EXPECT_EQ(driver.config<std::uint16_t>(6), 1);
}

TEST_F(VirtioNetTest, ResumedWithoutAMoveItAnnouncesNothing) {
  ASSERT_EQ(driver_.bring_up(), 15);
  machine_.device.quiesce();
  machine_.device.resume();
  EXPECT_TRUE(machine_.far_end(150).empty());
  EXPECT_EQ(driver_.config<std::uint16_t>(6), 1);
}

TEST_F(VirtioNetTest, UnknownCommandsAreRefused) {
  ASSERT_EQ(driver_.bring_up(), 15);
  EXPECT_EQ(driver_.command(0, 0), 1);
  EXPECT_EQ(driver_.command(3, 1), 1);
  EXPECT_EQ(driver_.command(255, 255), 1);
}

TEST_F(VirtioNetTest, MalformedChainsBreakTheDeviceUntilItIsReset) {
  for (int kind = 0; kind < 5; ++kind) {
    ASSERT_EQ(driver_.bring_up(), 15);
    driver_.offer_bad(kind);
    if (kind < 2) machine_.send_to_guest(frame_of(100, 'k'));
    ASSERT_TRUE(eventually([&] { return (machine_.registers.status() & 0x40) != 0; })) << kind;
    driver_.reset();
    machine_.drain();
  }
  ASSERT_EQ(driver_.bring_up(), 15);
  driver_.send(frame_of(60, 'l'));
  EXPECT_EQ(machine_.far_end().size(), 72u);
}

TEST_F(VirtioNetTest, OddPacketsOfTheDriverAreDropped) {
  ASSERT_EQ(driver_.bring_up(), 15);
  driver_.send_raw(5);   // not even a header
  driver_.send_raw(12);  // nothing but one
  driver_.send_raw(200000);
  driver_.send(frame_of(60, 'm'));
  EXPECT_EQ(machine_.far_end().size(), 72u);
  EXPECT_EQ(machine_.registers.status(), 15);
}

TEST_F(VirtioNetTest, ALostPortTakesTheLinkDown) {
  ASSERT_EQ(driver_.bring_up(), 15);
  machine_.port.hang_up();
  EXPECT_TRUE(eventually([&] { return driver_.config<std::uint16_t>(6) == 0; }));
  EXPECT_EQ(machine_.registers.status(), 15);
}

TEST_F(VirtioNetTest, RandomRingsDoNoHarm) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 60; ++round) {
    ASSERT_EQ(driver_.bring_up(), 15);
    driver_.scramble(random);
    for (int i = 0; i < 4; ++i) machine_.send_to_guest(frame_of(random() % 9000, 'r'));
    driver_.kick_all();
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 2000));
    if (round % 3 == 0) {
      machine_.device.quiesce();
      restore_from(machine_.device, save_of(machine_.device));
      machine_.device.resume();
    }
    driver_.reset();
    machine_.drain();
  }
  ASSERT_EQ(driver_.bring_up(), 15);
  driver_.send(frame_of(60, 'n'));
  EXPECT_EQ(machine_.far_end().size(), 72u);
}

}  // namespace
}  // namespace godwit::devices
