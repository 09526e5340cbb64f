/*
 * KVM pre-fault: ranges of guest-physical memory and the work on them
 *
 * Plain arithmetic and lists, without KVM, so that it can be tested alone.
 * The owner serializes all calls (in QEMU: the BQL).
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef ACCEL_KVM_PREFAULT_RANGES_H
#define ACCEL_KVM_PREFAULT_RANGES_H

#include "qemu/queue.h"

/*
 * One piece of work.  Boundaries are multiples of this, so that no two
 * threads fill the same page of second-level entries and no huge page lies
 * in two pieces.
 */
#define KVM_PREFAULT_CHUNK_SIZE (64ULL << 20)

typedef struct KVMPrefaultRange {
    int as_id;
    uint64_t gpa;
    uint64_t size;
    uint64_t populated;
    /* RAM of a memory backend; else ROM, flash or device RAM */
    bool ram;
    /* backed by huge pages that KVM can map as such, but at its ends */
    bool large;
    /* part of a slot, the rest of which has no memory now */
    bool part;
    char *name;
    QTAILQ_ENTRY(KVMPrefaultRange) next;
} KVMPrefaultRange;

typedef struct KVMPrefaultChunk {
    /* NULL once the range has gone or become stale under a taken chunk */
    KVMPrefaultRange *range;
    int as_id;
    bool ram, large;
    uint64_t gpa;
    uint64_t size;
    QTAILQ_ENTRY(KVMPrefaultChunk) next;
} KVMPrefaultChunk;

/* What a vCPU is told to touch, all within one piece of work */
typedef struct KVMPrefaultTouch {
    uint64_t gpa;
    uint64_t size;
    bool write;
    /* whole huge pages of at least 2 MiB take one touch each */
    bool large;
} KVMPrefaultTouch;

/* Addresses that are not to be touched */
typedef struct KVMPrefaultHole {
    uint64_t start;
    uint64_t size;
} KVMPrefaultHole;

typedef QTAILQ_HEAD(, KVMPrefaultChunk) KVMPrefaultChunkList;

typedef struct KVMPrefaultRanges {
    QTAILQ_HEAD(, KVMPrefaultRange) ranges;
    /* work to be done, in order */
    KVMPrefaultChunkList work;
    /* work in somebody's hands */
    KVMPrefaultChunkList taken;
    uint64_t work_bytes;
} KVMPrefaultRanges;

/**
 * kvm_prefault_ranges_init: start with no range
 */
void kvm_prefault_ranges_init(KVMPrefaultRanges *r);

/**
 * kvm_prefault_ranges_add: a memory slot has appeared
 * @ram: RAM of a memory backend
 * @large: backed by huge pages that KVM can map as such
 * @name: copied
 *
 * All of the range becomes work.
 */
void kvm_prefault_ranges_add(KVMPrefaultRanges *r, int as_id, uint64_t gpa,
                             uint64_t size, bool ram, bool large,
                             const char *name);

/**
 * kvm_prefault_ranges_del: a memory slot has gone, and its work with it
 *
 * Returns: false if there is no such range.
 */
bool kvm_prefault_ranges_del(KVMPrefaultRanges *r, int as_id, uint64_t gpa,
                             uint64_t size);

/**
 * kvm_prefault_ranges_add_part: a part of a slot has got memory
 *
 * As kvm_prefault_ranges_add() for RAM, but parts of one name that touch each
 * other become one range.
 */
void kvm_prefault_ranges_add_part(KVMPrefaultRanges *r, int as_id,
                                  uint64_t gpa, uint64_t size, bool large,
                                  const char *name);

/**
 * kvm_prefault_ranges_cut: parts of slots have lost their memory
 *
 * Any work there is forgotten.  Only touches what has been added by
 * kvm_prefault_ranges_add_part(), whole or not.
 */
void kvm_prefault_ranges_cut(KVMPrefaultRanges *r, int as_id, uint64_t gpa,
                             uint64_t size);

