/*
 * KVM pre-fault: host pages of guest RAM
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef ACCEL_KVM_PREFAULT_HOST_H
#define ACCEL_KVM_PREFAULT_HOST_H

#include "exec/memory.h"

/* kvm-prefault-host.c */

/**
 * kvm_prefault_host_release: let go of backends that are not visible any more
 */
void kvm_prefault_host_release(void);

/**
 * kvm_prefault_host_start: work on host pages in a thread
 * @populate: allocate them for writing; if huge pages were split, put those
 *     together again
 * @lock: lock them, which allocates what is missing, and with
 *     'pin-ram=longterm' pin them
 *
 * Ends with kvm_prefault_host_done() in the main loop.
 */
void kvm_prefault_host_start(bool populate, bool lock);

/**
 * kvm_prefault_host_resume: QEMU lives on after the guest's shutdown
 *
 * With -no-shutdown.  Work that the shutdown has cancelled is not taken up
 * again, but may be asked for.
 */
void kvm_prefault_host_resume(void);

/**
 * kvm_prefault_host_progress: bytes populated and locked
 *
 * Context: BQL held.
 */
void kvm_prefault_host_progress(uint64_t *populated, uint64_t *pinned);

/**
 * kvm_prefault_host_forget: memory is about to lose its pages, or to go
 * @mr: the backend's memory region
 *
 * It is unlocked, and not touched any more.  Waits for work that is being
 * done on it, 64 MiB per thread at most.
 */
void kvm_prefault_host_forget(MemoryRegion *mr, uint64_t offset,
                              uint64_t size);

/* kvm-prefault-hostmem.c */

/**
 * kvm_prefault_check_memory: check that the host has memory for all RAM
 *
 * Touches nothing.  Returns: false with @errp set if not.
 */
bool kvm_prefault_check_memory(Error **errp);

/**
 * kvm_prefault_check_memlock: check that all RAM may be locked
 *
 * Touches nothing.  Returns: false with @errp set if not.
 */
bool kvm_prefault_check_memlock(Error **errp);

/**
 * kvm_prefault_check_pin: check that all RAM may be pinned, but for limits
 *
 * Touches nothing.  Returns: false with @errp set if not.
 */
bool kvm_prefault_check_pin(Error **errp);

/**
 * kvm_prefault_memlock_limit: bytes that this process may lock
 *
 * Returns: false if there is no limit.
 */
bool kvm_prefault_memlock_limit(uint64_t *limit);

/**
 * kvm_prefault_no_numa_balancing: have the host's NUMA balancing spare @mr
 *
 * Its unmapping of pages is what takes mappings away from KVM.  The memory gets
 * the policy "local" in place of none, which places no page elsewhere
 * (vma_policy_mof() in Linux).  For memory without a policy of the user's.
 * A host that cannot does not balance either, so there is no error.
 */
void kvm_prefault_no_numa_balancing(MemoryRegion *mr);

/**
 * kvm_prefault_host_placed: whether it matters who allocates host pages
 *
 * Returns: true if a backend has a 'prealloc-context', whose threads are to
 * allocate its memory.
 */
bool kvm_prefault_host_placed(void);

/**
 * kvm_prefault_host_admits: check that the host has memory for a plug
 *
 * Touches nothing.  Returns: false with @errp set if it has not, or if it
 * must not be locked.
 */
bool kvm_prefault_host_admits(MemoryRegion *mr, uint64_t offset,
                              uint64_t size, Error **errp);

#endif
