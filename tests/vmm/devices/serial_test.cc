#include "vmm/devices/serial.h"

#include <gtest/gtest.h>

#include <string>

#include "tests/vmm/devices/fakes.h"

namespace godwit::devices {
namespace {

constexpr std::uint64_t kData = 0, kIer = 1, kIir = 2, kFcr = 2, kLcr = 3, kMcr = 4, kLsr = 5,
                        kMsr = 6, kScr = 7;

class SerialTest : public testing::Test {
 protected:
  std::uint8_t in(std::uint64_t offset) { return read_as<std::uint8_t>(serial_, offset); }
  void out(std::uint64_t offset, int value) {
    write_as(serial_, offset, static_cast<std::uint8_t>(value));
  }
  std::size_t type(const std::string& text) {
    return serial_.input(std::as_bytes(std::span(text.data(), text.size())));
  }
  std::string receive_all() {
    std::string text;
    while ((in(kLsr)&1) != 0) text += static_cast<char>(in(kData));
    return text;
  }

  CountingLine line_;
  std::string output_;
  Serial serial_{line_, [this](std::span<const std::byte> bytes) {
                   for (const std::byte byte : bytes) output_ += static_cast<char>(byte);
                 }};
};

TEST_F(SerialTest, TransmitsEveryByteAtOnceAndInOrder) {
  std::string expected;
  for (int i = 0; i < 1000; ++i) {
    out(kData, i);
    expected += static_cast<char>(i);
    EXPECT_EQ(in(kLsr)&0x60, 0x60);
  }
  EXPECT_EQ(output_, expected);
}

TEST_F(SerialTest, LooksLikeA16550AToItsDriver) {
  EXPECT_EQ(in(kIir)&0xc0, 0x00);
  out(kFcr, 0x01);
  EXPECT_EQ(in(kIir), 0xc1);
  out(kIer, 0xff);
  EXPECT_EQ(in(kIer), 0x0f);
  out(kIer, 0);
  out(kScr, 0x5a);
  EXPECT_EQ(in(kScr), 0x5a);
  EXPECT_EQ(in(kMsr)&0xf0, 0xb0);
}

TEST_F(SerialTest, DivisorLatchHidesDataAndIer) {
  out(kLcr, 0x83);
  out(kData, 0x34);
  out(kIer, 0x12);
  EXPECT_EQ(in(kData), 0x34);
  EXPECT_EQ(in(kIer), 0x12);
  out(kLcr, 0x03);
  EXPECT_EQ(in(kIer), 0);
  EXPECT_EQ(output_, "");
}

TEST_F(SerialTest, EnablingThrEmptyInterruptRaisesItEachTime) {
  out(kIer, 0x02);
  EXPECT_EQ(line_.count, 1);
  EXPECT_EQ(in(kIir), 0x02);
  EXPECT_EQ(in(kIir), 0x01);  // reading acknowledged it
  out(kIer, 0x00);
  out(kIer, 0x02);
  EXPECT_EQ(line_.count, 2);
  EXPECT_EQ(in(kIir), 0x02);
  out(kData, 'x');
  EXPECT_EQ(line_.count, 3);
  EXPECT_EQ(in(kIir), 0x02);
}

TEST_F(SerialTest, InterruptsComeInPriorityOrder) {
  out(kFcr, 0x01);
  out(kMcr, 0x10);                             // loopback
  out(kMcr, 0x12);                             // RTS: a CTS change
  for (int i = 0; i < 17; ++i) out(kData, i);  // one more than fits: overrun
  EXPECT_EQ(line_.count, 0);
  out(kIer, 0x0f);
  EXPECT_EQ(line_.count, 1);
  EXPECT_EQ(in(kIir), 0xc6);
  EXPECT_EQ(in(kLsr)&0x02, 0x02);
  EXPECT_EQ(in(kIir), 0xc4);
  while ((in(kLsr)&1) != 0) in(kData);
  EXPECT_EQ(in(kIir), 0xc2);
  EXPECT_EQ(in(kIir), 0xc0);
  EXPECT_NE(in(kMsr)&0x01, 0);
  EXPECT_EQ(in(kIir), 0xc1);
  EXPECT_EQ(line_.count, 1);  // the line never went low between
}

TEST_F(SerialTest, ReceiveInterruptFollowsTheTriggerLevel) {
  out(kFcr, 0x81);  // 8 bytes
  out(kIer, 0x01);
  type("abc");
  EXPECT_EQ(line_.count, 1);
  EXPECT_EQ(in(kIir), 0xcc);  // time-out: fewer than the trigger level
  type("defgh");
  EXPECT_EQ(line_.count, 2);  // every key is an edge of its own, lest a missed one leave it deaf
  EXPECT_EQ(in(kIir), 0xc4);
  EXPECT_EQ(receive_all(), "abcdefgh");
  EXPECT_EQ(in(kIir), 0xc1);
  type("i");
  EXPECT_EQ(line_.count, 3);
}

TEST_F(SerialTest, LoopbackReturnsDataAndModemLines) {
  out(kMcr, 0x1a);
  EXPECT_EQ(in(kMsr)&0xf0, 0x90);
  out(kData, 'q');
  EXPECT_EQ(in(kData), 'q');
  EXPECT_EQ(output_, "");
  type("later");
  EXPECT_EQ(in(kLsr)&1, 0);  // the line is disconnected
  out(kMcr, 0x0b);
  EXPECT_EQ(receive_all(), "later");
}

TEST_F(SerialTest, RingIndicatorShowsItsTrailingEdgeOnly) {
  out(kMcr, 0x10);
  in(kMsr);
  out(kMcr, 0x14);
  EXPECT_EQ(in(kMsr)&0x04, 0);
  out(kMcr, 0x10);
  EXPECT_EQ(in(kMsr)&0x04, 0x04);
}

TEST_F(SerialTest, InputIsBoundedAndNothingTakenIsLost) {
  out(kFcr, 0x01);
  const std::string text(6000, 'z');
  const std::size_t taken = type(text);
  EXPECT_LE(taken, Serial::kMaxWaiting + Serial::kFifoSize);
  EXPECT_GT(taken, 0u);
  EXPECT_EQ(receive_all().size(), taken);
  EXPECT_EQ(type("more"), 4u);
}

TEST_F(SerialTest, FcrClearsTheReceiveFifo) {
  out(kFcr, 0x01);
  type("abc");
  out(kFcr, 0x03);
  EXPECT_EQ(in(kLsr)&1, 0);
}

TEST_F(SerialTest, OddAccessesReadOnesAndWriteNothing) {
  EXPECT_EQ(read_as<std::uint32_t>(serial_, 0), ~0u);
  EXPECT_EQ(read_as<std::uint8_t>(serial_, 8), 0xff);
  write_as<std::uint16_t>(serial_, 0, 0x4141);
  write_as<std::uint8_t>(serial_, 99, 1);
  EXPECT_EQ(output_, "");
}

TEST_F(SerialTest, InputAndItsInterruptSurviveAMove) {
  out(kFcr, 0x01);
  out(kIer, 0x01);
  type("typed before the move, longer than the FIFO");
  serial_.quiesce();
  EXPECT_EQ(type("lost?"), 0u);
  const auto state = save_of(serial_);

  CountingLine line;
  Serial moved(line, nullptr);
  moved.quiesce();
  restore_from(moved, state);
  EXPECT_EQ(line.count, 0);
  moved.resume();
  EXPECT_EQ(line.count, 1);
  std::string text;
  while ((read_as<std::uint8_t>(moved, kLsr) & 1) != 0) {
    text += static_cast<char>(read_as<std::uint8_t>(moved, kData));
  }
  EXPECT_EQ(text, "typed before the move, longer than the FIFO");
}

}  // namespace
}  // namespace godwit::devices
