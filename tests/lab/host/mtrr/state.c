/* SPDX-License-Identifier: GPL-2.0-or-later */
/* States of MTRRs, and the MSR writes that make them. */

#include <stdio.h>
#include <string.h>

#include "mtrr.h"

#define MSR_VAR_BASE    0x200
#define MSR_DEFTYPE     0x2ff
#define ENABLE          (1u << 11)
#define FIXED_ENABLE    (1u << 10)
#define VALID           (1u << 11)
#define NR_WRITES       (11 + 2 * MTRR_RANGES_NR_VAR + 1)

static const uint32_t msr_fixed[11] = {
    0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f,
};

static uint64_t seed_now = 1;

void random_seed(uint64_t seed)
{
    seed_now = seed * 2 + 1;
}

/* xorshift; the same numbers everywhere for the same seed */
uint32_t random_below(uint32_t limit)
{
    seed_now ^= seed_now << 13;
    seed_now ^= seed_now >> 7;
    seed_now ^= seed_now << 17;
    return (uint32_t)(seed_now >> 32) % limit;
}

static uint8_t random_type(void)
{
    static const uint8_t types[] = { 0, 1, 4, 5, 6 };

    return types[random_below(sizeof(types))];
}

static uint64_t address_mask(unsigned address_bits)
{
    return ((1ULL << address_bits) - 1) & ~(uint64_t)(PAGE - 1);
}

/* Mostly somewhere in memory; now and then with a mask that has a hole */
static void random_range(struct mtrr_ranges_state *state, int i,
                         uint64_t memory, unsigned address_bits)
{
    uint64_t size = (uint64_t)PAGE << random_below(15);
    uint64_t page = random_below(memory / PAGE * 5 / 4);

    state->mask[i] = address_mask(address_bits) & ~(size - 1);
    if (!random_below(8)) {
        state->mask[i] &= ~((uint64_t)PAGE << random_below(12));
    }
    state->base[i] = (page * PAGE & state->mask[i]) | random_type();
    state->mask[i] |= random_below(2) ? VALID : 0;
}

void state_random(struct mtrr_ranges_state *state, uint64_t memory,
                  unsigned address_bits)
{
    memset(state, 0, sizeof(*state));
    state->deftype = random_type();
    state->deftype |= random_below(8) ? ENABLE : 0;
    state->deftype |= random_below(4) ? FIXED_ENABLE : 0;
    for (int i = 0; i < MTRR_RANGES_NR_FIXED; i++) {
        state->fixed[i] = random_type();
    }
    for (int i = 0; i < MTRR_RANGES_NR_VAR; i++) {
        random_range(state, i, memory, address_bits);
    }
}

/* WB but for the VGA window, ROMs (WP) and the PCI hole from 3 GiB on */
void state_firmware(struct mtrr_ranges_state *state, unsigned address_bits)
{
    memset(state, 0, sizeof(*state));
    state->deftype = ENABLE | FIXED_ENABLE | MODEL_WB;
    memset(state->fixed, MODEL_WB, 16);
    memset(state->fixed + 16, MODEL_UC, 8);
    memset(state->fixed + 24, 5, 64);
    state->base[0] = 0xc0000000 | MODEL_UC;
    state->mask[0] = (address_mask(address_bits) & ~0x3fffffffULL) | VALID;
}

static uint64_t fixed_value(const struct mtrr_ranges_state *state, int msr)
{
    uint64_t value;

    memcpy(&value, state->fixed + msr * 8, sizeof(value));
    return value;
}

/* The number'th of all MSRs that make up the state */
static void write_one(struct vcpu *vcpu, const struct mtrr_ranges_state *state,
                      int number)
{
    int var = number - 11;

    if (number < 11) {
        block_op(vcpu, msr_fixed[number], fixed_value(state, number));
    } else if (number == NR_WRITES - 1) {
        block_op(vcpu, MSR_DEFTYPE, state->deftype);
    } else {
        block_op(vcpu, MSR_VAR_BASE + var,
                 var % 2 ? state->mask[var / 2] : state->base[var / 2]);
    }
}

void state_write(struct vcpu *vcpu, const struct mtrr_ranges_state *state,
                 bool shuffled)
{
    int order[NR_WRITES];

    for (int i = 0; i < NR_WRITES; i++) {
        int other = shuffled ? (int)random_below(i + 1) : i;

        if (other != i) {
            order[i] = order[other];
        }
        order[other] = i;
    }
    for (int i = 0; i < NR_WRITES; i++) {
        write_one(vcpu, state, order[i]);
    }
}
