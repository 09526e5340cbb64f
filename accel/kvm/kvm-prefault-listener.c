/*
 * KVM pre-fault: follow the memory slots
 *
 * One listener per KVM address space, behind KVM's own: when our commit
 * runs, KVM has changed its slots.
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/madvise.h"
#include "qemu/main-loop.h"
#include "qemu/units.h"
#include "exec/address-spaces.h"
#include "exec/memory.h"
#include "hw/core/cpu.h"
#include "system/cpus.h"
#include "system/hostmem.h"
#include "system/kvm_int.h"
#include "system/runstate.h"
#include "kvm-prefault.h"
#include "kvm-prefault-blocks.h"
#include "kvm-prefault-discard.h"
#include "kvm-prefault-host.h"
#include "kvm-prefault-pause.h"
#include "kvm-prefault-refine.h"
#include "trace.h"

/*
 * Slots that change while the guest runs are populated at once, on the vCPU
 * thread that changed them, up to this size: the first MiB, a TSEG of 64 MiB,
 * or a unit of RAM (kvm-prefault-slots.c), in both address spaces.  Above that
 * the guest would notice the pause.
 */
#define INLINE_BYTES_MAX (80 * MiB)

/* Device RAM above this is left to demand faults */
#define DEVICE_RAM_BYTES_MAX (64 * MiB)

/* What the transaction in progress has done, over all address spaces */
static bool slots_added, slots_deleted;

/* Some device RAM has not been populated because of a snapshot */
static bool device_ram_due;

/* Default RAM is a backend as well (create_default_memdev) */
bool kvm_prefault_is_ram(MemoryRegion *mr)
{
    return memory_region_is_ram(mr) && !mr->readonly &&
           !memory_region_is_ram_device(mr) && mr->owner &&
           object_dynamic_cast(mr->owner, TYPE_MEMORY_BACKEND);
}

static bool wanted(MemoryRegionSection *section)
{
    return kvm_prefault_is_ram(section->mr) ||
           (!memory_region_is_ram_device(section->mr) &&
            int128_get64(section->size) <= DEVICE_RAM_BYTES_MAX);
}

/*
 * Pages of ROM, flash and device RAM must be there for writing as well, or
 * the zero page would be mapped, and the first write would fault twice.
 */
static void populate_device_ram(MemoryRegionSection *section)
{
    char *host = memory_region_get_ram_ptr(section->mr);

    if (kvm_prefault.suspended & KVM_PREFAULT_SUSPEND_SNAPSHOT) {
        /* we would wait for it to save page after page, with the BQL */
        device_ram_due = true;
        return;
    }
    /* it is neither locked nor pinned */
    kvm_prefault_no_numa_balancing(section->mr);
    if (qemu_madvise(host + section->offset_within_region,
                     int128_get64(section->size),
                     QEMU_MADV_POPULATE_WRITE) < 0) {
        trace_kvm_prefault_device_ram(memory_region_name(section->mr), errno);
    }
}

/* Whether KVM can map huge pages of the host as such, but at the ends */
static bool is_large(MemoryRegionSection *section)
{
    char *host = memory_region_get_ram_ptr(section->mr);
    uint64_t difference = section->offset_within_address_space -
                          (uintptr_t)(host + section->offset_within_region);

    return qemu_ram_pagesize(section->mr->ram_block) >= 2 * MiB &&
           QEMU_IS_ALIGNED(difference, 2 * MiB);
}

static void prefault_begin(MemoryListener *listener)
{
    kvm_prefault_drain();
}

/* Only what is plugged in it has memory */
static void add_managed(MemoryRegionSection *section, int as_id)
{
    uint64_t before = kvm_prefault.ranges.work_bytes;

    kvm_prefault_discard_add(section, as_id, is_large(section));
    slots_added |= kvm_prefault.ranges.work_bytes != before;
}

static void slot_added(MemoryRegionSection *section, int as_id)
{
    bool ram = kvm_prefault_is_ram(section->mr);

    if (!wanted(section) || (!ram && !kvm_prefault.tdp_on)) {
        return;
    }
    if (!ram) {
        populate_device_ram(section);
    } else {
        kvm_prefault_host_track(section->mr, true);
        if (memory_region_has_ram_discard_manager(section->mr)) {
            add_managed(section, as_id);
            return;
        }
    }
    kvm_prefault_ranges_add(&kvm_prefault.ranges, as_id,
                            section->offset_within_address_space,
                            int128_get64(section->size), ram,
                            ram && is_large(section),
                            memory_region_name(section->mr));
    slots_added = true;
}

static void slot_deleted(MemoryRegionSection *section, int as_id)
{
    bool ram = kvm_prefault_is_ram(section->mr);
    bool known = true;

    if (ram && memory_region_has_ram_discard_manager(section->mr)) {
        kvm_prefault_discard_del(section, as_id);
    } else {
        known = kvm_prefault_ranges_del(&kvm_prefault.ranges, as_id,
                                        section->offset_within_address_space,
                                        int128_get64(section->size));
    }
    if (known && ram) {
        kvm_prefault_host_track(section->mr, false);
    }
    slots_deleted = true;
}

