/*
 * KVM pre-fault: ranges, chunks and thread policy
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "accel/kvm/kvm-prefault-ranges.h"

#define CHUNK KVM_PREFAULT_CHUNK_SIZE

static KVMPrefaultRanges ranges;

static void setup(void)
{
    kvm_prefault_ranges_init(&ranges);
}

static void add(int as_id, uint64_t gpa, uint64_t size, bool ram)
{
    kvm_prefault_ranges_add(&ranges, as_id, gpa, size, ram, false, "test");
}

static uint64_t populated(void)
{
    uint64_t bytes;

    kvm_prefault_ranges_count(&ranges, &bytes);
    return bytes;
}

/* Do all work of @as_id in steps of at most @max; returns the steps */
static unsigned do_all(int as_id, uint64_t max)
{
    KVMPrefaultChunk *chunk;
    unsigned steps = 0;

    while ((chunk = kvm_prefault_ranges_take(&ranges, as_id, max))) {
        g_assert_cmpint(chunk->as_id, ==, as_id);
        g_assert_cmpuint(chunk->size, <=, max);
        /* no chunk crosses a boundary that two threads could meet at */
        g_assert_cmpuint(chunk->gpa / max, ==,
                         (chunk->gpa + chunk->size - 1) / max);
        kvm_prefault_ranges_put(&ranges, chunk, chunk->size, false);
        steps++;
    }
    return steps;
}

static void remove_all(void)
{
    KVMPrefaultRange *range, *tmp;

    QTAILQ_FOREACH_SAFE(range, &ranges.ranges, next, tmp) {
        g_assert_true(kvm_prefault_ranges_del(&ranges, range->as_id,
                                              range->gpa, range->size));
    }
    g_assert_true(kvm_prefault_ranges_idle(&ranges));
    g_assert_cmpuint(ranges.work_bytes, ==, 0);
}

static void test_chunks_are_aligned(void)
{
    setup();
    /* RAM from 1 MiB: the first chunk is short, so that the rest align */
    add(0, 1 * MiB, 2 * CHUNK, true);
    g_assert_cmpuint(ranges.work_bytes, ==, 2 * CHUNK);
    g_assert_cmpuint(do_all(0, CHUNK), ==, 3);
    g_assert_cmpuint(populated(), ==, 2 * CHUNK);
    g_assert_true(kvm_prefault_ranges_idle(&ranges));
    remove_all();
}

static void test_last_partial_chunk(void)
{
    setup();
    add(0, 4 * GiB, CHUNK + 4096, true);
    g_assert_cmpuint(do_all(0, CHUNK), ==, 2);
    g_assert_cmpuint(populated(), ==, CHUNK + 4096);
    remove_all();
}

static void test_small_steps(void)
{
    setup();
    add(0, 0, CHUNK, true);
    g_assert_cmpuint(do_all(0, CHUNK / 4), ==, 4);
    g_assert_cmpuint(populated(), ==, CHUNK);
    remove_all();
}

static void test_address_spaces(void)
{
    setup();
    add(0, 0, CHUNK, true);
    add(1, 0, 2 * CHUNK, true);
    g_assert_cmpuint(do_all(0, CHUNK), ==, 1);
    g_assert_false(kvm_prefault_ranges_idle(&ranges));
    g_assert_cmpuint(do_all(1, CHUNK), ==, 2);
    g_assert_true(kvm_prefault_ranges_idle(&ranges));
    g_assert_null(kvm_prefault_ranges_take(&ranges, 2, CHUNK));
    remove_all();
}

static void test_mapped_bytes(void)
{
    setup();
    add(0, 0, CHUNK, true);
    add(0, CHUNK, 8192, false);
    g_assert_cmpuint(kvm_prefault_ranges_mapped(&ranges), ==, 0);
    do_all(0, CHUNK);
    /* ROM counts, what has gone does not */
    g_assert_cmpuint(kvm_prefault_ranges_mapped(&ranges), ==, CHUNK + 8192);
    kvm_prefault_ranges_invalidate_devices(&ranges);
    g_assert_cmpuint(kvm_prefault_ranges_mapped(&ranges), ==, CHUNK);
    g_assert_cmpuint(ranges.work_bytes, ==, 8192);
    do_all(0, CHUNK);
    g_assert_cmpuint(kvm_prefault_ranges_mapped(&ranges), ==, CHUNK + 8192);
    g_assert_true(kvm_prefault_ranges_del(&ranges, 0, 0, CHUNK));
    g_assert_cmpuint(kvm_prefault_ranges_mapped(&ranges), ==, 8192);
    remove_all();
}

