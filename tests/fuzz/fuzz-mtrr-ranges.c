/*
 * libFuzzer target for the ranges that are zapped when MTRRs or CR0.CD change
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * From the top of the repository, with the kernel's source unpacked by
 * scripts/kvm-source 6.1:
 *   kvm=build/linux-6.1-src/arch/x86/kvm
 *   clang -g -O1 -fsanitize=fuzzer,address,undefined -I $kvm -I tests/unit \
 *       tests/fuzz/fuzz-mtrr-ranges.c $kvm/mtrr_ranges.c -o build/fuzz-mtrr
 *   build/fuzz-mtrr -max_total_time=60
 *
 * The input is two states, then frame numbers. Sanitizers watch the ranges; a
 * frame of which the model says that its type has changed and that is in no
 * range ends the run.
 */

#include <stdlib.h>
#include <string.h>

#include "mtrr-model.h"

/* Booleans and the order of members are not the fuzzer's business */
struct fuzz_state {
    uint64_t base[MTRR_RANGES_NR_VAR];
    uint64_t mask[MTRR_RANGES_NR_VAR];
    uint16_t deftype;
    uint8_t fixed[MTRR_RANGES_NR_FIXED];
    uint8_t flags;
};

static void load_state(struct mtrr_ranges_state *s, const uint8_t *data)
{
    struct fuzz_state f;

    memcpy(&f, data, sizeof(f));
    memset(s, 0, sizeof(*s));
    memcpy(s->base, f.base, sizeof(s->base));
    memcpy(s->mask, f.mask, sizeof(s->mask));
    memcpy(s->fixed, f.fixed, sizeof(s->fixed));
    s->deftype = f.deftype;
    s->disabled_type = f.flags & 1 ? MODEL_WB : MODEL_UC;
    s->cd = f.flags & 2;
    s->cd_type = f.flags & 4 ? MODEL_WB : MODEL_UC;
}

static void check(const struct mtrr_ranges_state *a,
                  const struct mtrr_ranges_state *b,
                  const struct mtrr_gfn_range *ranges, unsigned n,
                  uint64_t gfn)
{
    if (model_type(a, gfn) != model_type(b, gfn) &&
        !model_in_ranges(ranges, n, gfn)) {
        abort();
    }
    if (mtrr_ranges_type(a, gfn) != model_type(a, gfn)) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct mtrr_gfn_range ranges[MTRR_RANGES_MAX];
    struct mtrr_ranges_state a, b;
    unsigned n;

    if (size < 2 * sizeof(struct fuzz_state)) {
        return -1;
    }
    load_state(&a, data);
    load_state(&b, data + sizeof(struct fuzz_state));
    n = mtrr_ranges_diff(&a, &b, ranges, MTRR_RANGES_MAX);

    data += 2 * sizeof(struct fuzz_state);
    size -= 2 * sizeof(struct fuzz_state);
    for (; size >= 8; data += 8, size -= 8) {
        uint64_t gfn;

        memcpy(&gfn, data, 8);
        check(&a, &b, ranges, n, gfn % MTRR_RANGES_GFN_END);
    }
    for (int i = 0; i < MTRR_RANGES_NR_VAR; i++) {
        check(&a, &b, ranges, n, a.base[i] >> 12 & (MTRR_RANGES_GFN_END - 1));
        check(&a, &b, ranges, n, b.base[i] >> 12 & (MTRR_RANGES_GFN_END - 1));
    }
    return 0;
}
