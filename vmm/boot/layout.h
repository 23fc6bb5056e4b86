// The guest's address map: where the loaders put things, where devices answer, which interrupts
// they have. Only documented constants. Both ends of a move must agree on all of it; Linux learns
// it from the E820 map and the ACPI tables, our test guests from here.
//
//   guest-physical address      what
//   0x0000_0000 - 0x0009_fbff   low RAM: boot structures below, free otherwise
//   0x0009_fc00 - 0x000f_ffff   reserved in the E820 map; ACPI tables at 0xe_0000, a reset vector
//   at its end 0x0010_0000 - 0xbfff_ffff   RAM: kernel from 16 MiB (or where it was linked), initrd
//   at the top 0xc000_0000 - 0xfebf_ffff   PCI memory window (BARs) 0xfec0_0000                 I/O
//   APIC            } in the kernel 0xfee0_0000                 local APICs         } 0xfffb_c000 -
//   0xfffb_ffff   KVM's own pages (Intel real mode) 0x1_0000_0000 -             RAM above 3 GiB
//   goes on here
#pragma once

#include <cstdint>

namespace godwit::boot {

// -- RAM (bytes)
constexpr std::uint64_t kKiB = 1024;
constexpr std::uint64_t kMiB = 1024 * kKiB;
constexpr std::uint64_t kGiB = 1024 * kMiB;
constexpr std::uint64_t kLowRamEnd = 3 * kGiB;     // guest_memory.cc splits RAM here
constexpr std::uint64_t kHighRamStart = 4 * kGiB;  // and goes on here

// -- low memory: what the loaders write
constexpr std::uint64_t kGdt = 0x500;
constexpr std::uint64_t kStartInfo = 0x6000;     // PVH: hvm_start_info, module list, memory map
constexpr std::uint64_t kZeroPage = 0x7000;      // Linux boot_params, one page
constexpr std::uint64_t kBootStackTop = 0x9000;  // a stack for entry points that want one
constexpr std::uint64_t kPageTables = 0x9000;    // PML4, PDPT, then one page directory a GiB
constexpr std::uint64_t kPageTablesEnd = 0x1'0000;
constexpr std::uint64_t kCommandLine = 0x2'0000;
constexpr std::uint64_t kCommandLineMax = 0x1'0000;  // with the terminating zero
constexpr std::uint64_t kLowMemoryEnd = 0x9'fc00;    // where PC firmware keeps its EBDA
constexpr std::uint64_t kAcpiTables = 0xe'0000;      // RSDP first: operating systems scan from here
constexpr std::uint64_t kAcpiTablesEnd = 0x10'0000;
/// The 16 bytes of the virtual machine generation ID (Microsoft, "Virtual Machine Generation ID"),
/// in a page of their own, 8-byte aligned.
constexpr std::uint64_t kGenerationId = 0xf'e000;
/// Where a PC's firmware begins after a reset. Linux goes there in real mode to restart a machine
/// with reduced ACPI hardware and no EFI, instead of trying ACPI's reset register.
constexpr std::uint64_t kResetVector = 0xf'fff0;
constexpr std::uint64_t kHighMemoryStart = kMiB;

// -- memory-mapped devices
constexpr std::uint64_t kPciWindow = 0xc000'0000;     // the DSDT's _CRS window for BARs
constexpr std::uint64_t kPciWindowEnd = 0xfec0'0000;  // exclusive
/// Virtio function in slot s (1..31) has its one BAR here at reset; BARs are at most this large.
constexpr std::uint64_t kVirtioBarSize = 0x1'0000;
constexpr std::uint64_t virtio_bar(unsigned slot) { return kPciWindow + slot * kVirtioBarSize; }
constexpr std::uint64_t kIoApic = 0xfec0'0000;
constexpr std::uint64_t kLocalApic = 0xfee0'0000;
constexpr std::uint64_t kKvmIdentityMap = 0xfffb'c000;  // KVM API 4.57, one page
constexpr std::uint64_t kKvmTss = 0xfffb'd000;          // KVM API 4.36, three pages

// -- ports
constexpr std::uint16_t kSerialPort = 0x3f8;  // COM1, 8 ports
constexpr std::uint64_t kSerialPortCount = 8;
constexpr std::uint16_t kPciConfigPort = 0xcf8;  // address at +0, data at +4 (PCI 3.0, 3.2.2.3.2)
constexpr std::uint64_t kPciConfigPortCount = 8;
/// ACPI 6.4, 4.8.3.7: reduced-hardware sleep registers; one device, one byte each.
constexpr std::uint16_t kPowerPort = 0x600;
constexpr std::uint64_t kPowerPortCount = 4;
constexpr std::uint16_t kSleepControlPort = kPowerPort + 0;  // SLP_TYP in bits 4:2, SLP_EN bit 5
constexpr std::uint16_t kSleepStatusPort = kPowerPort + 1;   // WAK_STS bit 7, write one to clear
constexpr std::uint16_t kResetPort = kPowerPort + 2;         // a write of kResetValue resets
constexpr std::uint16_t kEventsPort = kPowerPort + 3;  // what the GED's _EVT reads; reading clears
constexpr std::uint8_t kEventPowerButton = 0x01;       // Notify the PNP0C0C device with 0x80
constexpr std::uint8_t kEventGeneration = 0x02;        // and the VM_Gen_Counter with 0x80
constexpr std::uint8_t kSleepTypeS5 = 5;               // _S5_: SLP_TYP for power-off
constexpr std::uint8_t kSleepEnable = 0x20;
constexpr std::uint8_t kResetValue = 0x01;
/// What a guest writes to kSleepControlPort to power off.
constexpr std::uint8_t kPowerOffValue = kSleepTypeS5 << 2 | kSleepEnable;  // 0x34
constexpr std::uint16_t kPanicPort = 0x505;    // where QEMU has its pvpanic
constexpr std::uint16_t kKeyboardPort = 0x64;  // 8042 command port: only its reset is there
constexpr std::uint8_t kKeyboardResetValue = 0xfe;

// -- interrupts: I/O APIC inputs, edge-triggered, active high
constexpr unsigned kSerialGsi = 4;
constexpr unsigned kPowerButtonGsi = 9;
constexpr unsigned kIoApicInputs = 24;  // MSI routes have GSIs from here on

constexpr unsigned kMaxCpus = 16;  // APIC id = vCPU index

}  // namespace godwit::boot
