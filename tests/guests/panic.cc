// A guest whose kernel panics: it says so to the pvpanic port and stands still.
#include "guest.h"

void guest::main() {
  out8(0x505, in8(0x505) & 1);
  print("panicked");
}
