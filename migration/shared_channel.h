// For two ends that have the same guest RAM, one memfd: nothing is sent but messages.
#pragma once

#include "migration/channel.h"
#include "migration/wire.h"

namespace godwit::migration {

class SharedChannel : public Channel {
 public:
  /// `wire` must outlive it.
  explicit SharedChannel(Wire& wire) : wire_(wire) {}

  std::string_view name() const override { return "shared"; }
  void write(std::span<const memory::PageRange> /*ranges*/) override {}
  void write_zero(std::span<const memory::PageRange> /*ranges*/) override {}
  void flush() override {}
  void send(MessageKind kind, std::span<const std::byte> payload) override {
    wire_.send({.kind = kind}, payload);
  }
  Message receive(int timeout_ms) override {
    const FrameHeader header = wire_.receive_header(timeout_ms);
    return {header.kind, wire_.receive_payload(header)};
  }
  void interrupt() override { wire_.interrupt(); }
  std::uint64_t bytes_sent() const override { return wire_.bytes_sent(); }

 private:
  Wire& wire_;
};

}  // namespace godwit::migration