static void test_interrupted_chunk(void)
{
    KVMPrefaultChunk *chunk;

    setup();
    add(0, 0, CHUNK, true);
    chunk = kvm_prefault_ranges_take(&ranges, 0, CHUNK);
    g_assert_false(kvm_prefault_ranges_idle(&ranges));
    kvm_prefault_ranges_put(&ranges, chunk, 3 * 4096, false);
    g_assert_cmpuint(populated(), ==, 3 * 4096);

    /* the rest comes next */
    chunk = kvm_prefault_ranges_take(&ranges, 0, CHUNK);
    g_assert_cmpuint(chunk->gpa, ==, 3 * 4096);
    g_assert_cmpuint(chunk->size, ==, CHUNK - 3 * 4096);
    kvm_prefault_ranges_put(&ranges, chunk, chunk->size, false);
    g_assert_cmpuint(populated(), ==, CHUNK);
    remove_all();
}

static void test_failed_chunk_is_dropped(void)
{
    KVMPrefaultChunk *chunk;

    setup();
    add(0, 0, CHUNK, true);
    chunk = kvm_prefault_ranges_take(&ranges, 0, CHUNK);
    kvm_prefault_ranges_put(&ranges, chunk, 4096, true);
    g_assert_true(kvm_prefault_ranges_idle(&ranges));
    g_assert_cmpuint(populated(), ==, 4096);
    remove_all();
}

static void test_delete_takes_work_along(void)
{
    KVMPrefaultChunk *chunk;

    setup();
    add(0, 0, 2 * CHUNK, true);
    add(0, 4 * GiB, CHUNK, true);
    chunk = kvm_prefault_ranges_take(&ranges, 0, CHUNK);
    g_assert_false(kvm_prefault_ranges_del(&ranges, 0, 0, CHUNK));
    g_assert_true(kvm_prefault_ranges_del(&ranges, 0, 0, 2 * CHUNK));
    g_assert_cmpuint(ranges.work_bytes, ==, CHUNK);

    /* the taken chunk's range is gone; giving it back must not revive it */
    kvm_prefault_ranges_put(&ranges, chunk, 4096, false);
    g_assert_cmpuint(ranges.work_bytes, ==, CHUNK);
    g_assert_cmpuint(do_all(0, CHUNK), ==, 1);
    remove_all();
}

static void test_invalidate_restarts(void)
{
    KVMPrefaultChunk *chunk;

    setup();
    add(0, 0, 2 * CHUNK, true);
    chunk = kvm_prefault_ranges_take(&ranges, 0, CHUNK);
    kvm_prefault_ranges_put(&ranges, chunk, CHUNK, false);
    chunk = kvm_prefault_ranges_take(&ranges, 0, CHUNK);
    kvm_prefault_ranges_invalidate(&ranges);
    g_assert_cmpuint(populated(), ==, 0);
    g_assert_cmpuint(ranges.work_bytes, ==, 2 * CHUNK);

    /* what was mapped before the invalidation does not count */
    kvm_prefault_ranges_put(&ranges, chunk, CHUNK, false);
    g_assert_cmpuint(populated(), ==, 0);
    g_assert_cmpuint(do_all(0, CHUNK), ==, 2);
    g_assert_cmpuint(populated(), ==, 2 * CHUNK);
    remove_all();
}

static void test_totals_count_ram_only(void)
{
    uint64_t bytes;

    setup();
    add(0, 0, CHUNK, true);
    add(0, 0xfffc0000, 0x40000, false);
    g_assert_cmpuint(kvm_prefault_ranges_count(&ranges, &bytes), ==, CHUNK);
    g_assert_cmpuint(bytes, ==, 0);
    do_all(0, CHUNK);
    g_assert_cmpuint(kvm_prefault_ranges_count(&ranges, &bytes), ==, CHUNK);
    g_assert_cmpuint(bytes, ==, CHUNK);
    remove_all();
}

