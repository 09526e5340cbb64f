/*
 * KVM pre-fault: which of QEMU's memory is guest RAM, and which of it is new
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef ACCEL_KVM_PREFAULT_BLOCKS_H
#define ACCEL_KVM_PREFAULT_BLOCKS_H

#include "exec/memory.h"
#include "system/hostmem.h"
#include "kvm-prefault-ranges.h"

/* RAM of a memory backend: all of it, or a part that a device has plugged */
typedef struct KVMPrefaultBlock {
    HostMemoryBackend *backend;
    char *host;
    uint64_t size;
    uint64_t page_size;
    /* what is plugged and unplugged at a time; 0 if it stays as it is */
    uint64_t unit;
    int fd;
    unsigned threads;
} KVMPrefaultBlock;

/**
 * kvm_prefault_blocks: all guest RAM that is there now
 *
 * What a RamDiscardManager (virtio-mem) has unplugged is left out.
 *
 * Context: BQL held.
 * Returns: an array of KVMPrefaultBlock to be freed; it holds no references.
 */
GArray *kvm_prefault_blocks(void);

/**
 * kvm_prefault_blocks_new: guest RAM that has come since it was asked for
 * @keep: whether it shall be there next time as well
 *
 * Context: BQL held.
 * Returns: as kvm_prefault_blocks().
 */
GArray *kvm_prefault_blocks_new(bool keep);

/**
 * kvm_prefault_blocks_pending: what a part of a backend would need, together
 * with what has come of the backend and is not there yet
 *
 * A device tells of what it plugs slot by slot, before any of it is allocated.
 *
 * Context: BQL held.
 * Returns: bytes; a part that has come already counts once.
 */
uint64_t kvm_prefault_blocks_pending(MemoryRegion *mr, uint64_t offset,
                                     uint64_t size);

/**
 * kvm_prefault_blocks_forget: memory that is new is not there any more
 * @block: all of it, or a part
 *
 * Context: BQL held.
 */
void kvm_prefault_blocks_forget(const KVMPrefaultBlock *block);

/**
 * kvm_prefault_blocks_bytes: the sizes of all blocks together
 *
 * Context: BQL held.
 */
uint64_t kvm_prefault_blocks_bytes(void);

/**
 * kvm_prefault_blocks_has: whether guest RAM comes from @mr
 *
 * Context: BQL held.
 */
bool kvm_prefault_blocks_has(MemoryRegion *mr);

/**
 * kvm_prefault_blocks_managed: whether a device plugs and unplugs guest RAM
 *
 * Context: BQL held.
 */
bool kvm_prefault_blocks_managed(void);

/**
 * kvm_prefault_block: the block that is @size bytes at @offset of @mr
 */
KVMPrefaultBlock kvm_prefault_block(MemoryRegion *mr, uint64_t offset,
                                    uint64_t size);

/**
 * kvm_prefault_block_is_hugetlb: whether its pages are those of hugetlbfs
 */
bool kvm_prefault_block_is_hugetlb(const KVMPrefaultBlock *block);

/**
 * kvm_prefault_block_piece: find memory to be worked on next
 * @holes: array of KVMPrefaultHole, addresses in QEMU
 * @done: bytes of @block that have been dealt with; moved to behind a hole
 * @max: most bytes to return
 *
 * Returns: bytes at @done that are not in a hole, 0 if none is left.
 */
uint64_t kvm_prefault_block_piece(const KVMPrefaultBlock *block,
                                  const GArray *holes, uint64_t *done,
                                  uint64_t max);

/**
 * kvm_prefault_host_track: a memory backend is (no longer) guest-visible
 * @mr: the backend's memory region
 */
void kvm_prefault_host_track(MemoryRegion *mr, bool visible);

/**
 * kvm_prefault_host_commit: let go of backends that have left the guest
 *
 * Not before the end of a memory transaction, in which RAM goes and comes when
 * a board changes the slots that it is in.
 * Context: BQL held.
 */
void kvm_prefault_host_commit(void);

/**
 * kvm_prefault_host_plugged: a part of a backend has got memory
 * @mr: the backend's memory region, which has a RamDiscardManager
 */
void kvm_prefault_host_plugged(MemoryRegion *mr, uint64_t offset,
                               uint64_t size);

#endif
