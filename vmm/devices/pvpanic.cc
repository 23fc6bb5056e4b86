#include "vmm/devices/pvpanic.h"

#include "vmm/devices/access.h"

namespace godwit::devices {
namespace {

constexpr std::uint32_t kStateVersion = 1;

}  // namespace

void Pvpanic::read(std::uint64_t offset, std::span<std::byte> data) {
  fill_ones(data);
  if (offset == 0 && data.size() == 1) data[0] = std::byte{kPanicked};
}

void Pvpanic::write(std::uint64_t offset, std::span<const std::byte> data) {
  if (offset != 0 || data.size() != 1) return;
  if ((std::to_integer<std::uint8_t>(data[0]) & kPanicked) != 0) panicked_ = true;
}

void Pvpanic::save(vmm::StateWriter& writer, std::uint32_t instance) const {
  writer.begin(kind(), kStateVersion, instance);
  writer.put<std::uint8_t>(panicked_ ? 1 : 0);
}

void Pvpanic::restore(vmm::StateReader& reader, std::uint32_t instance) {
  reader.begin(kind(), kStateVersion, instance);
  const auto panicked = reader.get<std::uint8_t>();
  if (panicked > 1) reader.fail("neither panicked nor not");
  panicked_ = panicked == 1;
}

}  // namespace godwit::devices
