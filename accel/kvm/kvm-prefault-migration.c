/*
 * KVM pre-fault: guests that come from elsewhere, and guests that leave
 *
 * The destination of a migration need not wait for the guest to populate its
 * memory: nothing is dirty-logged there, and what the stream writes to host
 * pages changes no mapping.  So vCPUs that are stopped fill the tables while
 * the stream arrives, as queued work, and when the guest is to run ("cont")
 * all that is left is to look whether everything is still mapped.
 *
 * A guest that could not leave runs on before dirty logging has ended
 * (migration_iteration_finish(), then migration_cleanup()); it is held until
 * then, or it would fault on pages that are still write-protected.
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/kvm.h>
#include "qapi/error.h"
#include "hw/core/cpu.h"
#include "migration/colo.h"
#include "migration/misc.h"
#include "migration/postcopy-ram.h"
#include "system/runstate.h"
#include "kvm-prefault.h"
#include "kvm-prefault-migration.h"
#include "kvm-prefault-pause.h"
#include "trace.h"

/* The guest that is expected here, or the last one that came */
static struct {
    bool expected;
    bool migrates;              /* by a stream, not from a snapshot */
    bool pending;               /* may run, but has not yet */
    bool waited;                /* ... because of a pass */
    bool known;                 /* what follows is valid */
    int64_t start_us;
    int64_t downtime_us;
    uint64_t early_bytes, late_bytes;
} arrival;

/* vCPUs are held until dirty logging ends */
static bool log_is_ending;

bool kvm_prefault_early(void)
{
    return arrival.migrates && !kvm_prefault.suspended;
}

/*
 * A vCPU that is stopped does queued work.  One whose turn ends because of
 * other queued work, or of a request to stop, is asked again by the main loop.
 */
static void early_turns(CPUState *cpu, run_on_cpu_data data)
{
    kvm_prefault_vcpu(cpu)->early_queued = false;
    if (!kvm_prefault_vcpu_early(cpu)) {
        kvm_prefault_work_done();
    }
}

void kvm_prefault_queue_early(CPUState *cpu)
{
    KVMPrefaultVCPU *v = kvm_prefault_vcpu(cpu);

    if (kvm_prefault.state == KVM_PREFAULT_STATE_POPULATING &&
        !v->early_queued) {
        v->early_queued = true;
        async_run_on_cpu(cpu, early_turns, RUN_ON_CPU_NULL);
    }
}

void kvm_prefault_expect_arrival(void)
{
    arrival.expected = true;
    arrival.migrates = kvm_prefault.tdp_on &&
                       runstate_check(RUN_STATE_INMIGRATE);
}

/*
 * Before the guest has run there is one root per address space, so KVM's
 * number of mapped bytes must be ours.  There may be less when the state of
 * vCPUs has been loaded, if a root lives only as long as a vCPU uses it (Linux
 * before 6.4), or when the host has moved pages.
 */
static bool mappings_intact(void)
{
    KVMPrefaultVMCounts vm;

    return kvm_prefault_vm_counts(&vm) &&
           vm.mapped >= kvm_prefault_ranges_mapped(&kvm_prefault.ranges);
}

static uint64_t populated_bytes(void)
{
    uint64_t populated;

    kvm_prefault_ranges_count(&kvm_prefault.ranges, &populated);
    return populated;
}

/* The guest is here and may run, vCPUs are about to be resumed */
static void guest_arrives(void)
{
    KVMPrefault *p = &kvm_prefault;
    bool migrated = kvm_prefault_early();

    arrival.start_us = g_get_monotonic_time();
    arrival.expected = arrival.migrates = false;
    if (p->state == KVM_PREFAULT_STATE_POPULATING && p->settling) {
        /* nobody changes slots now */
        kvm_prefault_settle_cancel();
        kvm_prefault_work_done();
    }
    if (migrated && !mappings_intact()) {
        kvm_prefault_request(KVM_PREFAULT_CAUSE_INCOMING);
    }
    if (!p->config.wait && p->hold) {
        kvm_prefault_release();
        kvm_prefault_work_done();
    }
    /* a guest that has run elsewhere is not given up, nor held for long */
    p->guest_has_run |= p->incoming;
    p->hold_unbounded &= !p->guest_has_run;
    arrival.early_bytes = populated_bytes();
    arrival.waited = p->hold;
    arrival.pending = p->tdp_on;
    arrival.downtime_us = g_get_monotonic_time() - arrival.start_us;
}

void kvm_prefault_arrival_held(void)
{
    arrival.waited = true;
}

