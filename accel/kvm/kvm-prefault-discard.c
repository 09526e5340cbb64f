/*
 * KVM pre-fault: RAM that comes and goes in pieces (virtio-mem)
 *
 * The memory slot of such a device is larger than what the guest uses of it.
 * A RamDiscardListener tells which blocks have memory: those are kept mapped
 * and locked like all guest RAM; the others are neither populated nor locked.
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/kvm.h>
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qapi/error.h"
#include "exec/memory.h"
#include "exec/ramblock.h"
#include "kvm-prefault.h"
#include "kvm-prefault-blocks.h"
#include "kvm-prefault-discard.h"
#include "kvm-prefault-host.h"
#include "kvm-prefault-pause.h"
#include "trace.h"

/* Devices that give memory back without telling anybody but the host */
#define TYPE_BALLOON "virtio-balloon-device"
#define TYPE_HV_BALLOON "hv-balloon"

/* A slot with a RamDiscardManager in one address space */
typedef struct DiscardSlot {
    RamDiscardListener listener;
    int as_id;
    uint64_t gpa;
    uint64_t size;
    bool large;
    /* the device replays what is plugged already */
    bool registering;
    QTAILQ_ENTRY(DiscardSlot) next;
} DiscardSlot;

static QTAILQ_HEAD(, DiscardSlot) slots = QTAILQ_HEAD_INITIALIZER(slots);

/* Why the last plug was refused, NULL if it was not */
static char *refused;

/* Whether devices are kept from discarding guest RAM */
static bool forbidden;

/* Whether "all or nothing" was asked for, so that a plug may be refused */
static bool is_strict(void)
{
    return kvm_prefault.config.mode == ON_OFF_AUTO_ON ||
           kvm_prefault.config.pin_set;
}

static bool admit(MemoryRegionSection *section)
{
    uint64_t offset = section->offset_within_region;
    uint64_t size = kvm_prefault_blocks_pending(section->mr, offset,
                                                int128_get64(section->size));
    Error *err = NULL;
    static bool warned;

    g_clear_pointer(&refused, g_free);
    if (!is_strict() ||
        kvm_prefault_host_admits(section->mr, offset, size, &err)) {
        return true;
    }
    error_prepend(&err, "memory of '%s' is not plugged: ",
                  memory_region_name(section->mr));
    refused = g_strdup(error_get_pretty(err));
    warn_report_err_once_cond(&warned, err);
    return false;
}

/*
 * The guest uses the memory as soon as its request has been answered, so with
 * 'prefault-wait' it is held meanwhile.  Not if a pass is running beside it
 * already: that may take long.
 */
static void ask_for_pass(void)
{
    KVMPrefault *p = &kvm_prefault;
    bool beside = p->state == KVM_PREFAULT_STATE_POPULATING && !p->hold;

    if (!p->causes[KVM_PREFAULT_CAUSE_START]) {
        /* the first pass takes it all */
        return;
    }
    kvm_prefault_request(KVM_PREFAULT_CAUSE_SLOTS);
    if (p->config.wait && p->tdp_on && !beside &&
        p->state == KVM_PREFAULT_STATE_POPULATING) {
        kvm_prefault_hold();
    }
}

/* Called with the BQL held, before the device answers the guest */
static int notify_populate(RamDiscardListener *listener,
                           MemoryRegionSection *section)
{
    DiscardSlot *slot = container_of(listener, DiscardSlot, listener);
    uint64_t gpa = section->offset_within_address_space;
    uint64_t size = int128_get64(section->size);

    if (!slot->registering && !admit(section)) {
        return -ENOMEM;
    }
    trace_kvm_prefault_plug(slot->as_id, gpa, size);
    kvm_prefault_ranges_add_part(&kvm_prefault.ranges, slot->as_id, gpa, size,
                                 slot->large,
                                 memory_region_name(section->mr));
    kvm_prefault_host_plugged(section->mr, section->offset_within_region,
                              size);
    if (!slot->registering) {
        ask_for_pass();
    }
    return 0;
}

/* The pages have gone; no ioctl is in flight, see before_discard() */
static void notify_discard(RamDiscardListener *listener,
                           MemoryRegionSection *section)
{
    DiscardSlot *slot = container_of(listener, DiscardSlot, listener);
    uint64_t gpa = section->offset_within_address_space;
    uint64_t size = int128_get64(section->size);

    trace_kvm_prefault_unplug(slot->as_id, gpa, size);
    kvm_prefault_ranges_cut(&kvm_prefault.ranges, slot->as_id, gpa, size);
}

/* What is being discarded, until the listener has been told */
typedef struct Discard {
    MemoryRegion *mr;
    uint64_t start;
    uint64_t length;
} Discard;

/*
 * A discard that has failed leaves memory where it is, in use, but unlocked.
 * One that was not plugged has nobody to be told.
 */
static void discard_is_over(void *opaque)
{
    Discard *d = opaque;
    RamDiscardManager *rdm = memory_region_get_ram_discard_manager(d->mr);
    MemoryRegionSection section = {
        .mr = d->mr,
        .offset_within_region = d->start,
        .size = int128_make64(d->length),
    };

    if (rdm && kvm_prefault_blocks_has(d->mr) &&
        ram_discard_manager_is_populated(rdm, &section)) {
        kvm_prefault_host_plugged(d->mr, d->start, d->length);
        kvm_prefault_request(KVM_PREFAULT_CAUSE_SLOTS);
    }
    memory_region_unref(d->mr);
    g_free(d);
}