static void test_threads(void)
{
    /* automatic: one per vCPU, at most the host CPUs */
    g_assert_cmpuint(kvm_prefault_pick_threads(0, 4, 8), ==, 4);
    g_assert_cmpuint(kvm_prefault_pick_threads(0, 16, 8), ==, 8);
    g_assert_cmpuint(kvm_prefault_pick_threads(0, 4, 0), ==, 1);
    /* asked for: even more than host CPUs, but not more than vCPUs */
    g_assert_cmpuint(kvm_prefault_pick_threads(8, 16, 2), ==, 8);
    g_assert_cmpuint(kvm_prefault_pick_threads(8, 4, 16), ==, 4);
    g_assert_cmpuint(kvm_prefault_pick_threads(1, 4, 16), ==, 1);
}

/* Random traffic keeps the books: work + taken + populated == total */
static void test_random(void)
{
    KVMPrefaultChunk *held[8] = { NULL };
    unsigned i, n = ARRAY_SIZE(held);

    setup();
    add(0, 1 * MiB, 300 * MiB, true);
    add(0, 4 * GiB, 200 * MiB, true);
    for (i = 0; i < 10000; i++) {
        KVMPrefaultChunk **slot = &held[g_random_int_range(0, n)];

        if (!*slot) {
            *slot = kvm_prefault_ranges_take(&ranges, 0,
                                             (64 * KiB) <<
                                             g_random_int_range(0, 10));
        } else {
            uint64_t done = (*slot)->size *
                            g_random_int_range(0, 5) / 4 / 4096 * 4096;

            kvm_prefault_ranges_put(&ranges, *slot,
                                    MIN(done, (*slot)->size), false);
            *slot = NULL;
        }
        if (g_random_int_range(0, 500) == 0) {
            kvm_prefault_ranges_invalidate(&ranges);
        }
        g_assert_cmpuint(ranges.work_bytes + populated(), <=, 500 * MiB);
    }
    for (i = 0; i < n; i++) {
        if (held[i]) {
            kvm_prefault_ranges_put(&ranges, held[i], 0, false);
        }
    }
    g_assert_cmpuint(ranges.work_bytes + populated(), ==, 500 * MiB);
    do_all(0, CHUNK);
    g_assert_cmpuint(populated(), ==, 500 * MiB);
    remove_all();
}

static void assert_step(const KVMPrefaultTouch *t, uint64_t done,
                        uint64_t length, uint64_t stride)
{
    uint64_t found;

    g_assert_cmpuint(kvm_prefault_touch_step(t, done, &found), ==, length);
    g_assert_cmpuint(found, ==, stride);
}

static void test_touch_small(void)
{
    KVMPrefaultTouch t = { .gpa = 3 * MiB, .size = 8 * MiB };

    assert_step(&t, 0, 8 * MiB, 4 * KiB);
    assert_step(&t, 8 * KiB, 8 * MiB - 8 * KiB, 4 * KiB);
}

/* Small steps to the first whole huge page, large ones, small ones */
static void test_touch_large(void)
{
    KVMPrefaultTouch t = { .gpa = 3 * MiB, .size = 8 * MiB, .large = true };

    assert_step(&t, 0, 1 * MiB, 4 * KiB);
    assert_step(&t, 4 * KiB, 1 * MiB - 4 * KiB, 4 * KiB);
    assert_step(&t, 1 * MiB, 6 * MiB, 2 * MiB);
    assert_step(&t, 3 * MiB, 4 * MiB, 2 * MiB);
    assert_step(&t, 7 * MiB, 1 * MiB, 4 * KiB);
}

static void test_touch_less_than_large(void)
{
    KVMPrefaultTouch t = { .gpa = 4 * MiB, .size = 1 * MiB, .large = true };

    assert_step(&t, 0, 1 * MiB, 4 * KiB);
    t.gpa = 3 * MiB;
    t.size = 2 * MiB;
    assert_step(&t, 0, 1 * MiB, 4 * KiB);
    assert_step(&t, 1 * MiB, 1 * MiB, 4 * KiB);
}

