// Entry of our guests: from PVH's 32-bit protected mode, or an application processor's real mode,
// to C++ in long mode. The first 8 GiB are mapped one to one.
#include "trampoline.h"

  .section .note.Xen, "a", @note
  .balign 4
  .long 4, 8, 18               // name size, value size, XEN_ELFNOTE_PHYS32_ENTRY
  .asciz "Xen"
  .quad pvh_start

  .text
  .code32
  .globl pvh_start
pvh_start:                     // EBX: hvm_start_info (Xen docs/misc/pvh.pandoc)
  cld
  movl $boot_stack_end, %esp
  movl %ebx, %edi
  movl $start64, %esi
  jmp long_mode

// To the 64-bit address ESI; EDI and ESP stay.
long_mode:
  lgdt gdt_pointer
  movl $pml4, %eax
  movl %eax, %cr3
  movl $0x20, %eax             // CR4.PAE
  movl %eax, %cr4
  movl $0xc0000080, %ecx       // EFER.LME
  movl $0x100, %eax
  xorl %edx, %edx
  wrmsr
  movl $0x80000011, %eax       // CR0: PG, ET, PE
  movl %eax, %cr0
  ljmp $0x8, $1f
  .code64
1:
  movl $0x10, %eax
  movl %eax, %ds
  movl %eax, %es
  movl %eax, %ss
  movl %esi, %esi
  jmp *%rsi

start64:
  movl %edi, %edi
  call guest_start
2:
  hlt
  jmp 2b

// Copied to kTrampoline, which the start-up IPI names: position does not matter, but for the
// pointer that is found by its distance from the start.
  .code16
  .globl trampoline_begin, trampoline_end
trampoline_begin:
  cli
  cld
  movw %cs, %ax
  movw %ax, %ds
  lgdtl trampoline_gdt - trampoline_begin
  movl %cr0, %eax
  orl $1, %eax
  movl %eax, %cr0
  ljmpl $0x18, $ap_start32
trampoline_gdt:
  .word gdt_end - gdt - 1
  .long gdt
trampoline_end:

  .code32
ap_start32:
  movl $0x10, %eax
  movl %eax, %ds
  movl %eax, %ss
  movl $ap_stack_end, %esp
  movl $ap_start64, %esi
  jmp long_mode
  .code64
ap_start64:
  call guest_start_ap
3:
  hlt
  jmp 3b

// Vectors 0-31, 16 bytes each: error code (or 0), vector, then the common end.
  .balign 16
  .globl exception_stubs
exception_stubs:
  .set vector, 0
  .rept 32
  .balign 16
  .if (vector != 8) && ((vector < 10) || (vector > 14)) && (vector != 17) && (vector != 21)
  pushq $0
  .endif
  pushq $vector
  jmp exception_common
  .set vector, vector + 1
  .endr
exception_common:
  movq 0(%rsp), %rdi           // vector
  movq 8(%rsp), %rsi           // error code
  movq 16(%rsp), %rdx          // RIP
  movq %cr2, %rcx
  call guest_exception
4:
  hlt
  jmp 4b

// Waits for an interrupt. STI holds back interrupts until after HLT, but an emulated CPU may forget that in
// between: an interrupt that comes before the HLT skips it, so that none is slept through.
  .globl wait_for_interrupt
wait_for_interrupt:
  sti
about_to_halt:
  hlt
halted:
  cli
  ret

// The timer: its only effect is to end a HLT.
  .globl timer_interrupt
timer_interrupt:
  pushq %rax
  leaq about_to_halt(%rip), %rax
  cmpq %rax, 8(%rsp)           // RIP
  jne 5f
  leaq halted(%rip), %rax
  movq %rax, 8(%rsp)
5:
  movl $0xfee000b0, %eax       // EOI
  movl $0, (%rax)
  popq %rax
  iretq

  .data
  .balign 16
gdt:
  .quad 0
  .quad 0x00af9b000000ffff     // 0x08: 64-bit code
  .quad 0x00cf93000000ffff     // 0x10: data
  .quad 0x00cf9b000000ffff     // 0x18: 32-bit code
gdt_end:
gdt_pointer:
  .word gdt_end - gdt - 1
  .long gdt

// Written at assembly time: filling 4096 entries by emulated instructions would take milliseconds.
  .balign 4096
pml4:
  .quad pdpt + 3
  .fill 511, 8, 0
pdpt:
  .set gib, 0
  .rept 8
  .quad page_directories + gib * 4096 + 3
  .set gib, gib + 1
  .endr
  .fill 504, 8, 0
page_directories:
  .set page, 0
  .rept 8 * 512
  .quad page * 0x200000 + 0x83 // present, writable, 2 MiB
  .set page, page + 1
  .endr

  .bss
  .balign 16
  .skip 16384
boot_stack_end:
  .skip 16384
ap_stack_end:

  .section .note.GNU-stack, "", @progbits
