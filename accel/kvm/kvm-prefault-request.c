/*
 * KVM pre-fault: what asks for a pass, and what makes one impossible
 *
 * Start, reset, wake-up, changed slots, the end of dirty logging and lost
 * mappings all come here; the pass itself is in kvm-prefault.c.
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
#include "kvm-prefault-host.h"
#include "kvm-prefault-migration.h"
#include "kvm-prefault-pause.h"
#include "kvm-prefault-poison.h"
#include "trace.h"

/*
 * Mapping a page of a logged slot for writing marks it dirty, and one of a
 * background snapshot waits until it is saved, so that there is nothing to be
 * done until that ends.
 */
static void postpone(void)
{
    kvm_prefault_reason(kvm_prefault.pass_reasons,
                        "pages are write-protected until dirty logging "
                        "(migration) or a background snapshot ends");
    timer_del(kvm_prefault.timer);
    kvm_prefault_settle_cancel();
    kvm_prefault_state_set(kvm_prefault.tdp_on ? KVM_PREFAULT_STATE_PARTIAL
                                               : KVM_PREFAULT_STATE_OFF);
    kvm_prefault.background = false;
    kvm_prefault_release();
}

/* What a request makes stale: everything, unless its cause says less */
static void invalidate(KVMPrefaultCause cause, bool before_start)
{
    KVMPrefault *p = &kvm_prefault;

    kvm_prefault_settle_cancel();
    kvm_prefault_ranges_invalidate(&p->ranges);
    kvm_prefault_watch_pass_begin(before_start);
    if (cause != KVM_PREFAULT_CAUSE_MTRR) {
        p->host_stale = p->host_all = true;
        if (cause != KVM_PREFAULT_CAUSE_LOST) {
            p->lock_stale = p->pin != KVM_PIN_RAM_OFF;
        }
    }
}

static void begin_pass(KVMPrefaultCause cause)
{
    KVMPrefault *p = &kvm_prefault;

    if (p->state != KVM_PREFAULT_STATE_POPULATING) {
        p->requested_us = g_get_monotonic_time();
        p->busy_until_us = 0;
        p->busy = false;
        p->given_up_as = 0;
    }
    if (cause != KVM_PREFAULT_CAUSE_SLOTS) {
        /* everything is done again */
        p->retry = false;
    }
    if (cause != KVM_PREFAULT_CAUSE_SLOTS ||
        (p->state != KVM_PREFAULT_STATE_POPULATING &&
         p->state != KVM_PREFAULT_STATE_PARTIAL)) {
        /* what has failed is done again, or there is nothing of the kind */
        g_ptr_array_set_size(p->pass_reasons, 0);
        p->failed_as = 0;
    }
    p->pass++;
    kvm_prefault_next_attempt();
    trace_kvm_prefault_request(p->pass, cause);
}

void kvm_prefault_request_devices(void)
{
    KVMPrefault *p = &kvm_prefault;

    p->causes[KVM_PREFAULT_CAUSE_LOST]++;
    begin_pass(KVM_PREFAULT_CAUSE_LOST);
    p->background = true;
    kvm_prefault_ranges_invalidate_devices(&p->ranges);
    kvm_prefault_state_set(KVM_PREFAULT_STATE_POPULATING);
    kvm_prefault_work_done();
}

void kvm_prefault_request_rest(void)
{
    KVMPrefault *p = &kvm_prefault;

    begin_pass(KVM_PREFAULT_CAUSE_LOST);
    p->background = true;
    /* their host pages may be what was missing */
    p->host_stale = p->host_all = true;
    p->lock_stale = p->pin != KVM_PIN_RAM_OFF;
    kvm_prefault_ranges_invalidate_incomplete(&p->ranges);
    kvm_prefault_state_set(KVM_PREFAULT_STATE_POPULATING);
    kvm_prefault_work_done();
}

/* The guest cannot execute anything before vCPUs have been resumed */
static bool guest_is_stopped(void)
{
    CPUState *cpu;

    if (!runstate_is_running()) {
        return true;
    }
    /* about to run: dirty logging ends on a change of the VM's state */
    CPU_FOREACH(cpu) {
        if (!cpu->stopped) {
            return false;
        }
    }
    return true;
}

void kvm_prefault_request(KVMPrefaultCause cause)
{
    KVMPrefault *p = &kvm_prefault;
    bool before_start = cause == KVM_PREFAULT_CAUSE_START ||
                        cause == KVM_PREFAULT_CAUSE_RESET ||
                        cause == KVM_PREFAULT_CAUSE_WAKEUP;

    p->causes[cause]++;
    if (p->suspended) {
        postpone();
        return;
    }
    begin_pass(cause);
    p->background = cause == KVM_PREFAULT_CAUSE_LOST ||
                    (cause == KVM_PREFAULT_CAUSE_SLOTS && p->background);
    if (cause != KVM_PREFAULT_CAUSE_SLOTS) {
        invalidate(cause, before_start);
    }
    if (p->config.wait && before_start) {
        kvm_prefault_hold_before_start();
    } else if ((p->config.wait && guest_is_stopped()) ||
               kvm_prefault_early()) {
        kvm_prefault_hold();
    }
    kvm_prefault_state_set(KVM_PREFAULT_STATE_POPULATING);
    /* from the main loop: the caller may be in the middle of something */
    kvm_prefault_work_done();
}

void kvm_prefault_suspend(KVMPrefaultSuspend why)
{
    KVMPrefault *p = &kvm_prefault;
    bool already = p->suspended;

    p->suspended |= why;
    p->write_protected = true;
    if (already) {
        return;
    }
    kvm_prefault_drain();
    if (p->state == KVM_PREFAULT_STATE_POPULATING ||
        p->state == KVM_PREFAULT_STATE_READY) {
        postpone();
    }
}

void kvm_prefault_resume(KVMPrefaultSuspend why)
{
    KVMPrefault *p = &kvm_prefault;

    if (!(p->suspended & why)) {
        return;
    }
    p->suspended &= ~why;
    if (!p->suspended) {
        kvm_prefault_populate_devices();
        kvm_prefault_request(KVM_PREFAULT_CAUSE_DIRTY_LOG);
    }
}

void kvm_prefault_reset(void)
{
    KVMPrefault *p = &kvm_prefault;
    KVMPrefaultCause cause = KVM_PREFAULT_CAUSE_RESET;
    unsigned i;

    if (!p->machine_ready) {
        return;
    }
    for (i = 0; i < p->nr_vcpus; i++) {
        p->vcpus[i].not_restored = false;
    }
    kvm_prefault_poison_forget(NULL, UINT64_MAX);
    kvm_prefault_host_resume();
    if (!p->causes[KVM_PREFAULT_CAUSE_START]) {
        cause = KVM_PREFAULT_CAUSE_START;
        p->incoming = runstate_check(RUN_STATE_INMIGRATE);
    } else if (p->guest_suspended && runstate_is_running()) {
        /* qemu_system_wakeup_request() has set that; a reset leaves it alone */
        cause = KVM_PREFAULT_CAUSE_WAKEUP;
    }
    p->guest_suspended = false;
    if (runstate_check(RUN_STATE_INMIGRATE) ||
        runstate_check(RUN_STATE_RESTORE_VM)) {
        kvm_prefault_expect_arrival();
    }
    kvm_prefault_request(cause);
}
