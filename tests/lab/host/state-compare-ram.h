/*
 * Guest memory, and a checksum of it, for state-compare.c
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef STATE_COMPARE_RAM_H
#define STATE_COMPARE_RAM_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

/* Where the instructions and tables of method "vcpu" lie */
#define STUB_START 0xfeff8000ULL
#define STUB_END   0xff000000ULL

#define PDPTE_PRESENT  0x01ULL
#define PDPTE_ACCESSED 0x20ULL

#define MAX_VCPUS  16
#define MAX_SLOTS  128

struct slot {
    uint32_t id;
    uint64_t gpa, size, host;
};

struct range {
    uint64_t gpa, size;
};

static struct slot slots[MAX_SLOTS];

/* Where KVM tells the guest what time it is, whenever a vCPU runs */
static struct range clocks[2 * MAX_VCPUS];

static void note_slot(const struct kvm_userspace_memory_region *r)
{
    struct slot *slot = NULL;
    int i;

    for (i = MAX_SLOTS - 1; i >= 0; i--) {
        if (!slots[i].size || slots[i].id == r->slot) {
            slot = &slots[i];
        }
        if (slots[i].size && slots[i].id == r->slot) {
            break;
        }
    }
    if (!slot) {
        abort();
    }
    *slot = (struct slot) { r->slot, r->guest_phys_addr, r->memory_size,
                            r->userspace_addr };
}

/* Where guest memory that is in a slot lies in QEMU */
static uint64_t *guest_words(uint64_t gpa)
{
    int i;

    for (i = 0; i < MAX_SLOTS; i++) {
        if (gpa >= slots[i].gpa && gpa - slots[i].gpa < slots[i].size) {
            return (uint64_t *)(slots[i].host + gpa - slots[i].gpa);
        }
    }
    abort();
}

/* In page directory pointers the accessed bit is a reserved one */
static void mark_accessed(uint64_t *pdpt, bool accessed)
{
    int i;

    for (i = 0; i < 4; i++) {
        if (pdpt[i] & PDPTE_PRESENT) {
            __atomic_fetch_and(&pdpt[i], ~PDPTE_ACCESSED, __ATOMIC_SEQ_CST);
            __atomic_fetch_or(&pdpt[i], accessed ? PDPTE_ACCESSED : 0,
                              __ATOMIC_SEQ_CST);
        }
    }
}

/* An odd factor per address: a word that changes changes the sum */
static uint64_t term(uint64_t gpa, uint64_t word)
{
    return (word + 0x9e3779b97f4a7c15ULL) * (2 * gpa + 1);
}

static uint64_t sum_of(const struct slot *slot, uint64_t gpa, uint64_t size)
{
    const uint64_t *host = (const uint64_t *)(slot->host + gpa - slot->gpa);
    uint64_t sum = 0, at;

    for (at = 0; at < size; at += 8) {
        sum += term(gpa + at, host[at / 8]);
    }
    return sum;
}

static bool counts(const struct slot *slot)
{
    /* address space 1, for SMM, shows the same memory */
    return !(slot->id >> 16) &&
           !(slot->gpa >= STUB_START && slot->gpa < STUB_END);
}

/* Of all memory but the clocks */
static uint64_t checksum(void)
{
    uint64_t sum = 0;
    int i, j;

    for (i = 0; i < MAX_SLOTS; i++) {
        const struct slot *s = &slots[i];

        if (!s->size || !counts(s)) {
            continue;
        }
        sum += sum_of(s, s->gpa, s->size);
        for (j = 0; j < 2 * MAX_VCPUS; j++) {
            if (clocks[j].gpa >= s->gpa && clocks[j].gpa < s->gpa + s->size) {
                sum -= sum_of(s, clocks[j].gpa, clocks[j].size);
            }
        }
    }
    return sum;
}

#endif
