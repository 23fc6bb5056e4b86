// Guest pages as frames of a Wire: sendmsg straight out of guest RAM, readv straight into it. Free
// functions over one connection; a thread each may do this on connections of its own.
#pragma once

#include <span>
#include <vector>

#include "migration/wire.h"
#include "vmm/memory/guest_memory.h"

namespace godwit::migration {

/// Pages frames; heeds the peer before each.
void send_pages(Wire& wire, const memory::GuestMemory& memory,
                std::span<const memory::PageRange> ranges);
/// Zero frames.
void send_zero(Wire& wire, std::span<const memory::PageRange> ranges);

/// The first part of a Pages frame's payload: the ranges whose bytes follow, checked against the
/// frame's length and RAM of `pages` pages.
std::vector<memory::PageRange> receive_page_table(Wire& wire, const FrameHeader& header,
                                                  std::uint64_t pages);
/// Takes a Pages frame into RAM.
void receive_pages(Wire& wire, const FrameHeader& header, memory::GuestMemory& memory);
/// Takes a Zero frame: the pages become holes.
void receive_zero(Wire& wire, const FrameHeader& header, memory::GuestMemory& memory);

}  // namespace godwit::migration