static void look_when_over(MemoryRegion *mr, uint64_t start, uint64_t length)
{
    Discard *d = g_new(Discard, 1);

    d->mr = mr;
    d->start = start;
    d->length = length;
    memory_region_ref(mr);
    aio_bh_schedule_oneshot(qemu_get_aio_context(), discard_is_over, d);
}

/*
 * Locked memory cannot be discarded, and what is being populated would be
 * there again afterwards.  The listener is told too late for that.  No new
 * work can begin before it is told, because that takes the BQL.
 */
void kvm_prefault_before_discard(RAMBlock *rb, uint64_t start,
                                 uint64_t length)
{
    KVMPrefault *p = &kvm_prefault;

    if ((p->tdp_on || p->pin != KVM_PIN_RAM_OFF) && rb->mr &&
        memory_region_has_ram_discard_manager(rb->mr)) {
        kvm_prefault_drain();
        kvm_prefault_host_forget(rb->mr, start, length);
        look_when_over(rb->mr, start, length);
    }
}

void kvm_prefault_discard_add(MemoryRegionSection *section, int as_id,
                              bool large)
{
    RamDiscardManager *rdm =
        memory_region_get_ram_discard_manager(section->mr);
    DiscardSlot *slot = g_new0(DiscardSlot, 1);

    slot->as_id = as_id;
    slot->gpa = section->offset_within_address_space;
    slot->size = int128_get64(section->size);
    slot->large = large;
    QTAILQ_INSERT_TAIL(&slots, slot, next);
    ram_discard_listener_init(&slot->listener, notify_populate,
                              notify_discard, true);
    slot->registering = true;
    ram_discard_manager_register_listener(rdm, &slot->listener, section);
    slot->registering = false;
}

void kvm_prefault_discard_del(MemoryRegionSection *section, int as_id)
{
    RamDiscardManager *rdm =
        memory_region_get_ram_discard_manager(section->mr);
    uint64_t gpa = section->offset_within_address_space;
    DiscardSlot *slot;

    QTAILQ_FOREACH(slot, &slots, next) {
        if (slot->as_id == as_id && slot->gpa == gpa &&
            slot->size == int128_get64(section->size)) {
            break;
        }
    }
    if (slot) {
        ram_discard_manager_unregister_listener(rdm, &slot->listener);
        kvm_prefault_ranges_cut(&kvm_prefault.ranges, as_id, gpa, slot->size);
        QTAILQ_REMOVE(&slots, slot, next);
        g_free(slot);
    }
}

/* The property that forbids devices to give memory back; NULL if none does */
static const char *forbidden_by(void)
{
    KVMPrefault *p = &kvm_prefault;

    if (p->tdp_on) {
        return p->config.mode == ON_OFF_AUTO_ON ? PROP_PREFAULT "=on"
                                                : PROP_PREFAULT "=auto";
    }
    return p->pin == KVM_PIN_RAM_LONGTERM ? PROP_PIN_RAM "=longterm" : NULL;
}

static void check_balloon(GPtrArray *reasons)
{
    const char *property = forbidden_by();
    bool ambiguous = false;

    if (property &&
        (object_resolve_path_type("", TYPE_BALLOON, &ambiguous) ||
         ambiguous)) {
        kvm_prefault_reason(reasons, "virtio-balloon gives no memory back to "
                            "the host, neither by ballooning nor by free page "
                            "reporting: '%s' keeps all guest RAM", property);
    }
}

void kvm_prefault_discard_reasons(GPtrArray *reasons)
{
    check_balloon(reasons);
    if (refused) {
        kvm_prefault_reason(reasons, "%s", refused);
    }
}

static bool forbid(Error **errp)
{
    bool balloon = object_resolve_path_type("", TYPE_HV_BALLOON, NULL);

    if (!balloon && ram_block_uncoordinated_discard_disable(true) == 0) {
        forbidden = true;
        return true;
    }
    error_setg(errp, "'%s' does not go with a device that discards guest RAM "
               "without telling QEMU%s", forbidden_by(),
               balloon ? " (hv-balloon)" : "");
    return false;
}

void kvm_prefault_discard_allow(void)
{
    if (forbidden) {
        forbidden = false;
        ram_block_uncoordinated_discard_disable(false);
    }
}

bool kvm_prefault_discard_forbid(Error **errp)
{
    ERRP_GUARD();
    g_autoptr(GPtrArray) notices = g_ptr_array_new_with_free_func(g_free);

    if (!forbidden_by()) {
        return true;
    }
    if (!forbid(errp)) {
        error_append_hint(errp, "Remove the device, or use %s=off.\n",
                          kvm_prefault.tdp_on ? PROP_PREFAULT : PROP_PIN_RAM);
        return false;
    }
    check_balloon(notices);
    if (notices->len) {
        warn_report("%s", (char *)g_ptr_array_index(notices, 0));
    }
    return true;
}
