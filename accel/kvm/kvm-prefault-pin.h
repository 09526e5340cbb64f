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
 *
 * Touches nothing.  Returns: false with @errp set if not.
 */
bool kvm_prefault_pin_possible(MemoryRegion *mr, Error **errp);

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

#endif
