/*
 * Memory types by MTRR as the manual states them, frame by frame
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Written from the SDM, volume 3, "Memory Type Range Registers", and kept
 * apart from the kernel's mtrr_ranges.c on purpose: it knows of no pieces and
 * ranges, only of one address at a time.
 */

#ifndef TESTS_MTRR_MODEL_H
#define TESTS_MTRR_MODEL_H

#include "mtrr_ranges.h"

enum { MODEL_UC = 0, MODEL_WT = 4, MODEL_WB = 6 };

/* The eleven fixed-range registers: first address, size of each of 8 ranges */
static const struct {
    uint64_t base;
    uint64_t size;
} model_fixed[11] = {
    { 0x00000, 0x10000 },
    { 0x80000, 0x4000 }, { 0xa0000, 0x4000 },
    { 0xc0000, 0x1000 }, { 0xc8000, 0x1000 },
    { 0xd0000, 0x1000 }, { 0xd8000, 0x1000 },
    { 0xe0000, 0x1000 }, { 0xe8000, 0x1000 },
    { 0xf0000, 0x1000 }, { 0xf8000, 0x1000 },
};

static inline int model_fixed_type(const struct mtrr_ranges_state *s,
                                   uint64_t addr)
{
    for (int msr = 0; msr < 11; msr++) {
        uint64_t offset = addr - model_fixed[msr].base;

        if (addr >= model_fixed[msr].base &&
            offset < 8 * model_fixed[msr].size) {
            return s->fixed[msr * 8 + offset / model_fixed[msr].size];
        }
    }
    return -1;
}

/* Any UC: UC. All the same: that. WT and WB: WT. Undefined otherwise: WB */
static inline uint8_t model_overlap(const uint8_t *types, int n)
{
    bool same = true, wt_wb = true;

    for (int i = 0; i < n; i++) {
        if (types[i] == MODEL_UC) {
            return MODEL_UC;
        }
        same = same && types[i] == types[0];
        wt_wb = wt_wb && (types[i] == MODEL_WT || types[i] == MODEL_WB);
    }
    return same ? types[0] : wt_wb ? MODEL_WT : MODEL_WB;
}

static inline uint8_t model_type(const struct mtrr_ranges_state *s,
                                 uint64_t gfn)
{
    const uint64_t page_bits = ((1ULL << 52) - 1) & ~0xfffULL;
    uint64_t addr = gfn << 12;
    uint8_t types[MTRR_RANGES_NR_VAR];
    int n = 0;

    if (s->cd) {
        return s->cd_type;
    }
    if (!((s->deftype >> 11) & 1)) {
        return s->disabled_type;
    }
    if (((s->deftype >> 10) & 1) && model_fixed_type(s, addr) >= 0) {
        return model_fixed_type(s, addr);
    }
    for (int i = 0; i < MTRR_RANGES_NR_VAR; i++) {
        uint64_t mask = s->mask[i] & page_bits;

        if ((s->mask[i] >> 11 & 1) && (addr & mask) == (s->base[i] & mask)) {
            types[n++] = s->base[i];
        }
    }
    return n ? model_overlap(types, n) : (uint8_t)s->deftype;
}

/* Whether a variable range in use has a mask with holes in it */
static inline bool model_has_holes(const struct mtrr_ranges_state *s)
{
    for (int i = 0; i < MTRR_RANGES_NR_VAR; i++) {
        bool seen = false;

        for (int bit = 12; (s->mask[i] >> 11 & 1) && bit < 52; bit++) {
            if (s->mask[i] >> bit & 1) {
                seen = true;
            } else if (seen) {
                return true;
            }
        }
    }
    return false;
}

/* Whether a frame is in one of the ranges */
static inline bool model_in_ranges(const struct mtrr_gfn_range *ranges,
                                   unsigned n, uint64_t gfn)
{
    for (unsigned i = 0; i < n; i++) {
        if (gfn >= ranges[i].start && gfn < ranges[i].end) {
            return true;
        }
    }
    return false;
}

#endif /* TESTS_MTRR_MODEL_H */