static void slot_changed(MemoryRegionSection *section, int as_id, bool add)
{
    if (add) {
        slot_added(section, as_id);
    } else {
        slot_deleted(section, as_id);
    }
}

/* Whether a vCPU has changed slots of a guest that is kept mapped */
static bool is_by_vcpu(void)
{
    KVMPrefault *p = &kvm_prefault;

    return qemu_in_vcpu_thread() && p->tdp_on && p->first_pass_done &&
           !p->settling && !p->suspended &&
           p->state != KVM_PREFAULT_STATE_POPULATING;
}

/* Whether the work is to be done before the guest's next instruction */
static bool is_small_change(void)
{
    return is_by_vcpu() && kvm_prefault.ranges.work_bytes <= INLINE_BYTES_MAX;
}

/*
 * Returns false if there is work left: RAM behind a PCI BAR has host pages to
 * be locked first, a vCPU that is to be borrowed has to complete its
 * instruction, and one that KVM cannot use now leaves it to others.
 */
static bool populate_inline(void)
{
    KVMPrefault *p = &kvm_prefault;

    if (kvm_prefault_borrows() || p->host_stale ||
        !kvm_prefault_inline(current_cpu)) {
        return false;
    }
    p->causes[KVM_PREFAULT_CAUSE_SLOTS]++;
    return true;
}

/*
 * All vCPUs wait, for 'prefault-max-hold' at most, if one of them has changed
 * slots.  Without 'prefault-wait' only for what is small.
 */
static void request_slots(void)
{
    bool hold = is_small_change() ||
                (is_by_vcpu() && kvm_prefault.config.wait);

    kvm_prefault_request(KVM_PREFAULT_CAUSE_SLOTS);
    if (hold) {
        kvm_prefault_hold();
    }
}

static void prefault_commit(MemoryListener *listener)
{
    KVMPrefault *p = &kvm_prefault;
    bool zapped_all;

    kvm_prefault_tell_slots(slot_changed);
    zapped_all = slots_deleted && p->slot_zap == KVM_SLOT_ZAP_ALL;
    kvm_prefault_host_commit();
    kvm_prefault_host_release();
    if (!slots_added && !zapped_all) {
        slots_deleted = false;
        return;
    }
    slots_added = slots_deleted = false;
    if (!p->causes[KVM_PREFAULT_CAUSE_START]) {
        /* the board is being built; the first pass takes it all */
        return;
    }
    if (!p->tdp_on && !p->host_stale) {
        /* pin-ram alone, and no backend that is new */
        return;
    }
    if (zapped_all) {
        kvm_prefault_ranges_invalidate(&p->ranges);
    }
    trace_kvm_prefault_slots(p->ranges.work_bytes);
    if (zapped_all && p->first_pass_done && !p->suspended &&
        (p->settling || p->background ||
         p->state != KVM_PREFAULT_STATE_POPULATING)) {
        kvm_prefault_settle();
    } else if (!is_small_change() || !populate_inline()) {
        request_slots();
    }
}

static bool populate_if_device(Int128 start, Int128 length,
                               const MemoryRegion *mr, hwaddr offset,
                               void *opaque)
{
    MemoryRegionSection section = {
        .mr = (MemoryRegion *)mr,
        .offset_within_region = offset,
        .offset_within_address_space = int128_get64(start),
        .size = length,
    };

    /* a flat view has MMIO as well, slots have not */
    if ((memory_region_is_ram(section.mr) ||
         memory_region_is_romd(section.mr)) &&
        !kvm_prefault_is_ram(section.mr) && wanted(&section)) {
        populate_device_ram(&section);
    }
    return false;
}

void kvm_prefault_populate_devices(void)
{
    int i;

    if (!device_ram_due) {
        return;
    }
    device_ram_due = false;
    RCU_READ_LOCK_GUARD();
    for (i = 0; i < kvm_prefault.nr_as; i++) {
        if (kvm_state->as[i].as) {
            flatview_for_each_range(address_space_to_flatview(
                                        kvm_state->as[i].as),
                                    populate_if_device, NULL);
        }
    }
}

static bool prefault_log_global_start(MemoryListener *listener, Error **errp)
{
    kvm_prefault_suspend(KVM_PREFAULT_SUSPEND_LOG);
    return true;
}

static void prefault_log_global_stop(MemoryListener *listener)
{
    kvm_prefault_resume(KVM_PREFAULT_SUSPEND_LOG);
}

/* Flags cannot be changed, and with all memory gone no slot is kept */
void kvm_prefault_renew_slots(void)
{
    memory_region_set_enabled(get_system_memory(), false);
    memory_region_set_enabled(get_system_memory(), true);
}

void kvm_prefault_add_address_space(AddressSpace *as)
{
    MemoryListener *l;

    if (!kvm_prefault.tdp_on && kvm_prefault.pin == KVM_PIN_RAM_OFF) {
        return;
    }
    l = g_new(MemoryListener, 1);
    *l = (MemoryListener) {
        .name = "kvm-prefault",
        .priority = MEMORY_LISTENER_PRIORITY_ACCEL + 1,
        .begin = prefault_begin,
        .commit = prefault_commit,
        .log_global_start = prefault_log_global_start,
        .log_global_stop = prefault_log_global_stop,
    };
    memory_listener_register(l, as);
}
