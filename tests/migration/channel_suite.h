// What every transport must do, whatever it is made of. A binary that links channel_suite.cc
// instantiates it for its transports.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <ostream>
#include <string>

#include "migration/channel.h"
#include "vmm/memory/guest_memory.h"

namespace godwit::testing {

constexpr std::uint64_t kSuitePages = 16384;  // 64 MiB of guest RAM at either end

/// Two ends of one channel, each bound to a RAM of kSuitePages pages.
struct ChannelEnds {
  virtual ~ChannelEnds() = default;
  memory::GuestMemory source_ram{kSuitePages * memory::kPageSize};
  memory::GuestMemory destination_ram{kSuitePages * memory::kPageSize};
  std::unique_ptr<migration::Channel> source;
  std::unique_ptr<migration::Channel> destination;
};

struct Transport {
  std::string name;
  std::function<std::unique_ptr<ChannelEnds>()> connect;
  bool populates = false;  // all of the destination's RAM, whatever is sent
};

inline void PrintTo(const Transport& transport, std::ostream* out) { *out << transport.name; }

class ChannelTest : public ::testing::TestWithParam<Transport> {};

}  // namespace godwit::testing
