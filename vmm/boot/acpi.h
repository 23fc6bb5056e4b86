// The ACPI tables (ACPI 6.4, chapter 5) that tell a guest its processors, its interrupt controller,
// how to power off and reset, and its devices. Hardware-reduced: there is no PM timer, SCI or
// legacy PIC.
#pragma once

#include <cstdint>
#include <vector>

#include "vmm/memory/guest_memory.h"

namespace godwit::boot {

/// Builds the tables as they lie at kAcpiTables, RSDP first. `cpus`: 1 to kMaxCpus.
std::vector<std::uint8_t> build_acpi_tables(unsigned cpus);

/// Writes them into guest RAM; returns the RSDP's guest-physical address.
std::uint64_t write_acpi_tables(unsigned cpus, memory::GuestMemory& memory);

}  // namespace godwit::boot
