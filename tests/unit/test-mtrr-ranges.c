/*
 * The ranges that patches/kvm/linux-6.1 zaps when MTRRs or CR0.CD change
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Tests: arch/x86/kvm/mtrr_ranges.c
 * Usage: scripts/run-test kvm-unit test-mtrr-ranges [TRANSITIONS [SEED]]
 *
 * Compares arch/x86/kvm/mtrr_ranges.c of the kernel's patch queue, compiled
 * for user space, with the model of mtrr-model.h: random states, random
 * changes of them, and every frame whose type the model says has changed has
 * to be in a range (a miss is a stale memory type in a guest). One in eight
 * transitions is in a physical address space small enough to look at all
 * frames; of the others frames at both sides of every border, frames in
 * every range and random ones are looked at.
 *
 * That the test can fail was seen with these changes of mtrr_ranges.c, one at
 * a time, each of which gave thousands of misses in 100,000 transitions: WT
 * not among the types that go with WB, UC not winning, the fixed types of
 * 16 KiB off by one, fixed ranges of 64 KiB taken for 128 KiB, the last frame
 * of a variable range or its first one not taken for a border, borders of the
 * old state only, the default type while MTRRs are disabled, holes in masks
 * not looked for, the last range not extended when there are too many.
 */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mtrr-model.h"

#define SMALL_GFNS 640 /* 2.5 MiB: the fixed ranges and more than as much */
#define MAX_SAMPLES 512

static uint64_t rng;
static unsigned phys_bits;

/* What was seen, for the last lines of output */
static struct {
    uint64_t transitions, frames, changed, missed, zapped_unchanged;
    uint64_t excess_plain; /* without holes in masks there must be none */
    uint64_t holes_zapped, holes_excess; /* where all frames were looked at */
    uint64_t holes, fixed, deftype, cd, disabled, invalid, smm;
    uint64_t type_errors, uniform_errors, unsorted, most_ranges;
} seen;

