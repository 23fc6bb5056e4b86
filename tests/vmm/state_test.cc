#include "vmm/state.h"

#include <gtest/gtest.h>

#include <functional>
#include <string>

namespace godwit::vmm {
namespace {

std::vector<std::byte> two_sections() {
  StateWriter writer;
  writer.begin("serial", 2, 0);
  writer.put<std::uint32_t>(0xabcd);
  const std::vector<std::uint16_t> values = {1, 2, 3};
  writer.put_array<std::uint16_t>(values);
  writer.begin("vcpu", 1, 7);
  return writer.finish();
}

void read_two_sections(std::span<const std::byte> bytes) {
  StateReader reader(bytes);
  reader.begin("serial", 2, 0);
  EXPECT_EQ(reader.get<std::uint32_t>(), 0xabcdu);
  EXPECT_EQ(reader.get_array<std::uint16_t>(3), (std::vector<std::uint16_t>{1, 2, 3}));
  reader.begin("vcpu", 1, 7);
  reader.finish();
}

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const StateError& error) {
    return error.what();
  }
  return "no error";
}

TEST(State, ReadsBackWhatWasWritten) { read_two_sections(two_sections()); }

TEST(State, RefusesAnotherSectionVersionOrInstance) {
  const auto bytes = two_sections();
  EXPECT_EQ(error_of([&] { StateReader(bytes).begin("serial", 3, 0); }),
            "machine state: section serial[0]: version 2, this build reads version 3");
  EXPECT_EQ(error_of([&] { StateReader(bytes).begin("serial", 2, 1); }),
            "machine state: section serial[1]: found section serial[0] in its place");
  EXPECT_EQ(error_of([&] { StateReader(bytes).begin("pci", 2, 0); }),
            "machine state: section pci[0]: found section serial[0] in its place");
}

TEST(State, RefusesSectionsNotReadToTheirEnd) {
  const auto bytes = two_sections();
  StateReader reader(bytes);
  reader.begin("serial", 2, 0);
  reader.get<std::uint32_t>();
  EXPECT_THROW(reader.begin("vcpu", 1, 7), StateError);
  EXPECT_THROW(reader.finish(), StateError);
}

TEST(State, RefusesEveryTruncation) {
  const auto bytes = two_sections();
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_THROW(read_two_sections(std::span(bytes).first(size)), StateError) << size;
  }
}

TEST(State, RefusesArraysThatAreTooLongWithoutAllocatingThem) {
  StateWriter writer;
  writer.begin("x", 1, 0);
  writer.put<std::uint64_t>(UINT64_MAX / 2 + 2);  // times two is a small number
  const auto bytes = writer.finish();
  StateReader reader(bytes);
  reader.begin("x", 1, 0);
  EXPECT_THROW(reader.get_array<std::uint16_t>(SIZE_MAX), StateError);
}

TEST(State, SurvivesEveryFlippedBit) {
  const auto good = two_sections();
  for (std::size_t bit = 0; bit < sizeof(SectionHeader) * 8; ++bit) {
    auto bytes = good;
    bytes[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
    EXPECT_THROW(read_two_sections(bytes), StateError) << bit;
  }
}

TEST(State, RefusesKindsThatDoNotFit) {
  StateWriter writer;
  EXPECT_THROW(writer.begin("sixteen-letters!", 1, 0), std::invalid_argument);
  EXPECT_THROW(writer.begin("", 1, 0), std::invalid_argument);
  EXPECT_THROW(writer.put<int>(1), std::logic_error);
}

}  // namespace
}  // namespace godwit::vmm
