/*
 * KVM pre-fault: pins of memory that is plugged in pieces (virtio-mem)
 *
 * A registered buffer is pinned or not as a whole, so each block that can be
 * unplugged gets a buffer of its own, in one ring per backend.
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bitmap.h"
#include "qemu/lockable.h"
#include "qemu/queue.h"
#include "exec/memory.h"
#include "kvm-prefault-pin.h"

#ifdef CONFIG_LINUX_IO_URING

#include <liburing.h>

typedef struct PinnedParts {
    MemoryRegion *mr;
    char *host;
    uint64_t size;
    uint64_t unit;
    unsigned long *pinned;
    struct io_uring ring;
    QLIST_ENTRY(PinnedParts) next;
} PinnedParts;

/*
 * The thread pins one block while the main thread lets go of another.  Taken
 * for one block at a time.
 */
static QemuMutex lock;
static QLIST_HEAD(, PinnedParts) all;

static void __attribute__((constructor)) init_lock(void)
{
    qemu_mutex_init(&lock);
}

static PinnedParts *find(MemoryRegion *mr)
{
    PinnedParts *parts;

    QLIST_FOREACH(parts, &all, next) {
        if (parts->mr == mr) {
            return parts;
        }
    }
    return NULL;
}

static PinnedParts *parts_new(MemoryRegion *mr, uint64_t unit, Error **errp)
{
    PinnedParts *parts = g_new0(PinnedParts, 1);
    uint64_t units = DIV_ROUND_UP(memory_region_size(mr), unit);

    parts->mr = mr;
    parts->host = memory_region_get_ram_ptr(mr);
    parts->size = memory_region_size(mr);
    parts->unit = unit;
    if (!kvm_prefault_pin_possible(mr, unit, errp) ||
        !kvm_prefault_ring_open(&parts->ring, units, errp)) {
        g_free(parts);
        return NULL;
    }
    parts->pinned = bitmap_new(units);
    kvm_prefault_pin_policy(mr);
    QLIST_INSERT_HEAD(&all, parts, next);
    return parts;
}

/* Register, or with @pin false unregister, one block.  Returns 0 or -errno */
static int set_unit(PinnedParts *parts, uint64_t index, bool pin)
{
    uint64_t offset = index * parts->unit;
    uint64_t size = MIN(parts->unit, parts->size - offset);
    struct iovec iov = {
        .iov_base = pin ? parts->host + offset : NULL,
        .iov_len = pin ? size : 0,
    };
    __u64 tag = 0;
    int ret;

    if (test_bit(index, parts->pinned) == pin) {
        return 0;
    }
    ret = io_uring_register_buffers_update_tag(&parts->ring, index, &iov,
                                               &tag, 1);
    kvm_prefault_pin_trace(parts->mr, offset, pin ? size : 0, ret);
    if (ret != 1) {
        return ret < 0 ? ret : -EIO;
    }
    if (pin) {
        set_bit(index, parts->pinned);
    } else {
        clear_bit(index, parts->pinned);
    }
    kvm_prefault_pin_count(pin ? size : -size);
    return 0;
}

static int pin_unit(MemoryRegion *mr, uint64_t unit, uint64_t index,
                    Error **errp)
{
    PinnedParts *parts;
    int ret;

    QEMU_LOCK_GUARD(&lock);
    parts = find(mr) ?: parts_new(mr, unit, errp);
    if (!parts) {
        return -EINVAL;
    }
    ret = set_unit(parts, index, true);
    if (ret < 0) {
        kvm_prefault_pin_failed(mr, index * unit, -ret, errp);
    }
    return ret;
}

bool kvm_prefault_pin_part(MemoryRegion *mr, uint64_t unit, uint64_t offset,
                           uint64_t size, Error **errp)
{
    uint64_t at;

    for (at = offset; at < offset + size; at += unit) {
        if (pin_unit(mr, unit, at / unit, errp) < 0) {
            return false;
        }
    }
    return true;
}

void kvm_prefault_unpin_part(MemoryRegion *mr, uint64_t offset, uint64_t size)
{
    PinnedParts *parts;
    uint64_t at;

    QEMU_LOCK_GUARD(&lock);
    parts = find(mr);
    if (parts) {
        for (at = offset; at < offset + size; at += parts->unit) {
            set_unit(parts, at / parts->unit, false);
        }
    }
}

void kvm_prefault_pin_parts_release(bool (*used)(MemoryRegion *mr))
{
    PinnedParts *parts, *tmp;
    uint64_t i;

    QEMU_LOCK_GUARD(&lock);
    QLIST_FOREACH_SAFE(parts, &all, next, tmp) {
        if (used && used(parts->mr)) {
            continue;
        }
        for (i = 0; i < DIV_ROUND_UP(parts->size, parts->unit); i++) {
            set_unit(parts, i, false);
        }
        QLIST_REMOVE(parts, next);
        kvm_prefault_ring_close(&parts->ring);
        g_free(parts->pinned);
        g_free(parts);
    }
}

#else /* !CONFIG_LINUX_IO_URING */

bool kvm_prefault_pin_part(MemoryRegion *mr, uint64_t unit, uint64_t offset,
                           uint64_t size, Error **errp)
{
    return kvm_prefault_pin_probe(errp);
}

void kvm_prefault_unpin_part(MemoryRegion *mr, uint64_t offset, uint64_t size)
{
}

void kvm_prefault_pin_parts_release(bool (*used)(MemoryRegion *mr))
{
}

#endif
