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

static KVMPrefaultRange *range_new(KVMPrefaultRanges *r, int as_id,
                                   uint64_t gpa, uint64_t size, bool ram,
                                   bool large, const char *name)
{
    KVMPrefaultRange *range = g_new0(KVMPrefaultRange, 1);

    range->as_id = as_id;
    range->gpa = gpa;
    range->size = size;
    range->ram = ram;
    range->large = large;
    range->name = g_strdup(name);
    QTAILQ_INSERT_TAIL(&r->ranges, range, next);
    return range;
}

static void range_free(KVMPrefaultRanges *r, KVMPrefaultRange *range)
{
    QTAILQ_REMOVE(&r->ranges, range, next);
    g_free(range->name);
    g_free(range);
}

void kvm_prefault_ranges_add(KVMPrefaultRanges *r, int as_id, uint64_t gpa,
                             uint64_t size, bool ram, bool large,
                             const char *name)
{
    queue_range(r, range_new(r, as_id, gpa, size, ram, large, name));
}

bool kvm_prefault_ranges_del(KVMPrefaultRanges *r, int as_id, uint64_t gpa,
                             uint64_t size)
{
    KVMPrefaultRange *range;

    QTAILQ_FOREACH(range, &r->ranges, next) {
        if (range->as_id == as_id && range->gpa == gpa &&
            range->size == size) {
            drop_work(r, range);
            range_free(r, range);
            return true;
        }
    }
    return false;
}

static void hand_over_work(KVMPrefaultChunkList *list, KVMPrefaultRange *from,
                           KVMPrefaultRange *to)
{
    KVMPrefaultChunk *chunk;

    QTAILQ_FOREACH(chunk, list, next) {
        if (chunk->range == from) {
            chunk->range = to;
        }
    }
}

/* The part that ends where @range begins, or begins where it ends */
static KVMPrefaultRange *find_neighbour(KVMPrefaultRanges *r,
                                        const KVMPrefaultRange *range)
{
    KVMPrefaultRange *other;

    QTAILQ_FOREACH(other, &r->ranges, next) {
        if (other->part && other->as_id == range->as_id &&
            (other->gpa + other->size == range->gpa ||
             range->gpa + range->size == other->gpa) &&
            g_str_equal(other->name, range->name)) {
            return other;
        }
    }
    return NULL;
}

static void join(KVMPrefaultRanges *r, KVMPrefaultRange *range)
{
    KVMPrefaultRange *other;

    while ((other = find_neighbour(r, range))) {
        hand_over_work(&r->work, other, range);
        hand_over_work(&r->taken, other, range);
        range->gpa = MIN(range->gpa, other->gpa);
        range->size += other->size;
        range->populated += other->populated;
        range_free(r, other);
    }
}

void kvm_prefault_ranges_add_part(KVMPrefaultRanges *r, int as_id,
                                  uint64_t gpa, uint64_t size, bool large,
                                  const char *name)
{
    KVMPrefaultRange *range;

    kvm_prefault_ranges_cut(r, as_id, gpa, size);
    range = range_new(r, as_id, gpa, size, true, large, name);
    range->part = true;
    queue_range(r, range);
    join(r, range);
}

/* What stays of @range; work on it begins anew unless there was none left */
static void keep_part(KVMPrefaultRanges *r, const KVMPrefaultRange *range,
                      uint64_t gpa, uint64_t end)
{
    KVMPrefaultRange *part;

    if (gpa >= end) {
        return;
    }
    part = range_new(r, range->as_id, gpa, end - gpa, range->ram,
                     range->large, range->name);
    part->part = true;
    if (range->populated == range->size) {
        part->populated = part->size;
    } else {
        queue_range(r, part);
    }
}

void kvm_prefault_ranges_cut(KVMPrefaultRanges *r, int as_id, uint64_t gpa,
                             uint64_t size)
{
    KVMPrefaultRange *range, *tmp;
    uint64_t end = gpa + size;

    QTAILQ_FOREACH_SAFE(range, &r->ranges, next, tmp) {
        if (!range->part || range->as_id != as_id || range->gpa >= end ||
            range->gpa + range->size <= gpa) {
            continue;
        }
        drop_work(r, range);
        keep_part(r, range, range->gpa, gpa);
        keep_part(r, range, end, range->gpa + range->size);
        range_free(r, range);
    }
}

void kvm_prefault_ranges_invalidate(KVMPrefaultRanges *r)
{
    KVMPrefaultRange *range;

    drop_work(r, NULL);
    QTAILQ_FOREACH(range, &r->ranges, next) {
        queue_range(r, range);
    }
}

static void invalidate_range(KVMPrefaultRanges *r, KVMPrefaultRange *range)
{
    drop_work(r, range);
    queue_range(r, range);
}

void kvm_prefault_ranges_invalidate_devices(KVMPrefaultRanges *r)
{
    KVMPrefaultRange *range;

    QTAILQ_FOREACH(range, &r->ranges, next) {
        if (!range->ram) {
            invalidate_range(r, range);
        }
    }
}

void kvm_prefault_ranges_invalidate_incomplete(KVMPrefaultRanges *r)
{
    KVMPrefaultRange *range;

    QTAILQ_FOREACH(range, &r->ranges, next) {
        if (range->ram && range->populated < range->size) {
            invalidate_range(r, range);
        }
    }
}

void kvm_prefault_ranges_drop(KVMPrefaultRanges *r, const char *name)
{
    KVMPrefaultRange *range;

    QTAILQ_FOREACH(range, &r->ranges, next) {
        if (range->ram && g_str_equal(range->name, name)) {
            drop_work(r, range);
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

void kvm_prefault_ranges_trim(KVMPrefaultRanges *r, KVMPrefaultChunk *chunk,
                              uint64_t size)
{
    KVMPrefaultChunk *rest;

    assert(size && size <= chunk->size);
    if (size < chunk->size && chunk->range) {
        rest = chunk_new(chunk->range, chunk->gpa + size, chunk->size - size);
        QTAILQ_INSERT_HEAD(&r->work, rest, next);
        r->work_bytes += rest->size;
    }
    chunk->size = size;
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

/* The end of a hole that @at is in, or @at */
static uint64_t leave_hole(const KVMPrefaultHole *holes, unsigned nr,
                           uint64_t at)
{
    unsigned i;

    for (i = 0; i < nr; i++) {
        if (holes[i].start <= at && at < holes[i].start + holes[i].size) {
            return holes[i].start + holes[i].size;
        }
    }
    return at;
}

uint64_t kvm_prefault_next_piece(const KVMPrefaultHole *holes, unsigned nr,
                                 uint64_t *at, uint64_t end, uint64_t max)
{
    uint64_t size, behind;
    unsigned i;

    while ((behind = leave_hole(holes, nr, *at)) != *at) {
        *at = behind;
    }
    if (*at >= end) {
        return 0;
    }
    size = MIN(max, end - *at);
    for (i = 0; i < nr; i++) {
        if (holes[i].start > *at) {
            size = MIN(size, holes[i].start - *at);
        }
    }
    return size;
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