/* What a chunk tells a vCPU comes from its range */
static void test_chunk_kind(void)
{
    KVMPrefaultChunk *chunk;

    setup();
    kvm_prefault_ranges_add(&ranges, 0, 0, 2 * CHUNK, true, true, "huge");
    kvm_prefault_ranges_add(&ranges, 1, 0, MiB, false, false, "rom");
    chunk = kvm_prefault_ranges_take(&ranges, 0, CHUNK / 2);
    g_assert_true(chunk->ram && chunk->large);
    kvm_prefault_ranges_put(&ranges, chunk, 4 * KiB, false);
    chunk = kvm_prefault_ranges_take(&ranges, 0, CHUNK);
    g_assert_true(chunk->ram && chunk->large);
    kvm_prefault_ranges_put(&ranges, chunk, chunk->size, false);
    chunk = kvm_prefault_ranges_take(&ranges, 1, CHUNK);
    g_assert_false(chunk->ram || chunk->large);
    kvm_prefault_ranges_put(&ranges, chunk, chunk->size, false);
    remove_all();
}

static unsigned nr_ranges(void)
{
    KVMPrefaultRange *range;
    unsigned n = 0;

    QTAILQ_FOREACH(range, &ranges.ranges, next) {
        n++;
    }
    return n;
}

static void add_part(uint64_t gpa, uint64_t size)
{
    kvm_prefault_ranges_add_part(&ranges, 0, gpa, size, false, "part");
}

static void cut(uint64_t gpa, uint64_t size)
{
    kvm_prefault_ranges_cut(&ranges, 0, gpa, size);
}

static void test_parts_join(void)
{
    setup();
    add_part(4 * GiB, 128 * MiB);
    do_all(0, CHUNK);
    add_part(4 * GiB + 256 * MiB, 128 * MiB);
    g_assert_cmpuint(nr_ranges(), ==, 2);
    g_assert_cmpuint(ranges.work_bytes, ==, 128 * MiB);
    /* fills the gap: one range, of which the first third is populated */
    add_part(4 * GiB + 128 * MiB, 128 * MiB);
    g_assert_cmpuint(nr_ranges(), ==, 1);
    g_assert_cmpuint(ranges.work_bytes, ==, 256 * MiB);
    g_assert_cmpuint(populated(), ==, 128 * MiB);
    do_all(0, CHUNK);
    g_assert_cmpuint(populated(), ==, 384 * MiB);
    remove_all();
}

static void test_parts_do_not_join_slots(void)
{
    setup();
    kvm_prefault_ranges_add(&ranges, 0, 0, CHUNK, true, false, "part");
    add_part(CHUNK, CHUNK);
    g_assert_cmpuint(nr_ranges(), ==, 2);
    cut(0, 2 * CHUNK);
    g_assert_cmpuint(nr_ranges(), ==, 1);
    g_assert_cmpuint(ranges.work_bytes, ==, CHUNK);
    remove_all();
}

static void test_cut_populated(void)
{
    setup();
    add_part(0, 4 * CHUNK);
    do_all(0, CHUNK);
    cut(CHUNK + 2 * MiB, 4 * MiB);
    g_assert_cmpuint(nr_ranges(), ==, 2);
    g_assert_cmpuint(ranges.work_bytes, ==, 0);
    g_assert_cmpuint(populated(), ==, 4 * CHUNK - 4 * MiB);
    remove_all();
}

static void test_cut_with_work_in_hand(void)
{
    KVMPrefaultChunk *chunk;

    setup();
    add_part(0, 2 * CHUNK);
    chunk = kvm_prefault_ranges_take(&ranges, 0, CHUNK);
    cut(0, 4 * MiB);
    /* the rest begins anew; what is in hand belongs to nobody */
    g_assert_null(chunk->range);
    g_assert_cmpuint(ranges.work_bytes, ==, 2 * CHUNK - 4 * MiB);
    kvm_prefault_ranges_put(&ranges, chunk, chunk->size, false);
    g_assert_cmpuint(populated(), ==, 0);
    do_all(0, CHUNK);
    g_assert_cmpuint(populated(), ==, 2 * CHUNK - 4 * MiB);
    remove_all();
}

#define BLOCKS 48
#define BLOCK (4 * MiB)

