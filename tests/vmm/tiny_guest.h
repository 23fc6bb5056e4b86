// PVH guests of a few bytes of machine code (32-bit, flat), for tests of the VMM itself. Real test
// programs are in tests/guests.
#pragma once

#include <elf.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <string>
#include <vector>

namespace godwit::testing {

using Code = std::vector<std::uint8_t>;

constexpr std::uint32_t kTinyEntry = 0x10'0000;

inline Code operator+(Code a, const Code& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// mov dx, port; mov al, value; out dx, al
inline Code out_byte(std::uint16_t port, std::uint8_t value) {
  return {0x66,  0xba, static_cast<std::uint8_t>(port), static_cast<std::uint8_t>(port >> 8), 0xb0,
          value, 0xee};
}

inline Code print(const std::string& text) {
  Code code;
  for (const char c : text) code = code + out_byte(0x3f8, static_cast<std::uint8_t>(c));
  return code;
}

/// Powers off by the ACPI sleep register and waits there.
inline Code power_off() { return out_byte(0x600, 0x34) + Code{0xf4, 0xeb, 0xfd}; }

constexpr std::uint32_t kCounter = 0x30'0000;   // count_until_told() counts here,
constexpr std::uint32_t kStopFlag = 0x30'0004;  // until this is not zero

/// xor eax, eax; do { ++eax; [kCounter] = eax; } while ([kStopFlag] == 0)
inline Code count_until_told() {
  return {0x31, 0xc0,                                // xor eax, eax
          0x40,                                      // inc eax
          0xa3, 0x00, 0x00, 0x30, 0x00,              // mov [0x300000], eax
          0x83, 0x3d, 0x04, 0x00, 0x30, 0x00, 0x00,  // cmp dword [0x300004], 0
          0x74, 0xf1};                               // je inc
}

/// Prints what is typed, until [kStopFlag] is not zero.
inline Code echo_until_told() {
  return {0x66, 0xba, 0xfd, 0x03,                    // again: mov dx, 0x3fd
          0xec, 0xa8, 0x01,                          // in al, dx; test al, 1
          0x74, 0x06,                                // jz idle
          0xb2, 0xf8,                                // mov dl, 0xf8
          0xec, 0xee,                                // in al, dx; out dx, al
          0xeb, 0xf1,                                // jmp again
          0x83, 0x3d, 0x04, 0x00, 0x30, 0x00, 0x00,  // idle: cmp dword [0x300004], 0
          0x74, 0xe8};                               // je again
}

/// An ELF image whose one segment is `code` at kTinyEntry, with a PVH entry note.
inline std::vector<std::uint8_t> tiny_elf(const Code& code) {
  struct Image {
    Elf64_Ehdr header;
    Elf64_Phdr load, note;
    Elf64_Nhdr note_header;
    char owner[4];
    std::uint32_t entry;
  } image = {};
  std::memcpy(image.header.e_ident, ELFMAG, SELFMAG);
  image.header.e_ident[EI_CLASS] = ELFCLASS64;
  image.header.e_ident[EI_DATA] = ELFDATA2LSB;
  image.header.e_ident[EI_VERSION] = EV_CURRENT;
  image.header.e_type = ET_EXEC;
  image.header.e_machine = EM_X86_64;
  image.header.e_version = EV_CURRENT;
  image.header.e_entry = kTinyEntry;
  image.header.e_phoff = offsetof(Image, load);
  image.header.e_ehsize = sizeof(Elf64_Ehdr);
  image.header.e_phentsize = sizeof(Elf64_Phdr);
  image.header.e_phnum = 2;
  image.load.p_type = PT_LOAD;
  image.load.p_offset = sizeof(Image);
  image.load.p_paddr = image.load.p_vaddr = kTinyEntry;
  image.load.p_filesz = image.load.p_memsz = code.size();
  image.note.p_type = PT_NOTE;
  image.note.p_offset = offsetof(Image, note_header);
  image.note.p_filesz = image.note.p_memsz = sizeof(Image) - offsetof(Image, note_header);
  image.note_header = {4, 4, 18};  // XEN_ELFNOTE_PHYS32_ENTRY
  std::memcpy(image.owner, "Xen", 4);
  image.entry = kTinyEntry;
  std::vector<std::uint8_t> bytes(sizeof image);
  std::memcpy(bytes.data(), &image, sizeof image);
  bytes.insert(bytes.end(), code.begin(), code.end());
  return bytes;
}

/// A file that is gone at the end of the scope.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::vector<std::uint8_t>& content) {
    std::string name = (std::filesystem::temp_directory_path() / "godwit-test-XXXXXX").string();
    const int fd = ::mkstemp(name.data());
    if (fd >= 0) ::close(fd);
    path_ = name;
    std::ofstream(path_, std::ios::binary)
        .write(reinterpret_cast<const char*>(content.data()),
               static_cast<std::streamsize>(content.size()));
  }
  ~TemporaryFile() { std::filesystem::remove(path_); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace godwit::testing
