#include "vmm/boot/acpi.h"

#include <gtest/gtest.h>

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>

#include "vmm/boot/aml.h"
#include "vmm/boot/layout.h"

namespace godwit::boot {
namespace {

using Bytes = std::vector<std::uint8_t>;

template <typename T>
T at(const Bytes& bytes, std::uint64_t offset) {
  T value;
  if (offset + sizeof value > bytes.size()) throw std::out_of_range("outside the tables");
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

bool sums_to_zero(std::span<const std::uint8_t> bytes) {
  unsigned sum = 0;
  for (const std::uint8_t b : bytes) sum += b;
  return sum % 256 == 0;
}

/// The tables by signature, found as an operating system finds them: RSDP, XSDT, FADT, DSDT.
std::map<std::string, Bytes> find_tables(const Bytes& all) {
  std::map<std::string, Bytes> found;
  const auto add = [&](std::uint64_t address) {
    const std::uint64_t offset = address - kAcpiTables;
    const auto size = at<std::uint32_t>(all, offset + 4);
    const auto begin = all.begin() + static_cast<std::ptrdiff_t>(offset);
    const Bytes table(begin, begin + size);
    EXPECT_TRUE(sums_to_zero(table));
    return found[std::string(table.begin(), table.begin() + 4)] = table;
  };
  const Bytes xsdt = add(at<std::uint64_t>(all, 24));
  for (std::size_t i = 36; i < xsdt.size(); i += 8) add(at<std::uint64_t>(xsdt, i));
  add(at<std::uint64_t>(found.at("FACP"), 140));
  return found;
}

TEST(AcpiTables, AreReachedFromTheRsdp) {
  const Bytes all = build_acpi_tables(2);
  EXPECT_EQ(std::memcmp(all.data(), "RSD PTR ", 8), 0);
  EXPECT_TRUE(sums_to_zero(std::span(all).first(20)));
  EXPECT_TRUE(sums_to_zero(std::span(all).first(36)));
  const auto tables = find_tables(all);
  EXPECT_EQ(tables.size(), 4u);
  EXPECT_EQ(tables.at("FACP").size(), 276u);
  EXPECT_NE(at<std::uint32_t>(tables.at("FACP"), 112) & (1u << 20), 0u);  // hardware-reduced
  EXPECT_EQ(at<std::uint64_t>(tables.at("FACP"), 244 + 4), kSleepControlPort);
}

TEST(AcpiTables, NameEveryProcessorOnce) {
  for (const unsigned cpus : {1u, 2u, kMaxCpus}) {
    const Bytes madt = find_tables(build_acpi_tables(cpus)).at("APIC");
    unsigned seen = 0;
    for (std::size_t i = 44; i < madt.size(); i += madt[i + 1]) {
      ASSERT_GE(madt[i + 1], 2);
      if (madt[i] != 0) continue;
      EXPECT_EQ(madt[i + 3], seen);
      ++seen;
    }
    EXPECT_EQ(seen, cpus);
  }
  EXPECT_THROW(build_acpi_tables(0), std::invalid_argument);
  EXPECT_THROW(build_acpi_tables(kMaxCpus + 1), std::invalid_argument);
}

// ACPICA's own disassembler reads the DSDT, where it is installed.
TEST(AcpiTables, DsdtDisassembles) {
  const Bytes dsdt = find_tables(build_acpi_tables(1)).at("DSDT");
  if (std::system("command -v iasl >/dev/null 2>&1") != 0) {
    GTEST_SKIP() << "iasl is not installed (Debian package acpica-tools)";
  }
  const auto directory =
      std::filesystem::temp_directory_path() / ("godwit-acpi-" + std::to_string(::getpid()));
  std::filesystem::create_directory(directory);
  std::ofstream(directory / "dsdt.aml", std::ios::binary)
      .write(reinterpret_cast<const char*>(dsdt.data()), static_cast<std::streamsize>(dsdt.size()));
  const std::string in = "cd " + directory.string() + " && ";
  EXPECT_EQ(std::system((in + "iasl -d dsdt.aml >log 2>&1").c_str()), 0);
  std::ifstream file(directory / "dsdt.dsl");
  const std::string source((std::istreambuf_iterator<char>(file)), {});
  for (const char* part : {"Name (_HID, EisaId (\"PNP0A03\")", "EisaId (\"PNP0501\")",
                           "\"ACPI0013\"", "Notify (\\_SB.PWRB, 0x80)", "Notify (\\_SB.VGEN, 0x80)",
                           "If ((Local0 & One))", "VM_Gen_Counter", "0x000FE000", "QEMU0001",
                           "0x0505", "Name (\\_S5, Package (0x04)", "0xC0000000"}) {
    EXPECT_NE(source.find(part), std::string::npos) << part << " is not in\n" << source;
  }
  EXPECT_EQ(std::system((in + "iasl -f dsdt.dsl >log2 2>&1").c_str()), 0);
  std::ifstream log(directory / "log2");
  const std::string messages((std::istreambuf_iterator<char>(log)), {});
  EXPECT_NE(messages.find("0 Errors, 0 Warnings"), std::string::npos) << messages;
  std::filesystem::remove_all(directory);
}

TEST(Aml, EncodesAsTheSpecificationSays) {
  EXPECT_EQ(aml::eisa_id("PNP0A03"), (Bytes{0x0c, 0x41, 0xd0, 0x0a, 0x03}));
  EXPECT_EQ(aml::integer(1), (Bytes{0x01}));
  EXPECT_EQ(aml::integer(0x1234), (Bytes{0x0b, 0x34, 0x12}));
  EXPECT_EQ(aml::name_string("\\_SB_.PWRB"),
            (Bytes{'\\', 0x2e, '_', 'S', 'B', '_', 'P', 'W', 'R', 'B'}));
  EXPECT_EQ(aml::scope("ABCD", {}), (Bytes{0x10, 0x05, 'A', 'B', 'C', 'D'}));
  const Bytes longer = aml::scope("ABCD", Bytes(59));
  EXPECT_EQ(longer.size(), 66u);  // op, two bytes of length, name, body
  EXPECT_EQ(longer[1], 0x41);
  EXPECT_EQ(longer[2], 0x04);
  EXPECT_THROW(aml::name_string("TOOLONG"), std::logic_error);
}

}  // namespace
}  // namespace godwit::boot
