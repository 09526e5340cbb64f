/*
 * KVM pre-fault: notice that mappings have been lost
 *
 * While the state is "ready", KVM's statistics are read once a second: one read
 * for the VM and one per vCPU, and no vCPU is disturbed.  If less is mapped than
 * passes have mapped, or the guest has taken faults, everything is populated
 * again beside the running guest, and ever more rarely if that does not last.
 *
 * Guest MTRRs are another matter: firmware that programs them makes KVM drop
 * nearly everything, several times, and then never again.  KVM with the
 * project's patches counts that, so those passes are made at once, and
 * with 'prefault-wait' the guest waits, as it does for slots (slot-zap=all).
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/kvm.h>
#include "qemu/timer.h"
#include "qemu/units.h"
#include "system/runstate.h"
#include "kvm-prefault.h"
#include "kvm-prefault-pause.h"
#include "trace.h"

#define LOOK_MS 1000

/*
 * The count of MTRR zaps is looked at more often while firmware runs: for
 * MTRR_WATCH_MS from the guest's start, and from each such zap.
 */
#define MTRR_LOOK_MS 20
#define MTRR_WATCH_MS 60000

/* MTRRs count as programmed when this many looks have seen more zaps at most */
#define MTRR_LOOKS_MAX 10

/*
 * After a pass that was needed because of losses the next one waits for this
 * long, twice as long each time, and PAUSE_PER_PASS times as long as the pass
 * took.  A quiet time of the same length ends that.
 */
#define PAUSE_MIN_MS 1000
#define PAUSE_MAX_MS 32000
#define PAUSE_PER_PASS 5

/*
 * From one turn of a background pass to the next there is this many times as
 * long as the longest one took: four fifths of the time are the guest's.
 */
#define TURN_DISTANCE 5

typedef struct Watch {
    QEMUTimer *timer;
    int64_t look_ms;            /* when to look at everything */
    int64_t mtrr_until_ms;      /* until when to look at MTRR zaps often */
    bool starting;              /* the guest begins when the pass has ended */

    /* what was so, and is no loss */
    uint64_t missing;           /* bytes populated, but not mapped */
    uint64_t faults;
    uint64_t nested;
    uint64_t mtrr_zapped;

    uint64_t mtrr_zapped_last;
    unsigned mtrr_looks;

    bool devices;               /* a pass over ROM and devices is on its way */
    bool ram_lost;              /* ... and has shown that it is RAM */
    bool lost;                  /* a background pass is due */
    uint64_t missing_before;    /* that pass is to repair */
    int64_t pause_ms;
    int64_t allowed_ms;         /* earliest time of the next such pass */
    int64_t ended_ms;           /* end of the last pass of any kind */
} Watch;

static Watch watch;

static int64_t now_ms(void)
{
    return qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
}

/*
 * What nested guests have mapped, and slots that are not populated, is in the
 * count as well, so that this may be too little, never too much.
 */
static uint64_t missing_bytes(const KVMPrefaultVMCounts *vm)
{
    uint64_t populated = kvm_prefault_ranges_mapped(&kvm_prefault.ranges);

    return populated > vm->mapped ? populated - vm->mapped : 0;
}

/* Faults that only lifted a write protection say nothing about mappings */
static uint64_t faults_since_ready(const KVMPrefaultCounts *now)
{
    const KVMPrefaultCounts *since = &kvm_prefault.ready_counts;

    return (now->taken - now->emulated - now->fast) -
           (since->taken - since->emulated - since->fast);
}

/*
 * Faults since the last look, unless they may have other causes than a loss:
 * nested guests, or the first instruction fetch from a huge page.
 */
static uint64_t new_faults(void)
{
    KVMPrefaultCounts counts;
    uint64_t before = watch.faults;
    bool innocent;

    if (!kvm_prefault.have_ready_counts || !kvm_prefault_counts(&counts)) {
        return 0;
    }
    innocent = counts.nested != watch.nested ||
               kvm_prefault.has_nx_huge_pages;
    watch.nested = counts.nested;
    watch.faults = faults_since_ready(&counts);
    /* a pass that was no repair has begun to count anew */
    return innocent || watch.faults < before ? 0 : watch.faults - before;
}

/*
 * ROM, flash and device RAM are not locked, and as long as nobody faults they may
 * be all that is missing.  Populating them costs little, and tells.
 */
static bool may_be_devices(uint64_t missing, uint64_t faults)
{
    const KVMPrefaultRanges *r = &kvm_prefault.ranges;
    uint64_t ram;

    kvm_prefault_ranges_count(r, &ram);
    return !faults && !watch.ram_lost &&
           missing - watch.missing <= kvm_prefault_ranges_mapped(r) - ram;
}

static void repair_devices(int64_t now)
{
    if (now >= watch.allowed_ms) {
        watch.devices = true;
        kvm_prefault_request_devices();
    }
}

/* Populate again, unless the last pass for this cause was not long ago */
static void repair(int64_t now)
{
    if (now >= watch.allowed_ms) {
        kvm_prefault_request(KVM_PREFAULT_CAUSE_LOST);
    }
}

/* What no vCPU was able to do is tried again under the same limits */
static void try_rest(int64_t now)
{
    if (now >= watch.allowed_ms) {
        kvm_prefault_request_rest();
    }
}

