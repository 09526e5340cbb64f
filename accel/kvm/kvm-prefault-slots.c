/*
 * KVM pre-fault: which memory slots outlive a change of the flat view
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "kvm-prefault-slots.h"

/*
 * Mapped again by the vCPU that caused the deletion: in two address spaces,
 * beside the first MiB, less than INLINE_BYTES_MAX (kvm-prefault-listener.c).
 */
#define UNIT_MIN (16 * MiB)

/* Slots are looked up one by one, so there should not be too many */
#define UNITS_MAX 2048

/* What happens to a slot */
typedef enum Fate {
    FATE_UNTOUCHED,     /* it is in no section that goes */
    FATE_GOES,
    FATE_STAYS,
} Fate;

typedef struct Plan {
    const KVMPrefaultSlotChange *change;
    Fate *fates;
    /* the next slot to look at */
    unsigned at;
} Plan;

static uint64_t end_of(const KVMPrefaultSlot *slot)
{
    return slot->gpa + slot->size;
}

/* Where a slot of @section that begins at @gpa has to end */
static uint64_t block_end(const KVMPrefaultSlot *section, uint64_t gpa)
{
    uint64_t left = end_of(section) - gpa;

    if (section->unit) {
        left = MIN(left, section->unit - (gpa & (section->unit - 1)));
    }
    return gpa + left;
}

/*
 * Whether @section, the first that ends behind the start of @slot, maps all of
 * it as it is.  MMIO does not: a slot's address in QEMU is not 0.
 */
static bool maps_alike(const KVMPrefaultSlot *section,
                       const KVMPrefaultSlot *slot)
{
    uint64_t offset = slot->gpa - section->gpa;

    return section->gpa <= slot->gpa &&
           end_of(slot) <= block_end(section, slot->gpa) &&
           slot->host == section->host + offset &&
           slot->ram_addr == section->ram_addr + offset &&
           slot->flags == section->flags;
}

/* The first of @sections, from @at on, that ends behind the start of @slot */
static unsigned section_at(const KVMPrefaultSlot *sections, unsigned nr,
                           unsigned at, const KVMPrefaultSlot *slot)
{
    while (at < nr && end_of(&sections[at]) <= slot->gpa) {
        at++;
    }
    return at;
}

static void find_fates(Plan *plan)
{
    const KVMPrefaultSlotChange *c = plan->change;
    unsigned i, gone = 0, come = 0;

    for (i = 0; i < c->nr_slots; i++) {
        const KVMPrefaultSlot *slot = &c->slots[i];

        gone = section_at(c->gone, c->nr_gone, gone, slot);
        come = section_at(c->come, c->nr_come, come, slot);
        if (gone == c->nr_gone || c->gone[gone].gpa > slot->gpa) {
            plan->fates[i] = FATE_UNTOUCHED;
        } else if (come < c->nr_come && maps_alike(&c->come[come], slot)) {
            plan->fates[i] = FATE_STAYS;
        } else {
            plan->fates[i] = FATE_GOES;
        }
    }
}

static void add_piece(GArray *pieces, unsigned section, uint64_t gpa,
                      uint64_t size)
{
    KVMPrefaultSlotPiece piece = {
        .section = section, .gpa = gpa, .size = size,
    };

    if (pieces) {
        g_array_append_val(pieces, piece);
    }
}

/* The next slot that stays if it begins before @end, else NULL */
static const KVMPrefaultSlot *next_stays(Plan *plan, uint64_t end)
{
    const KVMPrefaultSlotChange *c = plan->change;

    while (plan->at < c->nr_slots && c->slots[plan->at].gpa < end) {
        if (plan->fates[plan->at] == FATE_STAYS) {
            return &c->slots[plan->at];
        }
        plan->at++;
    }
    return NULL;
}

/*
 * Fill what slots that stay leave of @gpa to @end, which is in @section.
 * Returns how many slots there are then.
 */
