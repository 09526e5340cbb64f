/*
 * KVM pre-fault: which memory slots outlive a change of the flat view
 *
 * A model of guest memory is drawn page by page, made a flat view, compared
 * with the one before as the memory core does it, and KVM's slots are changed
 * by the plan.
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "accel/kvm/kvm-prefault-slots.h"

#define PAGE 4096ULL
#define PAGES_MAX 1024
/* in each of two runs, in both address spaces */
#define TRANSACTIONS 500000

enum { AS_MEMORY, AS_SMM, AS__MAX };

enum { FLAG_LOG = 1, FLAG_READONLY = 2 };

typedef enum RegionId {
    NOTHING, MMIO, RAM, DIMM, HUGE, DEVICE_RAM, ROM, REGION__MAX,
} RegionId;

/* A piece of memory; all in pages but for flags */
typedef struct Region {
    uint64_t host;
    unsigned unit;
    uint32_t flags;
} Region;

static Region regions[REGION__MAX];

/* A region, or a part of one, put somewhere; later layers hide earlier ones */
typedef struct Layer {
    bool on;
    RegionId region;
    unsigned at, size, offset;
    /* a read-only alias of RAM; KVM's flags do not tell */
    bool readonly;
    bool smm_only;
} Layer;

static GArray *layers;

/* What the memory core compares, and what KVM sees of it */
typedef struct Section {
    KVMPrefaultSlot slot;
    RegionId region;
    uint64_t offset;
    bool readonly;
} Section;

typedef struct Slot {
    KVMPrefaultSlot slot;
    unsigned serial;
} Slot;

typedef struct Space {
    /* of Section */
    GArray *view;
    /* of Slot, sorted */
    GArray *slots;
    unsigned deleted, added;
    uint64_t deleted_bytes, deleted_above;
} Space;

static Space spaces[AS__MAX];
static unsigned nr_pages, max_slots, serial;

/* Above this nothing is expected to be deleted, in bytes */
static uint64_t quiet_from;

#define SECTION(array, i) (&g_array_index(array, Section, i))
#define SLOT(array, i) (&g_array_index(array, Slot, i))

static uint64_t slot_end(const KVMPrefaultSlot *slot)
{
    return slot->gpa + slot->size;
}

/* The uppermost layer at @page, NULL if there is none */
static const Layer *layer_at(int as, unsigned page)
{
    unsigned i;

    for (i = layers->len; i-- > 0;) {
        const Layer *layer = &g_array_index(layers, Layer, i);

        if (layer->on && layer->at <= page &&
            page < layer->at + layer->size &&
            (as == AS_SMM || !layer->smm_only)) {
            return layer->region == NOTHING ? NULL : layer;
        }
    }
    return NULL;
}

static Section section_of_page(const Layer *layer, unsigned page)
{
    const Region *region = &regions[layer->region];
    uint64_t offset = (layer->offset + page - layer->at) * PAGE;

    return (Section) {
        .slot = {
            .gpa = page * PAGE,
            .size = PAGE,
            .host = region->host ? region->host + offset : 0,
            .ram_addr = region->host ? region->host / 2 + offset : 0,
            .flags = region->flags,
            .unit = region->unit * PAGE,
        },
        .region = layer->region,
        .offset = offset,
        .readonly = layer->readonly,
    };
}

static bool can_merge(const Section *a, const Section *b)
{
    return a->region == b->region && slot_end(&a->slot) == b->slot.gpa &&
           a->offset + a->slot.size == b->offset && a->readonly == b->readonly;
}

static GArray *draw_view(int as)
{
    GArray *view = g_array_new(false, false, sizeof(Section));
    unsigned page;

    for (page = 0; page < nr_pages; page++) {
        const Layer *layer = layer_at(as, page);
        Section section;

        if (!layer) {
            continue;
        }
        section = section_of_page(layer, page);
        if (view->len && can_merge(SECTION(view, view->len - 1), &section)) {
            SECTION(view, view->len - 1)->slot.size += PAGE;
        } else {
            g_array_append_val(view, section);
        }
    }
    return view;
}

