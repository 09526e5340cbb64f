/*
 * KVM pre-fault: keep vCPUs out of the guest, as long as needed and no longer
 *
 * Method "vcpu" borrows vCPUs, and must have all of them out of the guest.
 * Before the guest's first instruction they are; later there are three cases:
 *
 * - A vCPU has changed a few slots: all wait until those are populated.
 * - KVM has dropped everything with a slot (slot-zap=all): a pass begins when
 *   slots have been left alone for SETTLE_MS.
 * - Everything is to be populated beside the running guest: it is held for
 *   PAUSE_WORK_US of work at a time.
 *
 * A guest that has run is held for 'prefault-max-hold' at most, whatever for;
 * then the pass goes on beside it.  Its watchdogs count on.
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/kvm.h>
#include "qemu/timer.h"
#include "hw/core/cpu.h"
#include "system/runstate.h"
#include "kvm-prefault.h"
#include "kvm-prefault-migration.h"
#include "kvm-prefault-pause.h"
#include "trace.h"

/* Work per pause; what has begun is finished, 4 MiB at most */
#define PAUSE_WORK_US 2000

/*
 * A pause for which not all vCPUs leave the guest in time is given up, and the
 * next one may take twice as long.
 */
#define PAUSE_ARRIVAL_US 50000
#define PAUSE_ARRIVAL_MAX_US (10 * G_USEC_PER_SEC)

/*
 * Slots count as settled when none has changed for this long, and are not
 * waited for any longer than SETTLE_MAX_MS.
 */
#define SETTLE_MS 5
#define SETTLE_MAX_MS 200

static QEMUTimer *settle_timer, *hold_timer;
static int64_t settle_until_ms;
/* end of the work in this pause, 0 if no vCPU has begun */
static int64_t work_until_us;
static int64_t arrival_us = PAUSE_ARRIVAL_US;
static int64_t pause_start_us;

void kvm_prefault_hold_counts(void)
{
    KVMPrefault *p = &kvm_prefault;
    int64_t limit_ms = p->config.max_hold_ms;

    if (!p->hold || !p->guest_has_run || p->hold_unbounded ||
        !runstate_is_running()) {
        return;
    }
    if (!p->hold_start_us) {
        p->hold_start_us = g_get_monotonic_time();
    }
    if (limit_ms && !timer_pending(hold_timer)) {
        timer_mod(hold_timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) +
                              limit_ms);
    }
}

void kvm_prefault_hold(void)
{
    KVMPrefault *p = &kvm_prefault;

    p->hold = true;
    p->pausing = false;
    kvm_prefault_hold_counts();
    kvm_prefault_arrival_held();
    kvm_prefault_kick_vcpus();
}

void kvm_prefault_hold_before_start(void)
{
    kvm_prefault_hold_pauses();
    kvm_prefault.hold_unbounded = true;
    kvm_prefault_hold();
}

void kvm_prefault_hold_end(void)
{
    KVMPrefault *p = &kvm_prefault;

    if (p->hold) {
        kvm_prefault_release();
        kvm_prefault_interrupt();
        kvm_prefault_work_done();
    }
}

static void hold_is_over(void *opaque)
{
    trace_kvm_prefault_hold_over(kvm_prefault.config.max_hold_ms);
    kvm_prefault_hold_end();
}

static void count_pause(void)
{
    KVMPrefault *p = &kvm_prefault;
    int64_t us = g_get_monotonic_time() - p->hold_start_us;

    p->hold_start_us = 0;
    p->pauses.count++;
    p->pauses.total_us += us;
    p->pauses.max_us = MAX(p->pauses.max_us, us);
    trace_kvm_prefault_pause(us);
}

void kvm_prefault_hold_pauses(void)
{
    timer_del(hold_timer);
    if (kvm_prefault.hold_start_us) {
        count_pause();
    }
}

void kvm_prefault_release(void)
{
    KVMPrefault *p = &kvm_prefault;

    if (p->sessions) {
        /* borrowed vCPUs get their state back first; the last one releases */
        p->pausing = true;
        work_until_us = g_get_monotonic_time();
        kvm_prefault_kick_vcpus();
        return;
    }
    kvm_prefault_hold_pauses();
    p->hold = p->pausing = p->hold_unbounded = false;
    work_until_us = 0;
    kvm_prefault_kick_vcpus();
}

