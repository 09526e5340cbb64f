/*
 * KVM pre-fault: guest RAM that cannot be moved ('pin-ram=longterm')
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef ACCEL_KVM_PREFAULT_PIN_H
#define ACCEL_KVM_PREFAULT_PIN_H

#include "exec/memory.h"

/**
 * kvm_prefault_pin_probe: check that this process may pin memory
 *
 * Returns: false with @errp set if io_uring is not there, or is forbidden.
 */
bool kvm_prefault_pin_probe(Error **errp);

/**
 * kvm_prefault_pin_possible: check that the kernel can pin this memory
 * @mr: RAM of a memory backend
 * @unit: size of the blocks that it is plugged in, 0 if it is there as a whole
 *
 * Touches nothing.  Returns: false with @errp set if not.
 */
bool kvm_prefault_pin_possible(MemoryRegion *mr, uint64_t unit,
                               Error **errp);

/**
 * kvm_prefault_pin_advise: warn of what unmaps pinned memory on this host
 * @mr: RAM of a memory backend
 *
 * Context: BQL held.
 */
void kvm_prefault_pin_advise(MemoryRegion *mr);

/**
 * kvm_prefault_pin_block: pin a memory backend's pages where they are now
 * @mr: its memory region
 * @host: where it is mapped; the pages have been populated
 * @size: its size in bytes
 * @cancelled: set by another thread to have this end soon, without an error
 *
 * What is pinned already stays as it is.  Pages move out of memory that must
 * stay movable (ZONE_MOVABLE, CMA) first, so this comes before KVM maps them.
 *
 * Context: the thread that works on host pages, without the BQL; the caller
 * keeps the backend alive.
 *
 * Returns: false with @errp set on failure; nothing of @mr is pinned then.
 */
bool kvm_prefault_pin_block(MemoryRegion *mr, char *host, uint64_t size,
                            const bool *cancelled, Error **errp);

/**
 * kvm_prefault_pin_release: let go of backends that are not used any more
 * @used: tells whether a memory region is, NULL if none is
 *
 * Context: BQL held, no thread works on host pages.
 */
void kvm_prefault_pin_release(bool (*used)(MemoryRegion *mr));

/**
 * kvm_prefault_pin_bytes: bytes that are pinned now
 *
 * Context: any.
 */
uint64_t kvm_prefault_pin_bytes(void);

/* kvm-prefault-pinparts.c */

/**
 * kvm_prefault_pin_part: pin blocks that have been plugged
 * @mr: the memory region of a backend with a RamDiscardManager
 * @unit: size of a block
 * @offset: where the first block begins
 * @size: a multiple of @unit, or up to the end of @mr
 *
 * Context: the thread that works on host pages; nobody discards these blocks
 * meanwhile.
 *
 * Returns: false with @errp set on failure; blocks before that are pinned.
 */
bool kvm_prefault_pin_part(MemoryRegion *mr, uint64_t unit, uint64_t offset,
                           uint64_t size, Error **errp);

/**
 * kvm_prefault_unpin_part: let go of blocks, pinned or not
 *
 * Context: BQL held, no thread works on these blocks.
 */
void kvm_prefault_unpin_part(MemoryRegion *mr, uint64_t offset,
                             uint64_t size);

/**
 * kvm_prefault_pin_parts_release: as kvm_prefault_pin_release()
 */
void kvm_prefault_pin_parts_release(bool (*used)(MemoryRegion *mr));

/* What the two files have in common */

struct io_uring;

/**
 * kvm_prefault_ring_open: make a ring with room for buffers
 * @buffers: how many; none of them is there yet
 *
 * Returns: false with @errp set if it cannot be made.
 */
bool kvm_prefault_ring_open(struct io_uring *ring, unsigned buffers,
                            Error **errp);

/**
 * kvm_prefault_ring_close: let go of all buffers at once
 */
void kvm_prefault_ring_close(struct io_uring *ring);

/**
 * kvm_prefault_pin_policy: keep NUMA balancing away from pinned memory
 */
void kvm_prefault_pin_policy(MemoryRegion *mr);

/**
 * kvm_prefault_pin_failed: say why memory at @offset could not be pinned
 * @err: positive errno
 */
void kvm_prefault_pin_failed(MemoryRegion *mr, uint64_t offset, int err,
                             Error **errp);

/**
 * kvm_prefault_pin_count: so many bytes more (or less) are pinned
 */
void kvm_prefault_pin_count(int64_t bytes);

/**
 * kvm_prefault_pin_trace: trace what has been pinned, or with 0 bytes let go
 */
void kvm_prefault_pin_trace(MemoryRegion *mr, uint64_t offset, uint64_t size,
                            int ret);

#endif
