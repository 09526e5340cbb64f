/*
 * KVM pre-fault: memory slots that KVM alone sees
 *
 * In front of each change of KVM's slots the lists of sections that go and
 * come are rewritten, so that kvm_region_commit() does the least: the rule is
 * in kvm-prefault-slots.c.  What it then does to slots is remembered, and told
 * to prefault's listener at its own commit.
 *
 * Once rewritten, each entry of the lists is one slot, or a section without
 * slots.  So the references that kvm_region_commit() takes and drops are one
 * for each slot.
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/kvm.h>
#include "exec/memory.h"
#include "exec/ramblock.h"
#include "hw/boards.h"
#include "system/kvm_int.h"
#include "kvm-prefault.h"
#include "kvm-prefault-refine.h"
#include "kvm-prefault-slots.h"

typedef struct SlotEvent {
    MemoryRegionSection section;
    int as_id;
    bool add;
} SlotEvent;

/* Never reset: slots that were cut stay so until they go */
static bool refined;

/* Slots that have come and gone since the listener asked */
static GArray *events;

void kvm_prefault_refine_slots(void)
{
    refined = true;
}

/* As kvm_set_phys_mem() decides */
static bool gets_slot(MemoryRegion *mr)
{
    return memory_region_is_ram(mr) ||
           (kvm_readonly_mem_allowed && memory_region_is_romd(mr));
}

/* Device RAM is not cut: it may be huge, and it is not kept mapped */
static uint64_t unit_of(MemoryRegion *mr)
{
    return kvm_prefault_is_ram(mr) ?
           kvm_prefault_slots_unit(current_machine->maxram_size,
                                   qemu_ram_pagesize(mr->ram_block)) : 0;
}

/* As kvm_align_section() does it; size 0 if there is no page in it */
static void align_section(const MemoryRegionSection *section,
                          KVMPrefaultSlot *s)
{
    uint64_t start = section->offset_within_address_space;
    uint64_t end = start + int128_get64(section->size);

    s->gpa = ROUND_UP(start, qemu_real_host_page_size());
    end = ROUND_DOWN(end, qemu_real_host_page_size());
    s->size = end > s->gpa ? end - s->gpa : 0;
}

/* @flags_of is NULL for what goes, of which only the address matters */
static KVMPrefaultSlot describe(const MemoryRegionSection *section,
                                int (*flags_of)(MemoryRegion *mr))
{
    MemoryRegion *mr = section->mr;
    KVMPrefaultSlot s = {};
    uint64_t offset;

    align_section(section, &s);
    if (flags_of && s.size && gets_slot(mr)) {
        offset = section->offset_within_region + s.gpa -
                 section->offset_within_address_space;
        s.host = (uintptr_t)memory_region_get_ram_ptr(mr) + offset;
        s.ram_addr = memory_region_get_ram_addr(mr) + offset;
        s.flags = flags_of(mr);
        s.unit = unit_of(mr);
    }
    return s;
}

static int compare_slots(const void *a, const void *b)
{
    const KVMPrefaultSlot *x = a, *y = b;

    return x->gpa < y->gpa ? -1 : x->gpa > y->gpa;
}

static GArray *sorted_slots(const KVMMemoryListener *kml)
{
    GArray *slots = g_array_new(false, false, sizeof(KVMPrefaultSlot));
    unsigned i;

    for (i = 0; i < kml->nr_slots_allocated; i++) {
        const KVMSlot *mem = &kml->slots[i];
        KVMPrefaultSlot slot = {
            .gpa = mem->start_addr,
            .size = mem->memory_size,
            .host = (uintptr_t)mem->ram,
            .ram_addr = mem->ram_start_offset,
            .flags = mem->flags,
        };

        if (slot.size) {
            g_array_append_val(slots, slot);
        }
    }
    g_array_sort(slots, compare_slots);
    return slots;
}

/* Sections of a list, as they are and as the plan sees them */
typedef struct Sections {
    GArray *sections;
    GArray *described;
} Sections;

static Sections sections_new(void)
{
    return (Sections) {
        g_array_new(false, false, sizeof(MemoryRegionSection)),
        g_array_new(false, false, sizeof(KVMPrefaultSlot)),
    };
}

static void sections_free(Sections *s)
{
    g_array_unref(s->sections);
    g_array_unref(s->described);
}

/* Takes @update over */
static void sections_append(Sections *s, KVMMemoryUpdate *update,
                            int (*flags_of)(MemoryRegion *mr))
{
    KVMPrefaultSlot slot = describe(&update->section, flags_of);

    g_array_append_val(s->sections, update->section);
    g_array_append_val(s->described, slot);
    g_free(update);
}

static MemoryRegionSection part_of(const MemoryRegionSection *section,
                                   hwaddr gpa, uint64_t size)
{
    MemoryRegionSection part = *section;

    part.offset_within_address_space = gpa;
    part.offset_within_region += gpa - section->offset_within_address_space;
    part.size = int128_make64(size);
    return part;
}

