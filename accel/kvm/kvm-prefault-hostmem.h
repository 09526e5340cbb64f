/*
 * KVM pre-fault: how much memory the host has, and may be locked
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef ACCEL_KVM_PREFAULT_HOSTMEM_H
#define ACCEL_KVM_PREFAULT_HOSTMEM_H

/**
 * kvm_prefault_resident: bytes of a mapping that have pages already
 */
uint64_t kvm_prefault_resident(char *addr, uint64_t size);

/**
 * kvm_prefault_memory_available: check that the host has free pages
 * @page_size: 4096, or the size of huge pages of hugetlbfs
 * @need: bytes that are going to be allocated
 *
 * Returns: false with @errp set if it has not.
 */
bool kvm_prefault_memory_available(uint64_t page_size, uint64_t need,
                                   Error **errp);

/**
 * kvm_prefault_memlock_allows: check the limit of locked memory
 * @field: which of two sums the limit is for, by its name in
 *     /proc/self/status: VmLck (mlock) or VmPin (io_uring buffers)
 * @need: bytes that are going to be added
 *
 * Returns: false with @errp set if it is too small.
 */
bool kvm_prefault_memlock_allows(const char *field, uint64_t need,
                                 Error **errp);

#endif