/* Compare with a model that remembers each block */
static void check_blocks(const bool *plugged)
{
    KVMPrefaultRange *range;
    unsigned i, blocks = 0, runs = 0;

    for (i = 0; i < BLOCKS; i++) {
        blocks += plugged[i];
        runs += plugged[i] && (i == 0 || !plugged[i - 1]);
    }
    g_assert_cmpuint(kvm_prefault_ranges_count(&ranges, NULL), ==,
                     blocks * BLOCK);
    QTAILQ_FOREACH(range, &ranges.ranges, next) {
        g_assert_cmpuint(range->populated, <=, range->size);
        for (i = 0; i < range->size / BLOCK; i++) {
            g_assert_true(plugged[range->gpa / BLOCK + i]);
        }
    }
    g_assert_cmpuint(nr_ranges(), >=, runs);
}

static void test_parts_random(void)
{
    bool plugged[BLOCKS] = { false };
    unsigned step, i;

    setup();
    for (step = 0; step < 3000; step++) {
        unsigned first = g_test_rand_int_range(0, BLOCKS);
        unsigned count = g_test_rand_int_range(1, BLOCKS - first + 1);
        bool plug = g_test_rand_bit();

        if (plug) {
            add_part(first * BLOCK, count * BLOCK);
        } else {
            cut(first * BLOCK, count * BLOCK);
        }
        for (i = first; i < first + count; i++) {
            plugged[i] = plug;
        }
        check_blocks(plugged);
        if (g_test_rand_bit()) {
            do_all(0, CHUNK / 4);
            g_assert_cmpuint(populated(), ==,
                             kvm_prefault_ranges_count(&ranges, NULL));
        }
    }
    remove_all();
}

/* What is left of 0 to @end in pieces of at most @max */
static uint64_t sum_pieces(const KVMPrefaultHole *holes, unsigned nr,
                           uint64_t end, uint64_t max)
{
    uint64_t at = 0, sum = 0, size;

    while ((size = kvm_prefault_next_piece(holes, nr, &at, end, max))) {
        unsigned i;

        g_assert_cmpuint(size, <=, max);
        g_assert_cmpuint(at + size, <=, end);
        for (i = 0; i < nr; i++) {
            g_assert_true(at + size <= holes[i].start ||
                          at >= holes[i].start + holes[i].size);
        }
        at += size;
        sum += size;
    }
    return sum;
}

static void test_pieces(void)
{
    const KVMPrefaultHole holes[] = {
        { 8 * MiB, 4 * MiB }, { 10 * MiB, 6 * MiB }, { 62 * MiB, 10 * MiB },
        { 0, 2 * MiB }, { 16 * MiB, 0 },
    };

    g_assert_cmpuint(sum_pieces(NULL, 0, 64 * MiB, 5 * MiB), ==, 64 * MiB);
    g_assert_cmpuint(sum_pieces(holes, ARRAY_SIZE(holes), 64 * MiB, 4 * MiB),
                     ==, (64 - 8 - 2 - 2) * MiB);
    g_assert_cmpuint(sum_pieces(holes, 1, 12 * MiB, GiB), ==, 8 * MiB);
}

/* What is cut off a piece in hand is work again, and next */
static void test_trim(void)
{
    KVMPrefaultChunk *chunk, *rest;

    kvm_prefault_ranges_init(&ranges);
    add(0, 0, CHUNK, true);
    chunk = kvm_prefault_ranges_take(&ranges, 0, CHUNK);
    kvm_prefault_ranges_trim(&ranges, chunk, 3 * MiB);
    g_assert_cmpuint(chunk->size, ==, 3 * MiB);
    g_assert_cmpuint(ranges.work_bytes, ==, CHUNK - 3 * MiB);
    rest = kvm_prefault_ranges_take(&ranges, 0, CHUNK);
    g_assert_cmpuint(rest->gpa, ==, 3 * MiB);
    g_assert_cmpuint(rest->size, ==, CHUNK - 3 * MiB);
    kvm_prefault_ranges_put(&ranges, chunk, 0, true);
    kvm_prefault_ranges_put(&ranges, rest, rest->size, false);
    g_assert_true(kvm_prefault_ranges_idle(&ranges));
    g_assert_cmpuint(populated(), ==, CHUNK - 3 * MiB);
    remove_all();
}

