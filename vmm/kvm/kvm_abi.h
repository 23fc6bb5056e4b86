// The kernel's KVM interface: the one header that includes <linux/kvm.h>. In C++ an empty struct
// has size 1, so the flexible arrays of linux-libc-dev 6.1 shift what follows them: wrong offsets,
// and wrong ioctl numbers, which carry the size. Redefining the macro as a zero-length array gives
// C's layout.
#pragma once

#include <linux/stddef.h>

#undef __DECLARE_FLEX_ARRAY
#define __DECLARE_FLEX_ARRAY(T, member) T member[0]  // NOLINT(bugprone-reserved-identifier)

#include <linux/kvm.h>
#include <linux/kvm_para.h>

static_assert(sizeof(kvm_cpuid2) == 8);
static_assert(sizeof(kvm_msrs) == 8);
static_assert(sizeof(kvm_msr_list) == 4);
static_assert(sizeof(kvm_xsave) == 4096);
static_assert(KVM_GET_SUPPORTED_CPUID == 0xc008ae05);
static_assert(KVM_SET_GSI_ROUTING == 0x4008ae6a);