static unsigned fill_block(Plan *plan, unsigned section, uint64_t gpa,
                           uint64_t end, GArray *add)
{
    const KVMPrefaultSlot *slot;
    unsigned nr = 0;

    while ((slot = next_stays(plan, end))) {
        if (slot->gpa > gpa) {
            add_piece(add, section, gpa, slot->gpa - gpa);
            nr++;
        }
        gpa = end_of(slot);
        plan->at++;
        nr++;
    }
    if (gpa < end) {
        add_piece(add, section, gpa, end - gpa);
        nr++;
    }
    return nr;
}

/* Have one slot instead of those that @plan has come by since @from */
static void give_up_block(Plan *plan, unsigned from)
{
    for (; from < plan->at; from++) {
        if (plan->fates[from] == FATE_STAYS) {
            plan->fates[from] = FATE_GOES;
        }
    }
}

/* Fill a section that comes, as fill() */
static unsigned fill_section(Plan *plan, unsigned i, unsigned *excess,
                             GArray *add)
{
    const KVMPrefaultSlot *section = &plan->change->come[i];
    uint64_t gpa, end;
    unsigned total = 0;

    for (gpa = section->gpa; gpa < end_of(section); gpa = end) {
        unsigned nr, from = plan->at;

        end = block_end(section, gpa);
        nr = fill_block(plan, i, gpa, end, add);
        if (*excess && nr > 1) {
            give_up_block(plan, from);
            *excess -= MIN(*excess, nr - 1);
            nr = 1;
        }
        total += nr;
    }
    return total;
}

/*
 * Fill all sections that come.  While there are @excess slots too many, give
 * up blocks with more than one.  Returns how many slots there are then.
 */
static unsigned fill(Plan *plan, unsigned excess, GArray *add)
{
    const KVMPrefaultSlotChange *c = plan->change;
    unsigned i, total = 0;

    plan->at = 0;
    for (i = 0; i < c->nr_come; i++) {
        if (c->come[i].host) {
            total += fill_section(plan, i, &excess, add);
        } else {
            add_piece(add, i, c->come[i].gpa, 0);
        }
    }
    return total;
}

static unsigned count_untouched(const Plan *plan)
{
    unsigned i, nr = 0;

    for (i = 0; i < plan->change->nr_slots; i++) {
        nr += plan->fates[i] == FATE_UNTOUCHED;
    }
    return nr;
}

/* Slots that go; a section without slots goes as it is */
static void list_gone(const Plan *plan, GArray *del)
{
    const KVMPrefaultSlotChange *c = plan->change;
    unsigned i, slot = 0;

    for (i = 0; i < c->nr_gone; i++) {
        bool has_slots = false;

        for (; slot < c->nr_slots &&
               c->slots[slot].gpa < end_of(&c->gone[i]); slot++) {
            has_slots |= plan->fates[slot] != FATE_UNTOUCHED;
            if (plan->fates[slot] == FATE_GOES) {
                add_piece(del, i, c->slots[slot].gpa, c->slots[slot].size);
            }
        }
        if (!has_slots) {
            add_piece(del, i, c->gone[i].gpa, 0);
        }
    }
}

void kvm_prefault_slots_plan(const KVMPrefaultSlotChange *change,
                             GArray *del, GArray *add)
{
    g_autofree Fate *fates = g_new0(Fate, change->nr_slots + 1);
    Plan plan = { .change = change, .fates = fates };
    unsigned total;

    find_fates(&plan);
    total = count_untouched(&plan) + fill(&plan, 0, NULL);
    if (total > change->max_slots) {
        fill(&plan, total - change->max_slots, NULL);
    }
    list_gone(&plan, del);
    fill(&plan, 0, add);
}

uint64_t kvm_prefault_slots_unit(uint64_t ram_size, uint64_t page_size)
{
    uint64_t unit = MAX(UNIT_MIN, page_size);

    while (ram_size / unit > UNITS_MAX) {
        unit *= 2;
    }
    return unit;
}