/**
 * kvm_prefault_ranges_invalidate: all mappings may be gone, start over
 */
void kvm_prefault_ranges_invalidate(KVMPrefaultRanges *r);

/**
 * kvm_prefault_ranges_invalidate_devices: the same, but for RAM
 */
void kvm_prefault_ranges_invalidate_devices(KVMPrefaultRanges *r);

/**
 * kvm_prefault_ranges_invalidate_incomplete: the same, for ranges of which
 * something is not mapped
 */
void kvm_prefault_ranges_invalidate_incomplete(KVMPrefaultRanges *r);

/**
 * kvm_prefault_ranges_drop: give up work on RAM of that name
 */
void kvm_prefault_ranges_drop(KVMPrefaultRanges *r, const char *name);

/**
 * kvm_prefault_ranges_take: take a piece of work
 * @as_id: address space to work in
 * @max: most bytes to take, a power of two
 *
 * Returns: a chunk to be given to kvm_prefault_ranges_put(), or NULL.
 */
KVMPrefaultChunk *kvm_prefault_ranges_take(KVMPrefaultRanges *r, int as_id,
                                           uint64_t max);

/**
 * kvm_prefault_ranges_trim: make a piece of work that was taken smaller
 * @size: what is left of it; more than 0, at most what it has
 *
 * The rest becomes work again, at the head.
 */
void kvm_prefault_ranges_trim(KVMPrefaultRanges *r, KVMPrefaultChunk *chunk,
                              uint64_t size);

/**
 * kvm_prefault_ranges_put: give a piece of work back
 * @chunk: what kvm_prefault_ranges_take() returned; freed
 * @done: bytes mapped, from its start
 * @drop: do not try the rest again
 *
 * The rest becomes work again, at the head, unless @drop or the range has
 * gone meanwhile.
 */
void kvm_prefault_ranges_put(KVMPrefaultRanges *r, KVMPrefaultChunk *chunk,
                             uint64_t done, bool drop);

/**
 * kvm_prefault_ranges_idle: whether there is no work, taken or not
 */
bool kvm_prefault_ranges_idle(const KVMPrefaultRanges *r);

/**
 * kvm_prefault_ranges_count: bytes of RAM ranges
 * @populated: if not NULL, set to the bytes of them that are mapped
 */
uint64_t kvm_prefault_ranges_count(const KVMPrefaultRanges *r,
                                   uint64_t *populated);

/**
 * kvm_prefault_ranges_mapped: bytes mapped of all ranges, RAM or not
 */
uint64_t kvm_prefault_ranges_mapped(const KVMPrefaultRanges *r);

/**
 * kvm_prefault_next_piece: find what is not in a hole
 * @holes: in any order, they may overlap
 * @at: where to begin; moved to behind a hole that it is in
 * @end: where to end
 * @max: most bytes to return
 *
 * Returns: bytes from @at on that are in no hole, 0 if there are none.
 */
uint64_t kvm_prefault_next_piece(const KVMPrefaultHole *holes, unsigned nr,
                                 uint64_t *at, uint64_t end, uint64_t max);

/**
 * kvm_prefault_touch_step: how to go on touching memory
 * @done: bytes of @touch that have been dealt with
 * @stride: set to the distance from one touch to the next: 4 KiB, or 2 MiB for
 * whole huge pages
 *
 * Returns: bytes to be touched in that way.
 */
uint64_t kvm_prefault_touch_step(const KVMPrefaultTouch *touch, uint64_t done,
                                 uint64_t *stride);

/**
 * kvm_prefault_pick_threads: how many vCPUs fill tables at a time
 * @requested: 'prefault-threads', 0 for one per vCPU
 * @vcpus: number of vCPUs
 * @host_cpus: host CPUs available to this process
 *
 * Returns: at least 1.
 */
unsigned kvm_prefault_pick_threads(unsigned requested, unsigned vcpus,
                                   unsigned host_cpus);

#endif