static KVMMemoryUpdate *update_new(const Sections *s, const GArray *pieces,
                                   unsigned i)
{
    KVMPrefaultSlotPiece *piece =
        &g_array_index(pieces, KVMPrefaultSlotPiece, i);
    MemoryRegionSection *section =
        &g_array_index(s->sections, MemoryRegionSection, piece->section);
    KVMMemoryUpdate *update = g_new0(KVMMemoryUpdate, 1);

    update->section = piece->size ? part_of(section, piece->gpa, piece->size)
                                  : *section;
    return update;
}

static void refill(KVMMemoryListener *kml, const Sections *gone,
                   const GArray *del, const Sections *come, const GArray *add)
{
    KVMMemoryUpdate *update;
    unsigned i;

    for (i = 0; i < del->len; i++) {
        update = update_new(gone, del, i);
        QSIMPLEQ_INSERT_TAIL(&kml->transaction_del, update, next);
    }
    for (i = 0; i < add->len; i++) {
        update = update_new(come, add, i);
        QSIMPLEQ_INSERT_TAIL(&kml->transaction_add, update, next);
    }
}

/* Fill the lists, which are empty, with what is left to be done */
static void plan_lists(KVMMemoryListener *kml, const Sections *gone,
                       const Sections *come)
{
    g_autoptr(GArray) slots = sorted_slots(kml);
    g_autoptr(GArray) del =
        g_array_new(false, false, sizeof(KVMPrefaultSlotPiece));
    g_autoptr(GArray) add =
        g_array_new(false, false, sizeof(KVMPrefaultSlotPiece));
    KVMPrefaultSlotChange change = {
        .slots = (KVMPrefaultSlot *)slots->data,
        .nr_slots = slots->len,
        .gone = (KVMPrefaultSlot *)gone->described->data,
        .nr_gone = gone->described->len,
        .come = (KVMPrefaultSlot *)come->described->data,
        .nr_come = come->described->len,
        .max_slots = kvm_get_max_memslots() / 4,
    };

    kvm_prefault_slots_plan(&change, del, add);
    refill(kml, gone, del, come, add);
}

void kvm_prefault_keep_slots(KVMMemoryListener *kml,
                             int (*flags_of)(MemoryRegion *mr))
{
    Sections gone, come;
    KVMMemoryUpdate *update;

    if (!refined || (QSIMPLEQ_EMPTY(&kml->transaction_del) &&
                     QSIMPLEQ_EMPTY(&kml->transaction_add))) {
        return;
    }
    gone = sections_new();
    come = sections_new();
    while ((update = QSIMPLEQ_FIRST(&kml->transaction_del))) {
        QSIMPLEQ_REMOVE_HEAD(&kml->transaction_del, next);
        sections_append(&gone, update, NULL);
    }
    while ((update = QSIMPLEQ_FIRST(&kml->transaction_add))) {
        QSIMPLEQ_REMOVE_HEAD(&kml->transaction_add, next);
        sections_append(&come, update, flags_of);
    }
    plan_lists(kml, &gone, &come);
    sections_free(&gone);
    sections_free(&come);
}

hwaddr kvm_prefault_slot_size(KVMMemoryListener *kml, hwaddr start,
                              hwaddr size)
{
    unsigned i;

    for (i = 0; refined && i < kml->nr_slots_allocated; i++) {
        const KVMSlot *mem = &kml->slots[i];

        if (mem->start_addr == start && mem->memory_size &&
            mem->memory_size <= size) {
            return mem->memory_size;
        }
    }
    return size;
}

/* Once slots are followed they are followed to the end */
static bool is_followed(void)
{
    static bool followed;

    followed |= kvm_prefault.tdp_on || kvm_prefault.pin != KVM_PIN_RAM_OFF;
    return followed;
}

void kvm_prefault_slot_changed(KVMMemoryListener *kml,
                               MemoryRegionSection *section, hwaddr start,
                               hwaddr size, bool add)
{
    SlotEvent event = {
        .section = part_of(section, start, size),
        .as_id = kml->as_id,
        .add = add,
    };

    if (!is_followed()) {
        return;
    }
    if (!events) {
        events = g_array_new(false, false, sizeof(SlotEvent));
    }
    /* a copy that outlives the view */
    event.section.fv = NULL;
    memory_region_ref(section->mr);
    g_array_append_val(events, event);
}

void kvm_prefault_tell_slots(KVMPrefaultSlotChanged *changed)
{
    g_autoptr(GArray) list = g_steal_pointer(&events);
    unsigned i;

    for (i = 0; list && i < list->len; i++) {
        SlotEvent *event = &g_array_index(list, SlotEvent, i);

        changed(&event->section, event->as_id, event->add);
        memory_region_unref(event->section.mr);
    }
}
