/*
 * KVM pre-fault: ranges of guest-physical memory and the work on them
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "kvm-prefault-ranges.h"

#define SMALL_PAGE (4ULL << 10)
#define LARGE_PAGE (2ULL << 20)

void kvm_prefault_ranges_init(KVMPrefaultRanges *r)
{
    QTAILQ_INIT(&r->ranges);
    QTAILQ_INIT(&r->work);
    QTAILQ_INIT(&r->taken);
    r->work_bytes = 0;
}

static KVMPrefaultChunk *chunk_new(KVMPrefaultRange *range, uint64_t gpa,
                                   uint64_t size)
{
    KVMPrefaultChunk *chunk = g_new0(KVMPrefaultChunk, 1);

    chunk->range = range;
    chunk->as_id = range->as_id;
    chunk->ram = range->ram;
    chunk->large = range->large;
    chunk->gpa = gpa;
    chunk->size = size;
    return chunk;
}

/* Bytes from @gpa to the next multiple of @unit (a power of two) */
static uint64_t bytes_to_boundary(uint64_t gpa, uint64_t unit)
{
    return unit - (gpa & (unit - 1));
}

static void queue_range(KVMPrefaultRanges *r, KVMPrefaultRange *range)
{
    uint64_t gpa = range->gpa;
    uint64_t left = range->size;

    range->populated = 0;
    while (left) {
        uint64_t size = MIN(left, bytes_to_boundary(gpa,
                                                    KVM_PREFAULT_CHUNK_SIZE));
        KVMPrefaultChunk *chunk = chunk_new(range, gpa, size);

        QTAILQ_INSERT_TAIL(&r->work, chunk, next);
        gpa += size;
        left -= size;
    }
    r->work_bytes += range->size;
}

/* Forget work on @range, or on all ranges if NULL */
static void drop_work(KVMPrefaultRanges *r, KVMPrefaultRange *range)
{
    KVMPrefaultChunk *chunk, *tmp;

    QTAILQ_FOREACH_SAFE(chunk, &r->work, next, tmp) {
        if (!range || chunk->range == range) {
            r->work_bytes -= chunk->size;
            QTAILQ_REMOVE(&r->work, chunk, next);
            g_free(chunk);
        }
    }
    QTAILQ_FOREACH(chunk, &r->taken, next) {
        if (!range || chunk->range == range) {
            chunk->range = NULL;
        }
    }
}

void kvm_prefault_ranges_add(KVMPrefaultRanges *r, int as_id, uint64_t gpa,
                             uint64_t size, bool ram, bool large,
                             const char *name)
{
    KVMPrefaultRange *range = g_new0(KVMPrefaultRange, 1);

    range->as_id = as_id;
    range->gpa = gpa;
    range->size = size;
    range->ram = ram;
    range->large = large;
    range->name = g_strdup(name);
    QTAILQ_INSERT_TAIL(&r->ranges, range, next);
    queue_range(r, range);
}

bool kvm_prefault_ranges_del(KVMPrefaultRanges *r, int as_id, uint64_t gpa,
                             uint64_t size)
{
    KVMPrefaultRange *range;

    QTAILQ_FOREACH(range, &r->ranges, next) {
        if (range->as_id == as_id && range->gpa == gpa &&
            range->size == size) {
            drop_work(r, range);
            QTAILQ_REMOVE(&r->ranges, range, next);
            g_free(range->name);
            g_free(range);
            return true;
        }
    }
    return false;
}

void kvm_prefault_ranges_invalidate(KVMPrefaultRanges *r)
{
    KVMPrefaultRange *range;

    drop_work(r, NULL);
    QTAILQ_FOREACH(range, &r->ranges, next) {
        queue_range(r, range);
    }
}

void kvm_prefault_ranges_invalidate_devices(KVMPrefaultRanges *r)
{
    KVMPrefaultRange *range;

    QTAILQ_FOREACH(range, &r->ranges, next) {
        if (!range->ram) {
            drop_work(r, range);
            queue_range(r, range);
        }
    }
}

KVMPrefaultChunk *kvm_prefault_ranges_take(KVMPrefaultRanges *r, int as_id,
                                           uint64_t max)
{
    KVMPrefaultChunk *chunk, *rest;
    uint64_t size;

    QTAILQ_FOREACH(chunk, &r->work, next) {
        if (chunk->as_id == as_id) {
            break;
        }
    }
    if (!chunk) {
        return NULL;
    }

    size = MIN(chunk->size, bytes_to_boundary(chunk->gpa, max));
    if (size < chunk->size) {
        rest = chunk_new(chunk->range, chunk->gpa + size, chunk->size - size);
        QTAILQ_INSERT_AFTER(&r->work, chunk, rest, next);
        chunk->size = size;
    }
    QTAILQ_REMOVE(&r->work, chunk, next);
    QTAILQ_INSERT_TAIL(&r->taken, chunk, next);
    r->work_bytes -= chunk->size;
    return chunk;
}

void kvm_prefault_ranges_put(KVMPrefaultRanges *r, KVMPrefaultChunk *chunk,
                             uint64_t done, bool drop)
{
    assert(done <= chunk->size);
    QTAILQ_REMOVE(&r->taken, chunk, next);

    if (chunk->range) {
        chunk->range->populated += done;
        chunk->gpa += done;
        chunk->size -= done;
        if (chunk->size && !drop) {
            QTAILQ_INSERT_HEAD(&r->work, chunk, next);
            r->work_bytes += chunk->size;
            return;
        }
    }
    g_free(chunk);
}

bool kvm_prefault_ranges_idle(const KVMPrefaultRanges *r)
{
    return QTAILQ_EMPTY(&r->work) && QTAILQ_EMPTY(&r->taken);
}

uint64_t kvm_prefault_ranges_count(const KVMPrefaultRanges *r,
                                   uint64_t *populated)
{
    KVMPrefaultRange *range;
    uint64_t total = 0, mapped = 0;

    QTAILQ_FOREACH(range, &r->ranges, next) {
        if (range->ram) {
            total += range->size;
            mapped += range->populated;
        }
    }
    if (populated) {
        *populated = mapped;
    }
    return total;
}

uint64_t kvm_prefault_ranges_mapped(const KVMPrefaultRanges *r)
{
    KVMPrefaultRange *range;
    uint64_t mapped = 0;

    QTAILQ_FOREACH(range, &r->ranges, next) {
        mapped += range->populated;
    }
    return mapped;
}

uint64_t kvm_prefault_touch_step(const KVMPrefaultTouch *touch, uint64_t done,
                                 uint64_t *stride)
{
    uint64_t gpa = touch->gpa + done;
    uint64_t left = touch->size - done;
    uint64_t to_boundary = bytes_to_boundary(gpa, LARGE_PAGE);

    *stride = SMALL_PAGE;
    if (!touch->large || left < LARGE_PAGE) {
        return left;
    }
    if (to_boundary < LARGE_PAGE) {
        return MIN(to_boundary, left);
    }
    *stride = LARGE_PAGE;
    return left - left % LARGE_PAGE;
}

unsigned kvm_prefault_pick_threads(unsigned requested, unsigned vcpus,
                                   unsigned host_cpus)
{
    unsigned threads = requested ? requested : MIN(vcpus, host_cpus);

    return MAX(1, MIN(threads, vcpus));
}