bool kvm_prefault_quiescent(void)
{
    CPUState *cpu;

    CPU_FOREACH(cpu) {
        if (kvm_prefault_vcpu(cpu)->in_guest) {
            return false;
        }
    }
    return true;
}

void kvm_prefault_vcpu_left(CPUState *cpu)
{
    KVMPrefault *p = &kvm_prefault;

    if (!p->nr_vcpus) {
        return;
    }
    kvm_prefault_vcpu(cpu)->in_guest = false;
    if (p->hold) {
        /*
         * Others may have waited for this one to leave: to be borrowed, or to
         * visit SMM.
         */
        kvm_prefault_kick_vcpus();
    }
}

/* Those that have left are held while they wait for the others */
static int64_t arrival_max_us(void)
{
    int64_t limit_us = kvm_prefault.config.max_hold_ms * 1000LL;

    return limit_us ? MIN(limit_us, PAUSE_ARRIVAL_MAX_US)
                    : PAUSE_ARRIVAL_MAX_US;
}

/* Whether there is work for borrowed vCPUs, now */
static bool may_borrow(void)
{
    return kvm_prefault_borrows() && kvm_prefault_in_tables() &&
           kvm_prefault_can_go_on();
}

static void end_pause_if_due(int64_t now)
{
    if (!work_until_us && now - pause_start_us > arrival_us) {
        arrival_us = MIN(2 * arrival_us, arrival_max_us());
        kvm_prefault_release();
    } else if (!may_borrow()) {
        kvm_prefault_hold_end();
    } else {
        /* time was up before a vCPU had been borrowed, so none has said so */
        kvm_prefault_pause_end_if_over();
    }
}

void kvm_prefault_pause_tick(void)
{
    KVMPrefault *p = &kvm_prefault;
    int64_t now = g_get_monotonic_time();

    if (p->pausing) {
        end_pause_if_due(now);
    } else if (!p->hold && may_borrow()) {
        kvm_prefault_hold();
        p->pausing = true;
        pause_start_us = now;
    }
}

bool kvm_prefault_pause_over(void)
{
    int64_t now = g_get_monotonic_time();

    if (!kvm_prefault.pausing) {
        return false;
    }
    if (!work_until_us) {
        /* asked for the first time when all vCPUs have arrived */
        work_until_us = now + PAUSE_WORK_US;
        arrival_us = MIN(PAUSE_ARRIVAL_US, arrival_max_us());
    }
    return now >= work_until_us;
}

void kvm_prefault_pause_end_if_over(void)
{
    KVMPrefault *p = &kvm_prefault;

    if (p->pausing && work_until_us && !p->sessions &&
        kvm_prefault_pause_over()) {
        kvm_prefault_release();
    }
}

void kvm_prefault_settle(void)
{
    KVMPrefault *p = &kvm_prefault;
    int64_t now = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);

    if (!p->settling) {
        p->settling = true;
        settle_until_ms = now + SETTLE_MAX_MS;
    }
    /* nothing is left of what a background pass was to repair */
    p->background = false;
    kvm_prefault_request(KVM_PREFAULT_CAUSE_SLOTS);
    timer_mod(settle_timer, MIN(now + SETTLE_MS, settle_until_ms));
}

void kvm_prefault_settle_cancel(void)
{
    kvm_prefault.settling = false;
    timer_del(settle_timer);
}

static void settled(void *opaque)
{
    KVMPrefault *p = &kvm_prefault;

    p->settling = false;
    if (p->state != KVM_PREFAULT_STATE_POPULATING) {
        return;
    }
    p->causes[KVM_PREFAULT_CAUSE_ZAP_ALL]++;
    trace_kvm_prefault_settled();
    if (p->config.wait) {
        kvm_prefault_hold();
    }
    kvm_prefault_advance();
}

void kvm_prefault_pause_init(void)
{
    settle_timer = timer_new_ms(QEMU_CLOCK_REALTIME, settled, NULL);
    hold_timer = timer_new_ms(QEMU_CLOCK_REALTIME, hold_is_over, NULL);
}