void kvm_prefault_arrival_entered(void)
{
    uint64_t populated;

    if (!arrival.pending) {
        return;
    }
    populated = populated_bytes();
    arrival.pending = false;
    arrival.known = true;
    if (arrival.waited) {
        arrival.downtime_us = g_get_monotonic_time() - arrival.start_us;
    }
    arrival.late_bytes = populated - MIN(arrival.early_bytes, populated);
    trace_kvm_prefault_arrival(arrival.early_bytes, arrival.late_bytes,
                               arrival.downtime_us);
}

KvmPrefaultIncoming *kvm_prefault_query_incoming(void)
{
    KvmPrefaultIncoming *info;

    if (!arrival.known) {
        return NULL;
    }
    info = g_new0(KvmPrefaultIncoming, 1);
    info->early_bytes = arrival.early_bytes;
    info->late_bytes = arrival.late_bytes;
    info->downtime_us = arrival.downtime_us;
    return info;
}

/* In whatever thread resumes the guest, BQL held, before vCPUs are resumed */
static void vm_state_changed(void *opaque, bool running, RunState state)
{
    KVMPrefault *p = &kvm_prefault;

    /* it may have been suspended where it comes from */
    p->guest_suspended |= state == RUN_STATE_SUSPENDED;
    if (!running) {
        kvm_prefault_hold_pauses();
        return;
    }
    if (arrival.expected) {
        guest_arrives();
    }
    kvm_prefault_hold_counts();
    /* COLO goes on logging */
    if (p->suspended && p->config.wait && migration_thread_is_self() &&
        !migration_in_colo_state()) {
        log_is_ending = true;
        kvm_prefault_hold();
    }
}

static uint64_t mapped_large(void)
{
    KvmPrefaultMapped mapped;

    return kvm_prefault_mapped(&mapped) ? mapped.page_2m + mapped.page_1g : 0;
}

/*
 * A background snapshot write-protects memory by userfaultfd, which splits
 * huge pages of the host and unmaps all, and has no dirty log that would tell.
 */
static void background_snapshot(bool begins)
{
    KVMPrefault *p = &kvm_prefault;
    static uint64_t large_before;

    if (begins) {
        large_before = mapped_large();
        kvm_prefault_suspend(KVM_PREFAULT_SUSPEND_SNAPSHOT);
    } else if (p->suspended & KVM_PREFAULT_SUSPEND_SNAPSHOT) {
        p->split |= mapped_large() < large_before;
        kvm_prefault_resume(KVM_PREFAULT_SUSPEND_SNAPSHOT);
    }
}

/* Ends come after the end of write tracking and, mostly, of dirty logging */
static int migration_event(NotifierWithReturn *n, MigrationEvent *e,
                           Error **errp)
{
    if (e->type == MIG_EVENT_PRECOPY_SETUP) {
        if (migrate_background_snapshot()) {
            background_snapshot(true);
        }
        return 0;
    }
    background_snapshot(false);
    if (log_is_ending) {
        log_is_ending = false;
        if (kvm_prefault.state != KVM_PREFAULT_STATE_POPULATING) {
            /* somebody else logs, and the guest does not wait for that */
            kvm_prefault_release();
        }
    }
    return 0;
}

/*
 * A page that has not arrived can be neither mapped nor locked: userfaultfd
 * would block us.  Called at the destination before QEMU unlocks all memory.
 */
static int refuse_postcopy(NotifierWithReturn *n, void *data, Error **errp)
{
    KVMPrefault *p = &kvm_prefault;
    struct PostcopyNotifyData *pnd = data;
    const char *name = p->tdp_on ? PROP_PREFAULT : PROP_PIN_RAM;
    const char *value = p->tdp_on ? OnOffAuto_str(p->config.mode)
                                  : KvmPinRam_str(p->pin);

    if (pnd->reason != POSTCOPY_NOTIFY_PROBE ||
        (!p->tdp_on && p->pin == KVM_PIN_RAM_OFF)) {
        return 0;
    }
    error_setg(errp, "'%s=%s' at the destination does not go with postcopy "
               "migration, whose pages arrive after the guest: leave the "
               "capability postcopy-ram off on both sides, or start this QEMU "
               "with %s=off", name, value, name);
    return -EINVAL;
}

static void guest_suspends(Notifier *notifier, void *data)
{
    kvm_prefault.guest_suspended = true;
}

static Notifier suspend_notifier = { .notify = guest_suspends };
static NotifierWithReturn postcopy_notifier = { .notify = refuse_postcopy };
static NotifierWithReturn migration_notifiers[MIG_MODE__MAX];

void kvm_prefault_migration_init(void)
{
    int mode;

    postcopy_add_notifier(&postcopy_notifier);
    qemu_register_suspend_notifier(&suspend_notifier);
    qemu_add_vm_change_state_handler(vm_state_changed, NULL);
    for (mode = 0; mode < MIG_MODE__MAX; mode++) {
        migration_add_notifier_mode(&migration_notifiers[mode],
                                    migration_event, mode);
    }
}