/* flatrange_equal() */
static bool is_same(const Section *a, const Section *b)
{
    return a->slot.gpa == b->slot.gpa && a->slot.size == b->slot.size &&
           a->region == b->region && a->offset == b->offset &&
           a->readonly == b->readonly;
}

/* The slot that begins at @gpa */
static Slot *find_slot(Space *space, uint64_t gpa)
{
    unsigned low = 0, high = space->slots->len;

    while (low < high) {
        unsigned middle = (low + high) / 2;

        if (SLOT(space->slots, middle)->slot.gpa < gpa) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < space->slots->len &&
           SLOT(space->slots, low)->slot.gpa == gpa ?
           SLOT(space->slots, low) : NULL;
}

/* kvm_section_update_flags(): slot by slot, each has to be there */
static void update_flags(Space *space, const Section *section)
{
    uint64_t gpa = section->slot.gpa;

    while (section->slot.host && gpa < slot_end(&section->slot)) {
        Slot *slot = find_slot(space, gpa);

        g_assert_nonnull(slot);
        slot->slot.flags = section->slot.flags;
        gpa = slot_end(&slot->slot);
        g_assert_cmpuint(gpa, <=, slot_end(&section->slot));
    }
}

/* What is in one of @from and not in @other; what is in both is logged anew */
static GArray *view_minus(Space *space, GArray *from, GArray *other, bool log)
{
    GArray *left = g_array_new(false, false, sizeof(KVMPrefaultSlot));
    unsigned i, j = 0;

    for (i = 0; i < from->len; i++) {
        Section *section = SECTION(from, i);

        while (j < other->len &&
               SECTION(other, j)->slot.gpa < section->slot.gpa) {
            j++;
        }
        if (j == other->len || !is_same(section, SECTION(other, j))) {
            g_array_append_val(left, section->slot);
        } else if (log && section->slot.flags !=
                   SECTION(other, j)->slot.flags) {
            update_flags(space, section);
        }
    }
    return left;
}

static void delete_slots(Space *space, GArray *gone, GArray *del)
{
    unsigned i;

    for (i = 0; i < del->len; i++) {
        KVMPrefaultSlotPiece *p =
            &g_array_index(del, KVMPrefaultSlotPiece, i);
        KVMPrefaultSlot *section =
            &g_array_index(gone, KVMPrefaultSlot, p->section);
        Slot *slot = find_slot(space, p->gpa);

        if (!p->size) {
            /* kvm_set_phys_mem() must not find any either */
            g_assert_null(slot);
            g_assert_cmpuint(p->gpa, ==, section->gpa);
            continue;
        }
        g_assert_nonnull(slot);
        g_assert_cmpuint(slot->slot.size, ==, p->size);
        g_assert_cmpuint(section->gpa, <=, p->gpa);
        g_assert_cmpuint(p->gpa + p->size, <=, slot_end(section));
        g_array_remove_index(space->slots, slot - SLOT(space->slots, 0));
        space->deleted++;
        space->deleted_bytes += p->size;
        space->deleted_above += p->gpa >= quiet_from ? p->size : 0;
    }
}

static void insert_slot(Space *space, const KVMPrefaultSlot *new)
{
    Slot slot = { .slot = *new, .serial = ++serial };
    unsigned i = space->slots->len;

    while (i && SLOT(space->slots, i - 1)->slot.gpa > new->gpa) {
        i--;
    }
    g_array_insert_val(space->slots, i, slot);
    if (i) {
        g_assert_cmpuint(slot_end(&SLOT(space->slots, i - 1)->slot), <=,
                         new->gpa);
    }
    if (i + 1 < space->slots->len) {
        g_assert_cmpuint(slot_end(new), <=,
                         SLOT(space->slots, i + 1)->slot.gpa);
    }
    space->added++;
}

static void add_slots(Space *space, GArray *come, GArray *add)
{
    unsigned i;

    for (i = 0; i < add->len; i++) {
        KVMPrefaultSlotPiece *p =
            &g_array_index(add, KVMPrefaultSlotPiece, i);
        KVMPrefaultSlot slot =
            g_array_index(come, KVMPrefaultSlot, p->section);
        uint64_t offset = p->gpa - slot.gpa;

        if (!p->size) {
            g_assert_cmpuint(slot.host, ==, 0);
            continue;
        }
        g_assert_cmpuint(slot.host, !=, 0);
        g_assert_cmpuint(slot.gpa, <=, p->gpa);
        g_assert_cmpuint(p->gpa + p->size, <=, slot_end(&slot));
        if (slot.unit) {
            g_assert_cmpuint(p->gpa / slot.unit, ==,
                             (p->gpa + p->size - 1) / slot.unit);
        }
        slot.gpa = p->gpa;
        slot.size = p->size;
        slot.host += offset;
        slot.ram_addr += offset;
        insert_slot(space, &slot);
    }
}

static void assert_sorted(GArray *pieces)
{
    unsigned i;

    for (i = 1; i < pieces->len; i++) {
        KVMPrefaultSlotPiece *p =
            &g_array_index(pieces, KVMPrefaultSlotPiece, i);

        g_assert_cmpuint(p[-1].gpa + p[-1].size, <=, p->gpa);
        g_assert_cmpuint(p[-1].section, <=, p->section);
    }
}

/* Slots cover exactly the RAM of @view, as it is, and do not cross sections */
static void assert_covers(Space *space, GArray *view)
{
    unsigned i, next = 0;

    for (i = 0; i < view->len; i++) {
        KVMPrefaultSlot *section = &SECTION(view, i)->slot;
        uint64_t gpa = section->gpa;

        while (section->host && gpa < slot_end(section)) {
            KVMPrefaultSlot *slot;

            g_assert_cmpuint(next, <, space->slots->len);
            slot = &SLOT(space->slots, next++)->slot;
            g_assert_cmphex(slot->gpa, ==, gpa);
            g_assert_cmphex(slot->host, ==,
                            section->host + gpa - section->gpa);
            g_assert_cmphex(slot->ram_addr, ==,
                            section->ram_addr + gpa - section->gpa);
            g_assert_cmphex(slot->flags, ==, section->flags);
            gpa = slot_end(slot);
            g_assert_cmphex(gpa, <=, slot_end(section));
        }
    }
    g_assert_cmpuint(next, ==, space->slots->len);
}

/* How many slots it would be at least */
static unsigned count_blocks(GArray *view)
{
    unsigned i, nr = 0;

    for (i = 0; i < view->len; i++) {
        KVMPrefaultSlot *s = &SECTION(view, i)->slot;

        if (s->host) {
            nr += s->unit ? (slot_end(s) - 1) / s->unit - s->gpa / s->unit + 1
                          : 1;
        }
    }
    return nr;
}

/* No slot is deleted that @come maps alike */
static void assert_kept(GArray *before, GArray *come, GArray *del)
{
    unsigned i, slot = 0, section = 0;

    for (i = 0; i < del->len; i++) {
        KVMPrefaultSlotPiece *p =
            &g_array_index(del, KVMPrefaultSlotPiece, i);
        KVMPrefaultSlot *s, *c;

        if (!p->size) {
            continue;
        }
        while (SLOT(before, slot)->slot.gpa != p->gpa) {
            slot++;
        }
        s = &SLOT(before, slot)->slot;
        while (section < come->len &&
               slot_end(&g_array_index(come, KVMPrefaultSlot, section)) <=
               s->gpa) {
            section++;
        }
        if (section == come->len) {
            break;
        }
        c = &g_array_index(come, KVMPrefaultSlot, section);
        g_assert_false(c->gpa <= s->gpa && slot_end(s) <= slot_end(c) &&
                       c->host - c->gpa == s->host - s->gpa &&
                       c->flags == s->flags && c->host);
    }
}

static GArray *copy_array(GArray *array, unsigned size)
{
    GArray *copy = g_array_sized_new(false, false, size, array->len);

    return g_array_append_vals(copy, array->data, array->len);
}

typedef struct Plan {
    GArray *del, *add;
} Plan;

static Plan make_plan(GArray *before, GArray *gone, GArray *come, unsigned max)
{
    g_autoptr(GArray) slots =
        g_array_new(false, false, sizeof(KVMPrefaultSlot));
    KVMPrefaultSlotChange change = { .max_slots = max };
    Plan plan = {
        g_array_new(false, false, sizeof(KVMPrefaultSlotPiece)),
        g_array_new(false, false, sizeof(KVMPrefaultSlotPiece)),
    };
    unsigned i;

    for (i = 0; i < before->len; i++) {
        g_array_append_val(slots, SLOT(before, i)->slot);
    }
    change.slots = (void *)slots->data;
    change.nr_slots = slots->len;
    change.gone = (void *)gone->data;
    change.nr_gone = gone->len;
    change.come = (void *)come->data;
    change.nr_come = come->len;
    kvm_prefault_slots_plan(&change, plan.del, plan.add);
    assert_sorted(plan.del);
    assert_sorted(plan.add);
    return plan;
}

static void free_plan(Plan *plan)
{
    g_array_unref(plan->del);
    g_array_unref(plan->add);
}

static unsigned count_slots(GArray *pieces)
{
    unsigned i, nr = 0;

    for (i = 0; i < pieces->len; i++) {
        nr += g_array_index(pieces, KVMPrefaultSlotPiece, i).size != 0;
    }
    return nr;
}

/* Without a limit all is kept that can be; with one, if that is too much */
static Plan checked_plan(GArray *before, GArray *gone, GArray *come)
{
    Plan free = make_plan(before, gone, come, UINT_MAX);
    Plan plan = make_plan(before, gone, come, max_slots);
    unsigned nr = before->len - count_slots(free.del) + count_slots(free.add);

    assert_kept(before, come, free.del);
    if (nr <= max_slots) {
        g_assert_cmpuint(plan.del->len, ==, free.del->len);
        g_assert_cmpuint(plan.add->len, ==, free.add->len);
    }
    free_plan(&free);
    return plan;
}

/* One transaction of the memory core in address space @as */
static void commit_space(int as)
{
    Space *space = &spaces[as];
    GArray *view = draw_view(as);
    g_autoptr(GArray) gone = view_minus(space, space->view, view, false);
    g_autoptr(GArray) come = view_minus(space, view, space->view, true);
    g_autoptr(GArray) before = copy_array(space->slots, sizeof(Slot));
    Plan plan = checked_plan(before, gone, come);

    space->deleted = space->added = 0;
    space->deleted_bytes = space->deleted_above = 0;
    delete_slots(space, gone, plan.del);
    add_slots(space, come, plan.add);
    assert_covers(space, view);
    g_assert_cmpuint(space->slots->len, <=, max_slots + count_blocks(view));
    g_array_unref(space->view);
    space->view = view;
    free_plan(&plan);
}

static void commit(void)
{
    commit_space(AS_MEMORY);
    commit_space(AS_SMM);
}

static unsigned lay(RegionId region, unsigned at, unsigned size,
                    unsigned offset)
{
    Layer layer = {
        .on = true, .region = region, .at = at, .size = size,
        .offset = offset,
    };

    g_array_append_val(layers, layer);
    return layers->len - 1;
}

static Layer *layer(unsigned i)
{
    return &g_array_index(layers, Layer, i);
}

static void setup(unsigned pages, unsigned slots)
{
    unsigned i;

    nr_pages = pages;
    max_slots = slots;
    quiet_from = 0;
    memset(regions, 0, sizeof(regions));
    for (i = RAM; i < REGION__MAX; i++) {
        regions[i].host = (uint64_t)i << 40;
    }
    regions[RAM].unit = regions[DIMM].unit = 16;
    regions[HUGE].unit = 32;
    regions[ROM].flags = FLAG_READONLY;
    layers = g_array_new(false, false, sizeof(Layer));
    for (i = 0; i < AS__MAX; i++) {
        spaces[i].view = g_array_new(false, false, sizeof(Section));
        spaces[i].slots = g_array_new(false, false, sizeof(Slot));
    }
}

static void teardown(void)
{
    unsigned i;

    for (i = 0; i < AS__MAX; i++) {
        g_array_unref(spaces[i].view);
        g_array_unref(spaces[i].slots);
    }
    g_array_unref(layers);
}

/* A change that must not delete more than @slots slots and @pages pages */
static void commit_deletes(int as, unsigned slots, unsigned pages)
{
    commit();
    g_assert_cmpuint(spaces[as].deleted, ==, slots);
    g_assert_cmpuint(spaces[as].deleted_bytes, ==, pages * PAGE);
}

/*
 * A PC of 4 MiB, all in pages: VGA at 0xa0, PAM from 0xc0 to 0x100 in 13
 * pieces, which are ROM or nothing at reset.  Returns the first PAM layer.
 */
static unsigned lay_pc(void)
{
    unsigned i, pam;

    setup(1024, 1000);
    lay(RAM, 0, 1024, 0);
    lay(MMIO, 0xa0, 0x20, 0);
    pam = layers->len;
    for (i = 0; i < 12; i++) {
        lay(ROM, 0xc0 + i * 4, 4, i * 4);
    }
    lay(ROM, 0xf0, 0x10, 0x30);
    commit();
    quiet_from = 0x100 * PAGE;
    return pam;
}

/* PAM switches pieces to RAM and back: above 1 MiB nothing happens */
static void test_pam(void)
{
    unsigned pam = lay_pc(), i, round;

    for (round = 0; round < 3; round++) {
        for (i = 0; i < 13; i++) {
            layer(pam + i)->on = false;
            commit();
            /* what is left of the slot of ROM has to be made anew */
            g_assert_cmpuint(spaces[AS_MEMORY].deleted, <=, 1);
            g_assert_cmpuint(spaces[AS_MEMORY].deleted_above, ==, 0);
        }
        for (i = 0; i < 13; i++) {
            layer(pam + i)->on = true;
            commit();
            g_assert_cmpuint(spaces[AS_MEMORY].deleted_above, ==, 0);
            /* RAM of this piece was a slot of its own */
            g_assert_cmpuint(spaces[AS_MEMORY].deleted, <=, 2);
        }
    }
    teardown();
}

/* "Read-only RAM" of PAM is another section, but the same for KVM */
static void test_pam_readonly(void)
{
    unsigned pam = lay_pc(), alias;

    layer(pam)->on = false;
    alias = lay(RAM, 0xc0, 4, 0xc0);
    commit();
    layer(alias)->readonly = true;
    commit_deletes(AS_MEMORY, 0, 0);
    g_assert_cmpuint(spaces[AS_MEMORY].added, ==, 0);
    layer(alias)->readonly = false;
    commit_deletes(AS_MEMORY, 0, 0);
    teardown();
}

/* SMRAM shows RAM in place of VGA, to SMM only or to all */
static void test_smram(void)
{
    unsigned smram, i;

    lay_pc();
    smram = lay(RAM, 0xa0, 0x20, 0xa0);
    layer(smram)->smm_only = true;
    commit_deletes(AS_SMM, 0, 0);
    g_assert_cmpuint(spaces[AS_MEMORY].added, ==, 0);
    for (i = 0; i < 3; i++) {
        layer(smram)->smm_only = false;
        commit_deletes(AS_MEMORY, 0, 0);
        g_assert_cmpuint(spaces[AS_SMM].added, ==, 0);
        layer(smram)->smm_only = true;
        commit_deletes(AS_MEMORY, 2, 0x20);
        layer(smram)->on = false;
        commit_deletes(AS_SMM, 2, 0x20);
        layer(smram)->on = true;
        commit();
    }
    teardown();
}

/* The top of RAM is hidden from all but SMM, until the next reset */
static void test_tseg(void)
{
    static const unsigned sizes[] = { 1, 2, 8, 16, 32, 48, 64, 7, 100 };
    unsigned i, j, tseg, rest;

    for (i = 0; i < ARRAY_SIZE(sizes); i++) {
        lay_pc();
        rest = -sizes[i] % 16u;
        tseg = lay(MMIO, 1024 - sizes[i], sizes[i], 0);
        commit_deletes(AS_MEMORY, DIV_ROUND_UP(sizes[i], 16),
                       sizes[i] + rest);
        for (j = 0; j < 3; j++) {
            layer(tseg)->on = false;
            commit_deletes(AS_MEMORY, 0, 0);
            layer(tseg)->on = true;
            commit_deletes(AS_MEMORY, DIV_ROUND_UP(sizes[i], 16), sizes[i]);
            layer(tseg)->region = NOTHING;
            commit_deletes(AS_MEMORY, 0, 0);
            layer(tseg)->region = MMIO;
            commit_deletes(AS_MEMORY, 0, 0);
        }
        teardown();
    }
}

/* TSEG does not concern SMM */
static void test_tseg_smm(void)
{
    unsigned tseg;

    lay_pc();
    tseg = lay(MMIO, 1024 - 40, 40, 0);
    lay(RAM, 1024 - 40, 40, 1024 - 40);
    layer(tseg + 1)->smm_only = true;
    commit_deletes(AS_SMM, 0, 0);
    g_assert_cmpuint(spaces[AS_SMM].added, ==, 0);
    g_assert_cmpuint(spaces[AS_MEMORY].deleted_bytes, ==, 48 * PAGE);
    teardown();
}

/* Flash leaves ROM mode to be written and comes back: one slot, not cut */
static void test_flash(void)
{
    unsigned flash, i;

    setup(1024, 1000);
    lay(RAM, 0, 900, 0);
    flash = lay(ROM, 950, 74, 0);
    commit();
    for (i = 0; i < 3; i++) {
        regions[ROM].host = 0;
        layer(flash)->readonly = true; /* the section is another one */
        commit_deletes(AS_MEMORY, 1, 74);
        regions[ROM].host = 1ULL << 50;
        layer(flash)->readonly = false;
        commit_deletes(AS_MEMORY, 0, 0);
        g_assert_cmpuint(spaces[AS_MEMORY].added, ==, 1);
    }
    teardown();
}

/* A page over the middle of RAM costs a unit once, and then itself */
static void test_overlay_page(void)
{
    unsigned page, i;

    lay_pc();
    page = lay(DEVICE_RAM, 0x155, 1, 0);
    commit_deletes(AS_MEMORY, 1, 16);
    g_assert_cmpuint(spaces[AS_MEMORY].added, ==, 3);
    for (i = 0; i < 3; i++) {
        layer(page)->on = false;
        commit_deletes(AS_MEMORY, 1, 1);
        g_assert_cmpuint(spaces[AS_MEMORY].added, ==, 1);
        layer(page)->on = true;
        commit_deletes(AS_MEMORY, 1, 1);
    }
    /* at the end of a unit it makes one slot less */
    layer(page)->at = 0x16f;
    commit_deletes(AS_MEMORY, 2, 17);
    teardown();
}

/* An overlay that visits all pages does not leave a slot at each */
static void test_wandering_overlay(void)
{
    unsigned page, i;

    setup(1024, 100);
    lay(RAM, 0, 1024, 0);
    page = lay(DEVICE_RAM, 0, 1, 0);
    for (i = 0; i < 20000; i++) {
        layer(page)->at = i * 7 % 1024;
        commit();
        g_assert_cmpuint(spaces[AS_MEMORY].slots->len, <=, 100);
        /* one is put together at a time */
        g_assert_cmpuint(spaces[AS_MEMORY].deleted_bytes, <=, 3 * 16 * PAGE);
    }
    teardown();
}

/* A BAR is moved over RAM and on */
static void test_bar(void)
{
    unsigned bar, units = 0;

    lay_pc();
    bar = lay(DEVICE_RAM, 0x208, 100, 0);
    for (units = 0x200; units < 0x208 + 100; units += 16) {
        continue;
    }
    commit_deletes(AS_MEMORY, (units - 0x200) / 16, units - 0x200);
    layer(bar)->on = false;
    commit_deletes(AS_MEMORY, 1, 100);
    layer(bar)->on = true;
    commit_deletes(AS_MEMORY, (units - 0x200) / 16, 100);
    teardown();
}

static void test_dimm(void)
{
    unsigned dimm, huge;

    setup(1024, 1000);
    lay(RAM, 0, 500, 0);
    commit();
    dimm = lay(DIMM, 500, 100, 0);
    commit_deletes(AS_MEMORY, 0, 0);
    g_assert_cmpuint(spaces[AS_MEMORY].added, ==, 7);
    huge = lay(HUGE, 640, 256, 0);
    commit_deletes(AS_MEMORY, 0, 0);
    g_assert_cmpuint(spaces[AS_MEMORY].added, ==, 8);
    layer(dimm)->on = false;
    commit_deletes(AS_MEMORY, 7, 100);
    g_assert_cmpuint(spaces[AS_MEMORY].added, ==, 0);
    layer(huge)->on = false;
    commit_deletes(AS_MEMORY, 8, 256);
    teardown();
}

/* Logging toggled alone keeps slots; with a change of the view it does not */
static void test_log(void)
{
    unsigned pam = lay_pc(), before, nr;

    before = SLOT(spaces[AS_MEMORY].slots, 3)->serial;
    nr = spaces[AS_MEMORY].slots->len;
    regions[RAM].flags = FLAG_LOG;
    commit_deletes(AS_MEMORY, 0, 0);
    g_assert_cmpuint(SLOT(spaces[AS_MEMORY].slots, 3)->serial, ==, before);
    g_assert_cmpuint(SLOT(spaces[AS_MEMORY].slots, 3)->slot.flags, ==,
                     FLAG_LOG);
    /* a slot that is kept while it is logged */
    layer(pam + 12)->on = false;
    commit();
    g_assert_cmpuint(spaces[AS_MEMORY].deleted_above, ==, 0);
    layer(pam + 12)->on = true;
    regions[RAM].flags = 0;
    commit();
    /* what is below VGA is a section that has not changed */
    g_assert_cmpuint(spaces[AS_MEMORY].deleted_above, ==, 0x300 * PAGE);
    g_assert_cmpuint(spaces[AS_MEMORY].slots->len, >=, nr);
    teardown();
}

/* The same address and size, but other memory, is another slot */
static void test_other_backing(void)
{
    unsigned ram;

    setup(64, 1000);
    ram = lay(RAM, 0, 64, 0);
    commit();
    layer(ram)->offset = 16;
    commit_deletes(AS_MEMORY, 4, 64);
    layer(ram)->region = DIMM;
    commit_deletes(AS_MEMORY, 4, 64);
    teardown();
}

/* One slot of 16 pages, which goes as @come comes; returns whether it stays */
static bool stays_as(KVMPrefaultSlot come)
{
    KVMPrefaultSlot slot = {
        .size = 16 * PAGE, .host = 64 * PAGE, .ram_addr = 32 * PAGE,
    };
    KVMPrefaultSlotChange change = {
        .slots = &slot, .nr_slots = 1, .gone = &slot, .nr_gone = 1,
        .come = &come, .nr_come = 1, .max_slots = 10,
    };
    g_autoptr(GArray) del =
        g_array_new(false, false, sizeof(KVMPrefaultSlotPiece));
    g_autoptr(GArray) add =
        g_array_new(false, false, sizeof(KVMPrefaultSlotPiece));

    kvm_prefault_slots_plan(&change, del, add);
    return !del->len;
}

/* The host address, the RAM block and the unit, each on its own */
static void test_one_difference(void)
{
    KVMPrefaultSlot come = {
        .size = 20 * PAGE, .host = 64 * PAGE, .ram_addr = 32 * PAGE,
    };

    g_assert_true(stays_as(come));
    come.unit = 16 * PAGE;
    g_assert_true(stays_as(come));
    come.unit = 8 * PAGE;
    g_assert_false(stays_as(come));
    come.unit = 0;
    come.host += PAGE;
    g_assert_false(stays_as(come));
    come.host -= PAGE;
    come.ram_addr += PAGE;
    g_assert_false(stays_as(come));
    come.ram_addr -= PAGE;
    come.size = 15 * PAGE;
    g_assert_false(stays_as(come));
}

static void test_unit(void)
{
    g_assert_cmpuint(kvm_prefault_slots_unit(0, 4 * KiB), ==, 16 * MiB);
    g_assert_cmpuint(kvm_prefault_slots_unit(4 * GiB, 2 * MiB), ==, 16 * MiB);
    g_assert_cmpuint(kvm_prefault_slots_unit(4 * GiB, 1 * GiB), ==, 1 * GiB);
    g_assert_cmpuint(kvm_prefault_slots_unit(32 * GiB, 4 * KiB), ==, 16 * MiB);
    g_assert_cmpuint(kvm_prefault_slots_unit(64 * GiB, 4 * KiB), ==, 32 * MiB);
    g_assert_cmpuint(kvm_prefault_slots_unit(1 * TiB, 4 * KiB), ==, 512 * MiB);
    g_assert_cmpuint(kvm_prefault_slots_unit(1 * TiB, 1 * GiB), ==, 1 * GiB);
}

static unsigned below(unsigned n)
{
    return g_test_rand_int_range(0, n);
}

/* Overlays of all kinds, small ones more often */
static void redraw(Layer *l)
{
    static const RegionId kinds[] = { MMIO, RAM, RAM, DEVICE_RAM, ROM, HUGE,
                                      NOTHING };

    l->region = kinds[below(ARRAY_SIZE(kinds))];
    l->at = below(nr_pages);
    l->size = below(2) ? 1 : 1 + below(nr_pages - l->at);
    l->size = MIN(l->size, nr_pages - l->at);
    l->size = below(4) ? MIN(l->size, 20) : l->size;
    /* RAM shows at its own address, or elsewhere */
    l->offset = l->region == RAM && below(4) ? l->at : below(100);
    l->readonly = !below(4);
    l->smm_only = !below(4);
}

static void mutate(void)
{
    Layer *l = layer(below(layers->len));

    switch (below(8)) {
    case 0:
        regions[RAM + below(REGION__MAX - RAM)].flags ^= FLAG_LOG;
        break;
    case 1:
        l->readonly = !l->readonly;
        break;
    case 2:
    case 3:
        if (l != layer(0) && l != layer(1)) {
            redraw(l);
        }
        break;
    default:
        if (l != layer(0) || !below(50)) {
            l->on = !l->on;
        }
    }
}

static void test_random(gconstpointer slots)
{
    unsigned i, changes;

    setup(128, GPOINTER_TO_UINT(slots));
    lay(RAM, 0, 80, 0);
    lay(DIMM, 82, 44, 3);
    for (i = 0; i < 10; i++) {
        redraw(layer(lay(MMIO, 0, 1, 0)));
        layer(2 + i)->on = false;
    }
    for (i = 0; i < TRANSACTIONS; i++) {
        for (changes = 1 + below(3); changes; changes--) {
            mutate();
        }
        commit();
    }
    teardown();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/kvm-prefault/slots/pam", test_pam);
    g_test_add_func("/kvm-prefault/slots/pam-readonly", test_pam_readonly);
    g_test_add_func("/kvm-prefault/slots/smram", test_smram);
    g_test_add_func("/kvm-prefault/slots/tseg", test_tseg);
    g_test_add_func("/kvm-prefault/slots/tseg-smm", test_tseg_smm);
    g_test_add_func("/kvm-prefault/slots/flash", test_flash);
    g_test_add_func("/kvm-prefault/slots/overlay-page", test_overlay_page);
    g_test_add_func("/kvm-prefault/slots/wandering-overlay",
                    test_wandering_overlay);
    g_test_add_func("/kvm-prefault/slots/bar", test_bar);
    g_test_add_func("/kvm-prefault/slots/dimm", test_dimm);
    g_test_add_func("/kvm-prefault/slots/log", test_log);
    g_test_add_func("/kvm-prefault/slots/other-backing", test_other_backing);
    g_test_add_func("/kvm-prefault/slots/one-difference",
                    test_one_difference);
    g_test_add_func("/kvm-prefault/slots/unit", test_unit);
    g_test_add_data_func("/kvm-prefault/slots/random", GUINT_TO_POINTER(1000),
                         test_random);
    g_test_add_data_func("/kvm-prefault/slots/random-few-slots",
                         GUINT_TO_POINTER(40), test_random);
    return g_test_run();
}
