/*
 * KVM pre-fault: which memory slots outlive a change of the flat view
 *
 * KVM deletes all mappings of a slot with the slot, and upstream's slots are
 * the ranges of the flat view: one page that is laid over RAM makes one range
 * out of three, and the slot of all RAM is made anew.  Here KVM's slots are a
 * refinement of the flat view: a slot stays as long as the new view maps all
 * of it alike, and new slots fill what is left over.
 *
 * Plain arithmetic on sorted arrays, without KVM, so that it can be tested
 * alone.  Addresses and sizes are multiples of the host's page size.
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef ACCEL_KVM_PREFAULT_SLOTS_H
#define ACCEL_KVM_PREFAULT_SLOTS_H

/* A memory slot, or a section of the flat view */
typedef struct KVMPrefaultSlot {
    uint64_t gpa;
    uint64_t size;
    /* where it is in QEMU; 0 if it is a section without a slot (MMIO) */
    uint64_t host;
    /* ... and in QEMU's list of all RAM, to tell mappings of one page apart */
    uint64_t ram_addr;
    /* KVM's */
    uint32_t flags;
    /*
     * Sections that come: new slots do not cross multiples of this, a power
     * of two; 0 for no limit.  Always the same for the same memory.
     */
    uint64_t unit;
} KVMPrefaultSlot;

/* What a transaction does to one address space; arrays sorted by address */
typedef struct KVMPrefaultSlotChange {
    /* all slots that there are */
    const KVMPrefaultSlot *slots;
    unsigned nr_slots;
    /* sections of the old view that are not in the new one (gpa and size) */
    const KVMPrefaultSlot *gone;
    unsigned nr_gone;
    /* sections of the new view that were not in the old one */
    const KVMPrefaultSlot *come;
    unsigned nr_come;
    /* with more slots than this, slots are put together again */
    unsigned max_slots;
} KVMPrefaultSlotChange;

/* What KVM is to be told of in place of a section */
typedef struct KVMPrefaultSlotPiece {
    /* which section, an index */
    unsigned section;
    /* one slot; size 0 for the section as it is, which has none */
    uint64_t gpa;
    uint64_t size;
} KVMPrefaultSlotPiece;

/**
 * kvm_prefault_slots_plan: find out which slots stay
 * @change: what happens; each slot lies within one section of the old view
 * @del: array of KVMPrefaultSlotPiece, gets the slots to be deleted
 * @add: array of KVMPrefaultSlotPiece, gets the slots to be added
 *
 * Both are sorted by address.  Slots that are not in @del stay, none of @add
 * overlaps one of them, and each lies within one section of the new view.
 *
 * A slot that could stay is deleted only if there would be more than
 * @change->max_slots: then the slots between two multiples of the unit are
 * replaced by one, as often as it takes.  So overlays that wander about leave
 * at most that many pieces behind.
 */
void kvm_prefault_slots_plan(const KVMPrefaultSlotChange *change,
                             GArray *del, GArray *add);

/**
 * kvm_prefault_slots_unit: into what pieces RAM is cut
 * @ram_size: most bytes of RAM that the guest may have
 * @page_size: of the backend's host pages
 *
 * Returns: a power of two.  A piece that is deleted is soon mapped again, and
 * is at least one page; all pieces are few of the slots that KVM has.
 */
uint64_t kvm_prefault_slots_unit(uint64_t ram_size, uint64_t page_size);

#endif
