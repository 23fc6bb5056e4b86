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

#ifndef KVM_PRE_FAULT_MEMORY  // Linux 6.11; not in Debian 12's headers
#define KVM_CAP_PRE_FAULT_MEMORY 236
struct kvm_pre_fault_memory {
  __u64 gpa;
  __u64 size;
  __u64 flags;
  __u64 padding[5];
};
#define KVM_PRE_FAULT_MEMORY _IOWR(KVMIO, 0xd5, struct kvm_pre_fault_memory)
#endif