/* Only what is not complete becomes work again, and devices do not */
static void test_invalidate_incomplete(void)
{
    KVMPrefaultChunk *chunk;

    kvm_prefault_ranges_init(&ranges);
    add(0, 0, CHUNK, true);
    do_all(0, CHUNK);
    add(0, CHUNK, CHUNK, true);
    chunk = kvm_prefault_ranges_take(&ranges, 0, CHUNK);
    kvm_prefault_ranges_put(&ranges, chunk, MiB, true);
    kvm_prefault_ranges_add(&ranges, 0, 4 * CHUNK, MiB, false, false, "rom");
    chunk = kvm_prefault_ranges_take(&ranges, 0, CHUNK);
    kvm_prefault_ranges_put(&ranges, chunk, 0, true);
    kvm_prefault_ranges_invalidate_incomplete(&ranges);
    g_assert_cmpuint(ranges.work_bytes, ==, CHUNK);
    chunk = kvm_prefault_ranges_take(&ranges, 0, CHUNK);
    g_assert_cmpuint(chunk->gpa, ==, CHUNK);
    kvm_prefault_ranges_put(&ranges, chunk, CHUNK, false);
    g_assert_cmpuint(populated(), ==, 2 * CHUNK);
    remove_all();
}

/* One backend's work is given up, in all address spaces; others' is not */
static void test_drop_by_name(void)
{
    kvm_prefault_ranges_init(&ranges);
    kvm_prefault_ranges_add(&ranges, 0, 0, MiB, true, false, "bad");
    kvm_prefault_ranges_add(&ranges, 1, 0, MiB, true, false, "bad");
    kvm_prefault_ranges_add(&ranges, 0, 4 * MiB, MiB, true, false, "good");
    kvm_prefault_ranges_add(&ranges, 0, 8 * MiB, MiB, false, false, "bad");
    kvm_prefault_ranges_drop(&ranges, "bad");
    g_assert_cmpuint(ranges.work_bytes, ==, 2 * MiB);
    do_all(0, CHUNK);
    g_assert_true(kvm_prefault_ranges_idle(&ranges));
    g_assert_cmpuint(populated(), ==, MiB);
    remove_all();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/kvm-prefault/chunks-are-aligned",
                    test_chunks_are_aligned);
    g_test_add_func("/kvm-prefault/last-partial-chunk",
                    test_last_partial_chunk);
    g_test_add_func("/kvm-prefault/small-steps", test_small_steps);
    g_test_add_func("/kvm-prefault/address-spaces", test_address_spaces);
    g_test_add_func("/kvm-prefault/mapped-bytes", test_mapped_bytes);
    g_test_add_func("/kvm-prefault/interrupted-chunk",
                    test_interrupted_chunk);
    g_test_add_func("/kvm-prefault/failed-chunk-is-dropped",
                    test_failed_chunk_is_dropped);
    g_test_add_func("/kvm-prefault/delete-takes-work-along",
                    test_delete_takes_work_along);
    g_test_add_func("/kvm-prefault/invalidate-restarts",
                    test_invalidate_restarts);
    g_test_add_func("/kvm-prefault/totals-count-ram-only",
                    test_totals_count_ram_only);
    g_test_add_func("/kvm-prefault/parts/join", test_parts_join);
    g_test_add_func("/kvm-prefault/parts/not-slots",
                    test_parts_do_not_join_slots);
    g_test_add_func("/kvm-prefault/parts/cut", test_cut_populated);
    g_test_add_func("/kvm-prefault/parts/cut-with-work",
                    test_cut_with_work_in_hand);
    g_test_add_func("/kvm-prefault/parts/random", test_parts_random);
    g_test_add_func("/kvm-prefault/parts/pieces", test_pieces);
    g_test_add_func("/kvm-prefault/trim", test_trim);
    g_test_add_func("/kvm-prefault/invalidate-incomplete",
                    test_invalidate_incomplete);
    g_test_add_func("/kvm-prefault/drop-by-name", test_drop_by_name);
    g_test_add_func("/kvm-prefault/threads", test_threads);
    g_test_add_func("/kvm-prefault/random", test_random);
    g_test_add_func("/kvm-prefault/touch/small", test_touch_small);
    g_test_add_func("/kvm-prefault/touch/large", test_touch_large);
    g_test_add_func("/kvm-prefault/touch/less-than-large",
                    test_touch_less_than_large);
    g_test_add_func("/kvm-prefault/ranges/chunk-kind", test_chunk_kind);
    return g_test_run();
}