/* splitmix64 */
static uint64_t rnd(void)
{
    uint64_t z = (rng += 0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

static bool chance(unsigned percent)
{
    return rnd() % 100 < percent;
}

static uint8_t random_type(void)
{
    static const uint8_t valid[] = { 0, 1, 4, 5, 6, 6, 0 };

    if (chance(2)) {
        seen.invalid++;
        return rnd();
    }
    return valid[rnd() % sizeof(valid)];
}

static uint64_t above_phys(void)
{
    return ((1ULL << 52) - 1) & ~((1ULL << phys_bits) - 1);
}

static uint64_t below_phys(void)
{
    return ((1ULL << phys_bits) - 1) & ~0xfffULL;
}

/* Few distinct places, so that ranges overlap */
static uint64_t random_base(void)
{
    uint64_t size = 1ULL << (12 + rnd() % (phys_bits - 11));

    return (size * (rnd() % 5)) & below_phys();
}

static uint64_t random_mask(void)
{
    uint64_t size = 1ULL << (12 + rnd() % (phys_bits - 11));
    uint64_t mask = ~(size - 1) & below_phys();

    if (chance(6)) {
        mask ^= (1ULL << (12 + rnd() % (phys_bits - 12)));
    }
    /* KVM sets the bits that a guest cannot */
    return mask | above_phys() | (chance(80) ? 1 << 11 : 0);
}

static void random_var(struct mtrr_ranges_state *s, int i)
{
    if (chance(60)) {
        s->base[i] = random_base() | random_type();
    }
    if (chance(60)) {
        s->mask[i] = random_mask();
    }
}

static void random_fixed_msr(struct mtrr_ranges_state *s, int msr)
{
    uint8_t type = random_type();

    for (int byte = 0; byte < 8; byte++) {
        s->fixed[msr * 8 + byte] = chance(80) ? type : random_type();
    }
}

static void random_deftype(struct mtrr_ranges_state *s)
{
    s->deftype = random_type();
    s->deftype |= chance(88) ? 1 << 11 : 0;
    s->deftype |= chance(70) ? 1 << 10 : 0;
}

static void random_state(struct mtrr_ranges_state *s)
{
    memset(s, 0, sizeof(*s));
    for (int i = 0; i < MTRR_RANGES_NR_VAR; i++) {
        random_var(s, i);
    }
    for (int msr = 0; msr < 11; msr++) {
        random_fixed_msr(s, msr);
    }
    random_deftype(s);
    s->disabled_type = chance(80) ? MODEL_UC : MODEL_WB;
    s->cd = chance(10);
    s->cd_type = chance(80) ? MODEL_WB : MODEL_UC;
}

/* SMRAM below 1 MiB and a TSEG at the end of some memory */
static void change_smm(struct mtrr_ranges_state *s)
{
    memset(s->fixed + 16, chance(50) ? MODEL_UC : MODEL_WB, 8);
    if (phys_bits > 24) {
        int i = rnd() % MTRR_RANGES_NR_VAR;

        s->base[i] = ((rnd() % 4 + 1) << 24) - 0x800000;
        s->base[i] = (s->base[i] & below_phys()) | random_type();
        s->mask[i] = (below_phys() & ~0x7fffffULL) | above_phys();
        s->mask[i] |= chance(80) ? 1 << 11 : 0;
    }
    seen.smm++;
}

/* What one WRMSR or MOV to CR0 does, or a whole new state */
static void random_change(struct mtrr_ranges_state *s)
{
    int i = rnd() % MTRR_RANGES_NR_VAR;

    switch (rnd() % 9) {
    case 0:
        s->base[i] = random_base() | random_type();
        break;
    case 1:
        s->mask[i] = random_mask();
        break;
    case 2:
        s->mask[i] ^= 1 << 11;
        break;
    case 3:
        random_fixed_msr(s, rnd() % 11);
        seen.fixed++;
        break;
    case 4:
        random_deftype(s);
        seen.deftype++;
        break;
    case 5:
        s->cd = !s->cd;
        seen.cd++;
        break;
    case 6:
        change_smm(s);
        break;
    case 7:
        s->deftype ^= 1 << (10 + rnd() % 2);
        seen.disabled++;
        break;
    default:
        random_state(s);
    }
}

static unsigned add_sample(uint64_t *samples, unsigned n, uint64_t gfn)
{
    uint64_t end = (1ULL << phys_bits) >> 12;

    if (n < MAX_SAMPLES && gfn < end) {
        samples[n++] = gfn;
    }
    return n;
}

/* Both sides of the borders of a range, and something in it */
static unsigned sample_range(uint64_t *samples, unsigned n, uint64_t base,
                             uint64_t mask)
{
    uint64_t first = (base & mask & below_phys()) >> 12;
    uint64_t size = (~mask & below_phys()) >> 12;
    uint64_t last = first | size;

    n = add_sample(samples, n, first);
    n = add_sample(samples, n, first - 1);
    n = add_sample(samples, n, last);
    n = add_sample(samples, n, last + 1);
    return add_sample(samples, n, first | (rnd() & size));
}

static unsigned sample_frames(uint64_t *samples,
                              const struct mtrr_ranges_state *s, unsigned n)
{
    for (int i = 0; i < MTRR_RANGES_NR_VAR; i++) {
        n = sample_range(samples, n, s->base[i], s->mask[i]);
    }
    for (int i = 0; i < 8; i++) {
        n = add_sample(samples, n, rnd() % 0x108);
        n = add_sample(samples, n, rnd() & (below_phys() >> 12));
    }
    return n;
}

static unsigned choose_frames(uint64_t *samples,
                              const struct mtrr_ranges_state *a,
                              const struct mtrr_ranges_state *b)
{
    return sample_frames(samples, b, sample_frames(samples, a, 0));
}

/* One frame, with the ranges of the change from a to b */
static void check_frame(const struct mtrr_ranges_state *a,
                        const struct mtrr_ranges_state *b,
                        const struct mtrr_gfn_range *ranges, unsigned n,
                        uint64_t gfn, bool tight, bool holes)
{
    uint8_t before = model_type(a, gfn), after = model_type(b, gfn);
    bool zapped = model_in_ranges(ranges, n, gfn);

    seen.frames++;
    seen.changed += before != after;
    seen.missed += before != after && !zapped;
    seen.zapped_unchanged += before == after && zapped;
    seen.excess_plain += before == after && zapped && tight;
    seen.holes_zapped += holes && zapped;
    seen.holes_excess += holes && zapped && before == after;
    seen.type_errors += mtrr_ranges_type(a, gfn) != before;
}

static void check_order(const struct mtrr_gfn_range *ranges, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        seen.unsorted += ranges[i].start >= ranges[i].end;
        seen.unsorted += i && ranges[i - 1].end >= ranges[i].start;
    }
    if (n > seen.most_ranges) {
        seen.most_ranges = n;
    }
}

/* Uniform means one type; without holes the reverse holds as well */
static void check_uniform(const struct mtrr_ranges_state *s, bool holes,
                          uint64_t start, uint64_t end)
{
    uint8_t type = model_type(s, start);
    bool same = true;

    for (uint64_t gfn = start; gfn < end && same; gfn++) {
        same = model_type(s, gfn) == type;
    }
    if (mtrr_ranges_uniform(s, start, end)) {
        seen.uniform_errors += !same;
    } else {
        seen.uniform_errors += same && !holes;
    }
}

static void check_transition(const struct mtrr_ranges_state *a,
                             const struct mtrr_ranges_state *b, bool small)
{
    /* Sometimes less room than ranges: then too much is zapped */
    unsigned max = chance(10) ? 1 + rnd() % 4 : MTRR_RANGES_MAX;
    struct mtrr_gfn_range *ranges = malloc(max * sizeof(*ranges));
    unsigned n = mtrr_ranges_diff(a, b, ranges, max);
    bool holes = model_has_holes(a) || model_has_holes(b);
    bool room = max == MTRR_RANGES_MAX, tight = room && !holes;
    uint64_t samples[MAX_SAMPLES], start = rnd() % SMALL_GFNS;
    unsigned count;

    check_order(ranges, n);
    if (small) {
        for (uint64_t gfn = 0; gfn < SMALL_GFNS; gfn++) {
            check_frame(a, b, ranges, n, gfn, tight, room && holes);
        }
    } else {
        count = choose_frames(samples, a, b);
        for (unsigned i = 0; i < count; i++) {
            check_frame(a, b, ranges, n, samples[i], tight, false);
        }
    }
    if (chance(25)) {
        check_uniform(a, holes, start, start + 1 + rnd() % 64);
    }
    seen.holes += holes;
    seen.transitions++;
    free(ranges);
}

/* A chain of changes; now and then a new state */
static void run(uint64_t transitions)
{
    struct mtrr_ranges_state a, b;
    bool small = false;

    for (uint64_t i = 0; i < transitions; i++) {
        if (i % 16 == 0) {
            small = chance(12);
            phys_bits = small ? 22 : 25 + rnd() % 28;
            random_state(&a);
        }
        b = a;
        random_change(&b);
        while (chance(15)) {
            random_change(&b);
        }
        check_transition(&a, &b, small);
        a = b;
    }
}

static unsigned report(unsigned number, uint64_t bad, const char *what)
{
    printf("%sok %u %s%s", bad ? "not " : "", number, what, bad ? "" : "\n");
    if (bad) {
        printf(": %" PRIu64 "\n", bad);
    }
    return bad != 0;
}

int main(int argc, char **argv)
{
    uint64_t transitions = 1200000;
    unsigned failed = 0;

    rng = 20261121;
    if ((argc > 1 && sscanf(argv[1], "%" SCNu64, &transitions) != 1) ||
        (argc > 2 && sscanf(argv[2], "%" SCNu64, &rng) != 1)) {
        printf("Bail out! usage: %s [TRANSITIONS [SEED]], numbers\n", argv[0]);
        return 2;
    }
    printf("1..6\n# %" PRIu64 " transitions, seed %" PRIu64 "\n",
           transitions, rng);
    run(transitions);
    printf("# %" PRIu64 " frames looked at, %" PRIu64 " changed their type\n",
           seen.frames, seen.changed);
    printf("# excess with holes in masks, all frames looked at: %" PRIu64
           " of %" PRIu64 " zapped; little room included: %" PRIu64 "\n",
           seen.holes_excess, seen.holes_zapped, seen.zapped_unchanged);
    printf("# transitions with holes in masks %" PRIu64 ", SMM %" PRIu64
           ", fixed %" PRIu64 ", default type %" PRIu64 ", enable bits %"
           PRIu64 ", CD %" PRIu64 "; invalid types %" PRIu64
           "; at most %" PRIu64 " ranges\n", seen.holes, seen.smm, seen.fixed,
           seen.deftype, seen.disabled, seen.cd, seen.invalid,
           seen.most_ranges);
    failed += report(1, seen.missed, "every changed frame is zapped");
    failed += report(2, seen.excess_plain,
                     "only changed frames are zapped, but for holes in masks");
    failed += report(3, seen.type_errors, "types are those of the model");
    failed += report(4, seen.uniform_errors, "ranges of one type are found");
    failed += report(5, seen.unsorted, "ranges ascend and are apart");
    failed += report(6, transitions && !seen.changed,
                     "the transitions change something");
    return failed ? 1 : 0;
}
