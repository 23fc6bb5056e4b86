#include "vmm/boot/elf.h"

#include <elf.h>
#include <fmt/core.h>

#include <algorithm>

#include "vmm/boot/bytes.h"
#include "vmm/boot/entry.h"
#include "vmm/boot/layout.h"

namespace godwit::boot {
namespace {

constexpr std::uint32_t kXenPhys32Entry = 18;  // XEN_ELFNOTE_PHYS32_ENTRY
constexpr std::uint64_t kMaxNotes = 64 * kKiB;

std::uint64_t align4(std::uint64_t value) { return (value + 3) & ~std::uint64_t{3}; }

/// Notes are {name size, descriptor size, type, name, descriptor}, each padded to 4 bytes.
std::optional<std::uint32_t> find_pvh_entry(std::span<const std::byte> notes) {
  constexpr char kOwner[] = "Xen";
  notes = notes.first(std::min<std::size_t>(notes.size(), kMaxNotes));
  std::uint64_t at = 0;
  while (const auto header = peek<Elf64_Nhdr>(notes, at)) {
    const std::uint64_t name_at = at + sizeof *header;
    const std::uint64_t value_at = name_at + align4(header->n_namesz);
    const auto name = slice(notes, name_at, header->n_namesz);
    const auto value = slice(notes, value_at, header->n_descsz);
    if (!name || !value) return std::nullopt;
    if (header->n_type == kXenPhys32Entry && name->size() == sizeof kOwner &&
        std::memcmp(name->data(), kOwner, sizeof kOwner) == 0) {
      // 4 or 8 bytes, by who wrote it; the entry is a 32-bit address either way.
      return peek<std::uint32_t>(*value, 0);
    }
    at = value_at + align4(header->n_descsz);
  }
  return std::nullopt;
}

template <typename FileHeader, typename ProgramHeader>
Elf parse(std::span<const std::byte> image, std::uint16_t machine) {
  const auto header = peek<FileHeader>(image, 0);
  if (!header) throw ImageError("truncated ELF header");
  if (header->e_machine != machine || header->e_ident[EI_DATA] != ELFDATA2LSB) {
    throw ImageError("ELF image for another machine than x86");
  }
  if (header->e_type != ET_EXEC && header->e_type != ET_DYN) {
    throw ImageError("ELF image that is not executable");
  }
  if (header->e_phentsize != sizeof(ProgramHeader)) {
    throw ImageError("ELF program headers of unknown size");
  }
  Elf elf;
  elf.entry = header->e_entry;
  for (unsigned i = 0; i < header->e_phnum; ++i) {
    const std::uint64_t at = header->e_phoff + i * sizeof(ProgramHeader);
    const auto program = at < header->e_phoff ? std::nullopt : peek<ProgramHeader>(image, at);
    if (!program) throw ImageError("ELF program headers outside the file");
    if (program->p_type != PT_LOAD && program->p_type != PT_NOTE) continue;
    const auto content = slice(image, program->p_offset, program->p_filesz);
    if (!content) throw ImageError(fmt::format("truncated: ELF segment {} is not all there", i));
    if (program->p_type == PT_NOTE) {
      if (!elf.pvh_entry) elf.pvh_entry = find_pvh_entry(*content);
    } else if (program->p_memsz < program->p_filesz) {
      throw ImageError(fmt::format("ELF segment {} is larger in the file than in memory", i));
    } else if (program->p_memsz != 0) {
      elf.segments.push_back(
          {program->p_offset, program->p_filesz, program->p_paddr, program->p_memsz});
    }
  }
  if (elf.segments.empty()) throw ImageError("ELF image without a segment to load");
  return elf;
}

}  // namespace

bool is_elf(std::span<const std::byte> image) {
  return image.size() >= SELFMAG && std::memcmp(image.data(), ELFMAG, SELFMAG) == 0;
}

Elf parse_elf(std::span<const std::byte> image) {
  if (!is_elf(image)) throw ImageError("not an ELF image");
  const auto kind = peek<std::uint8_t>(image, EI_CLASS);
  if (kind == ELFCLASS64) return parse<Elf64_Ehdr, Elf64_Phdr>(image, EM_X86_64);
  if (kind == ELFCLASS32) return parse<Elf32_Ehdr, Elf32_Phdr>(image, EM_386);
  throw ImageError("ELF image of unknown class");
}

std::uint64_t load_segments(const Elf& elf, std::span<const std::byte> image,
                            memory::GuestMemory& memory) {
  std::uint64_t end = 0;
  for (const ElfSegment& segment : elf.segments) {
    if (segment.address < kHighMemoryStart) {
      throw ImageError(fmt::format("a segment at {:#x}: below 1 MiB is not free", segment.address));
    }
    if (!memory.readable(segment.address, segment.memory_size)) {
      throw ImageError(
          fmt::format("needs memory at {:#x} ({} MiB), which the guest does not have; "
                      "give it more memory",
                      segment.address, (segment.memory_size + kMiB - 1) / kMiB));
    }
    const auto content = slice(image, segment.file_offset, segment.file_size);
    if (!content || !memory.write(segment.address, *content)) {
      throw ImageError("a segment outside the file");
    }
    end = std::max(end, segment.address + segment.memory_size);
  }
  return end;
}

}  // namespace godwit::boot
