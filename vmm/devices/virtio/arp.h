// The few Ethernet frames by which a network learns where a guest is: ARP (RFC 826), gratuitous
// (RFC 5227, 3), and RARP (RFC 903). Pure functions.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace godwit::devices {

/// Who a station said it is, in ARP.
struct ArpSender {
  std::array<std::uint8_t, 6> mac;
  std::array<std::uint8_t, 4> ip;
  bool operator==(const ArpSender&) const = default;
};

constexpr std::size_t kArpFrameSize = 42;      // Ethernet header and ARP, without padding
constexpr std::size_t kMinEthernetFrame = 60;  // without the checksum
using ArpFrame = std::array<std::byte, kMinEthernetFrame>;

/// The sender of an ARP frame, from its first kArpFrameSize bytes; nullopt for every other frame,
/// and for a sender without an address (a probe).
std::optional<ArpSender> arp_sender(std::span<const std::byte> frame);

/// To all: the station with this MAC is here (switches learn the port).
ArpFrame rarp_announcement(const std::array<std::uint8_t, 6>& mac);
/// To all: this address belongs to that MAC.
ArpFrame arp_announcement(const ArpSender& sender);

}  // namespace godwit::devices
