#include "vmm/devices/virtio/arp.h"

#include <algorithm>
#include <cstring>

namespace godwit::devices {
namespace {

/// Ethernet, then ARP for IPv4 over Ethernet; all integers are big-endian.
struct Frame {
  std::array<std::uint8_t, 6> to;
  std::array<std::uint8_t, 6> from;
  std::array<std::uint8_t, 2> type;
  std::array<std::uint8_t, 6> format = {0, 1, 8, 0, 6, 4};  // Ethernet, IPv4, their sizes
  std::array<std::uint8_t, 2> operation;
  ArpSender sender;
  ArpSender target;
};
static_assert(sizeof(Frame) == kArpFrameSize);

constexpr std::array<std::uint8_t, 6> kBroadcast = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
constexpr std::array<std::uint8_t, 2> kArp = {0x08, 0x06}, kRarp = {0x80, 0x35};
constexpr std::array<std::uint8_t, 2> kRequest = {0, 1}, kReverseRequest = {0, 3};

ArpFrame padded(const Frame& frame) {
  ArpFrame bytes{};
  std::memcpy(bytes.data(), &frame, sizeof frame);
  return bytes;
}

}  // namespace

std::optional<ArpSender> arp_sender(std::span<const std::byte> bytes) {
  if (bytes.size() < kArpFrameSize) return std::nullopt;
  Frame frame;
  std::memcpy(&frame, bytes.data(), sizeof frame);
  const auto& ip = frame.sender.ip;
  if (frame.type != kArp || frame.format != Frame{}.format || (frame.sender.mac[0] & 1) != 0 ||
      std::all_of(ip.begin(), ip.end(), [](std::uint8_t byte) { return byte == 0; })) {
    return std::nullopt;
  }
  return frame.sender;
}

ArpFrame rarp_announcement(const std::array<std::uint8_t, 6>& mac) {
  Frame frame{};
  frame.to = kBroadcast;
  frame.from = mac;
  frame.type = kRarp;
  frame.operation = kReverseRequest;
  frame.sender.mac = mac;
  frame.target.mac = mac;
  return padded(frame);
}

ArpFrame arp_announcement(const ArpSender& sender) {
  Frame frame{};
  frame.to = kBroadcast;
  frame.from = sender.mac;
  frame.type = kArp;
  frame.operation = kRequest;
  frame.sender = sender;
  frame.target.ip = sender.ip;
  return padded(frame);
}

}  // namespace godwit::devices
