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
 * @need: bytes that are going to be locked
 *
 * Returns: false with @errp set if it is too small.
 */
bool kvm_prefault_memlock_allows(uint64_t need, Error **errp);

#endif