static void look_at_mappings(const KVMPrefaultVMCounts *vm, int64_t now)
{
    uint64_t missing = missing_bytes(vm);
    uint64_t faults = new_faults();
    g_autofree char *reason = NULL;

    if (missing <= watch.missing && !faults) {
        if (now - watch.ended_ms >= watch.pause_ms) {
            watch.pause_ms = 0;
        }
        return;
    }
    trace_kvm_prefault_lost(missing, faults);
    if (may_be_devices(missing, faults)) {
        repair_devices(now);
        return;
    }
    reason = g_strdup_printf("mappings were lost: %" PRIu64 " KiB are not "
                             "mapped, the guest has taken %" PRIu64
                             " faults (has the host moved pages?)",
                             missing / KiB, faults);
    kvm_prefault_lost(reason);
    watch.lost = true;
    watch.missing_before = missing;
    repair(now);
}

/* Returns: whether MTRRs have dropped mappings that are not populated yet */
static bool look_at_mtrrs(const KVMPrefaultVMCounts *vm, int64_t now)
{
    if (!vm->has_mtrr || vm->mtrr_zapped == watch.mtrr_zapped) {
        return false;
    }
    watch.mtrr_until_ms = now + MTRR_WATCH_MS;
    if (vm->mtrr_zapped != watch.mtrr_zapped_last &&
        ++watch.mtrr_looks < MTRR_LOOKS_MAX) {
        watch.mtrr_zapped_last = vm->mtrr_zapped;
        return true;
    }
    watch.mtrr_looks = 0;
    kvm_prefault_request(KVM_PREFAULT_CAUSE_MTRR);
    if (kvm_prefault.config.wait) {
        kvm_prefault_hold();
    }
    return true;
}

static void look(int64_t now)
{
    KVMPrefaultVMCounts vm;

    if (!kvm_prefault_vm_counts(&vm) || look_at_mtrrs(&vm, now) ||
        now < watch.look_ms) {
        return;
    }
    watch.look_ms = now + LOOK_MS;
    look_at_mappings(&vm, now);
}

/* All is mapped that can be, so that what is not has been lost */
static bool is_kept(void)
{
    KVMPrefault *p = &kvm_prefault;

    return p->state == KVM_PREFAULT_STATE_READY ||
           (p->state == KVM_PREFAULT_STATE_PARTIAL && p->only_poison &&
            !watch.lost);
}

static void watch_tick(void *opaque)
{
    KVMPrefault *p = &kvm_prefault;
    int64_t now = now_ms();

    if (runstate_is_running() && !p->suspended) {
        if (is_kept()) {
            look(now);
        } else if (p->retry && p->state == KVM_PREFAULT_STATE_PARTIAL) {
            try_rest(now);
        } else if (watch.lost && p->state == KVM_PREFAULT_STATE_PARTIAL) {
            repair(now);
        }
    }
    timer_mod(watch.timer, now + (now < watch.mtrr_until_ms ? MTRR_LOOK_MS
                                                            : LOOK_MS));
}

void kvm_prefault_watch_pass_begin(bool starting)
{
    KVMPrefaultVMCounts vm;

    watch.lost = watch.devices = false;
    watch.starting |= starting;
    if (kvm_prefault_vm_counts(&vm)) {
        watch.mtrr_zapped = watch.mtrr_zapped_last = vm.mtrr_zapped;
    }
}

bool kvm_prefault_watch_turn_due(void)
{
    static int64_t asked_us;
    int64_t now = g_get_monotonic_time();

    if (now - asked_us < TURN_DISTANCE * kvm_prefault.turn_us) {
        return false;
    }
    asked_us = now;
    kvm_prefault.turn_us = 0;
    return true;
}

/*
 * What has been lost while the pass went on is noticed at the next look.  What
 * a pass could not change is no loss: KVM does not map it, whatever the reason.
 */
static void remember_missing(const KVMPrefaultVMCounts *vm)
{
    uint64_t missing = missing_bytes(vm);

    watch.ram_lost = watch.devices && missing > watch.missing;
    watch.devices = false;
    if (missing < watch.missing || missing == watch.missing_before) {
        watch.missing = missing;
    }
    watch.missing_before = 0;
}

/* A pass that repaired losses has ended: when may the next one begin? */
static void pause_after(int64_t duration_ms)
{
    watch.pause_ms = MIN(MAX(2 * watch.pause_ms, PAUSE_MIN_MS), PAUSE_MAX_MS);
    watch.pause_ms = MAX(watch.pause_ms, PAUSE_PER_PASS * duration_ms);
    watch.allowed_ms = watch.ended_ms + watch.pause_ms;
    /* a page that is poisoned, or that nobody can map now, is no loss */
    watch.lost = kvm_prefault.state == KVM_PREFAULT_STATE_PARTIAL &&
                 !kvm_prefault.only_poison && !kvm_prefault.retry;
}

void kvm_prefault_watch_pass_end(void)
{
    KVMPrefault *p = &kvm_prefault;
    KVMPrefaultVMCounts vm;
    int64_t now = now_ms();

    if (!p->tdp_on || !kvm_prefault_vm_counts(&vm)) {
        return;
    }
    watch.ended_ms = now;
    remember_missing(&vm);
    new_faults();
    if (p->background) {
        pause_after(p->duration_us / 1000);
    }
    if (watch.starting && vm.has_mtrr) {
        watch.mtrr_until_ms = now + MTRR_WATCH_MS;
    }
    watch.starting = false;
    if (!watch.timer) {
        watch.timer = timer_new_ms(QEMU_CLOCK_REALTIME, watch_tick, NULL);
    }
    watch.look_ms = now + LOOK_MS;
    timer_mod(watch.timer, now + (now < watch.mtrr_until_ms ? MTRR_LOOK_MS
                                                            : LOOK_MS));
}
