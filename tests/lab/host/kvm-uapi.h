/*
 * KVM's uapi that is newer than the build host's headers may be
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef LAB_KVM_UAPI_H
#define LAB_KVM_UAPI_H

#include <linux/kvm.h>
#include <stdint.h>

struct pre_fault {
    uint64_t gpa, size, flags, padding[5];
};

/* begins like struct kvm_userspace_memory_region */
struct region2 {
    uint64_t words[20];
};

#define PRE_FAULT_MEMORY        _IOWR(0xae, 0xd5, struct pre_fault)
#define SET_USER_MEMORY_REGION2 _IOW(0xae, 0x49, struct region2)

#endif
