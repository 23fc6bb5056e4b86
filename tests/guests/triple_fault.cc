// A guest that dies: a fault while there is no handler left.
#include "guest.h"

void guest::main() {
  print("about to triple-fault");
  triple_fault();
}
