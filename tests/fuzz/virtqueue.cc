// The virtqueue parser over one page of rings and tables, all of it the input.
#include "tests/fuzz/fuzz.h"
#include "vmm/devices/virtio/queue.h"

namespace godwit::fuzz {

namespace {
constexpr std::uint64_t kRam = 2 << 20;
}

std::vector<Bytes> fuzz_seeds() {
  std::vector<Bytes> seeds;
  for (const auto flags :
       std::initializer_list<std::uint16_t>{0, 2, 4}) {  // readable, writable, indirect
    Bytes seed(8);
    seed[0] = 3;  // every feature
    Bytes ram(2048);
    const auto put_at = [&](std::size_t at, auto value) {
      std::memcpy(&ram[at], &value, sizeof value);
    };
    put_at(0, std::uint64_t{0x100000});
    put_at(8, std::uint32_t{512});
    put_at(12, std::uint16_t{1});
    put_at(14, std::uint16_t{1});
    put_at(16, std::uint64_t{flags == 4 ? 1024u : 0x101000u});
    put_at(24, std::uint32_t{32});
    put_at(28, flags);
    put_at(258, std::uint16_t{3});  // three available, all of them chain 0
    put_at(1024, std::uint64_t{0x102000});
    put_at(1032, std::uint32_t{64});
    put_at(1036, std::uint16_t{3});
    put_at(1038, std::uint16_t{1});
    put_at(1040, std::uint64_t{0x103000});
    put_at(1048, std::uint32_t{64});
    put_at(1052, std::uint16_t{2});
    seed.insert(seed.end(), ram.begin(), ram.end());
    seeds.push_back(seed);
  }
  return seeds;
}

}  // namespace godwit::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace godwit;
  static memory::GuestMemory memory(fuzz::kRam);
  fuzz::Input input(data, size);
  const auto features = input.take<std::uint8_t>();
  const auto placement = input.take<std::uint8_t>();
  const auto log_size = input.take<std::uint8_t>();
  const auto next = input.take<std::uint16_t>();
  input.bytes(3);
  const auto ram = input.bytes(64 << 10);
  memory.write(0, std::vector<std::byte>(64 << 10));
  memory.write(0, std::as_bytes(ram));

  devices::Virtqueue queue(memory, 256);
  devices::Virtqueue::State state;
  state.size = static_cast<std::uint16_t>(log_size == 0 ? 16 : 1u << (log_size % 10));
  state.descriptors = 0;
  state.available = placement == 0 ? 256 : 2 * std::uint64_t{placement};
  state.used = placement < 200 ? 512 : fuzz::kRam - placement;
  state.next_available = state.next_used = next;
  state.enabled = 1;
  if (!queue.set_state(state)) return 0;
  queue.start((features & 1 ? 1ull << 28 : 0) | (features & 2 ? 1ull << 29 : 0));
  if (!queue.placed_well()) return 0;
  devices::Chain chain;
  for (int i = 0; i < 600; ++i) {
    if (queue.pop(chain) != devices::Virtqueue::Pop::kChain) break;
    std::uint32_t written = 0;
    for (auto& buffer : chain.writable) {
      if (buffer.bytes().size() > 4096) continue;
      std::memset(buffer.bytes().data(), 0x5a, buffer.bytes().size());
      written += static_cast<std::uint32_t>(buffer.bytes().size());
    }
    std::uint8_t sum = 0;
    for (const auto buffer : chain.readable) {
      sum = static_cast<std::uint8_t>(sum + std::to_integer<std::uint8_t>(buffer.front()) +
                                      std::to_integer<std::uint8_t>(buffer.back()));
    }
    if (sum == 1) queue.rewind(1);
    chain.writable.clear();
    if (!queue.push(chain.head, written)) break;
    queue.wants_interrupt();
    queue.arm_doorbell();
  }
  return 0;
}
