// The smallest guest: says that it runs and powers off.
#include "guest.h"
#include "vmm/boot/layout.h"

void guest::main() {
  for (const char* at = "hello from a guest\n"; *at != 0; ++at) {
    out8(godwit::boot::kSerialPort, static_cast<std::uint8_t>(*at));
  }
  power_off();
}
