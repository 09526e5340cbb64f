/*
 * KVM pre-fault: the pass that populates guest RAM, from begin to end
 *
 * There is one kind of pass and one owner, this file.  Events ask for a pass
 * (kvm-prefault-request.c); a thread populates the host pages
 * (kvm-prefault-host.c); then the vCPU threads fill the second-level tables
 * (kvm-prefault-worker.c) and, with 'prefault-wait', do not enter the guest
 * until that is done.  The main loop never waits, so the monitor answers.
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/kvm.h>
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "qapi/error.h"
#include "hw/core/cpu.h"
#include "system/runstate.h"
#include "kvm-prefault.h"
#include "kvm-prefault-discard.h"
#include "kvm-prefault-host.h"
#include "kvm-prefault-pause.h"
#include "kvm-prefault-poison.h"
#include "trace.h"

/* While the guest runs, its vCPUs are asked for a turn this often */
#define TURN_INTERVAL_MS 10

/* While it waits: progress events and the watchdog */
#define HOLD_INTERVAL_MS 1000

/*
 * How long work is kept that no vCPU is able to do, because of a nested guest
 * or the like, and how often they are asked meanwhile: half as often each time.
 */
#define BUSY_MAX_US (2 * G_USEC_PER_SEC)
#define BUSY_FIRST_US (G_USEC_PER_SEC / 100)

KVMPrefault kvm_prefault;

KVMPrefaultVCPU *kvm_prefault_vcpu(CPUState *cpu)
{
    assert(cpu->cpu_index < kvm_prefault.nr_vcpus);
    return &kvm_prefault.vcpus[cpu->cpu_index];
}

void kvm_prefault_reason(GPtrArray *reasons, const char *fmt, ...)
{
    g_autofree char *reason = NULL;
    va_list ap;

    va_start(ap, fmt);
    reason = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    if (!g_ptr_array_find_with_equal_func(reasons, reason, g_str_equal,
                                          NULL)) {
        g_ptr_array_add(reasons, g_steal_pointer(&reason));
    }
}

void kvm_prefault_state_set(KvmPrefaultState state)
{
    KVMPrefault *p = &kvm_prefault;

    if (state != p->state) {
        trace_kvm_prefault_state(KvmPrefaultState_str(p->state),
                                 KvmPrefaultState_str(state));
        p->state = state;
        kvm_prefault_event();
        if (state != KVM_PREFAULT_STATE_POPULATING) {
            kvm_prefault_plug_all();
        }
    }
}

/*
 * Nothing is lost if QEMU ends now: the guest waits for its first instruction,
 * or runs on at the source of a migration that has not ended yet.
 */
static bool guest_is_replaceable(void)
{
    KVMPrefault *p = &kvm_prefault;

    return !p->guest_has_run &&
           (!p->incoming || runstate_check(RUN_STATE_INMIGRATE));
}

static bool may_refuse_start(void)
{
    KVMPrefault *p = &kvm_prefault;

    return guest_is_replaceable() && p->config.wait && p->hold && !p->pausing;
}

/*
 * 'on' means all or nothing, so a first pass that fails ends QEMU.  A guest
 * that has run is worth more than our promise.
 */
static void refuse_incomplete_start(void)
{
    KVMPrefault *p = &kvm_prefault;
    bool on = p->config.mode == ON_OFF_AUTO_ON;
    bool pinned = p->config.pin_set && p->config.pin != KVM_PIN_RAM_OFF;

    if (!may_refuse_start() || !(on || pinned) || !p->pass_reasons->len) {
        return;
    }
    error_report("'%s=%s': guest RAM could not be populated: %s",
                 on ? PROP_PREFAULT : PROP_PIN_RAM,
                 on ? "on" : KvmPinRam_str(p->config.pin),
                 (char *)g_ptr_array_index(p->pass_reasons, 0));
    error_printf("Use %s to start all the same.\n",
                 on ? PROP_PREFAULT "=auto" : PROP_PIN_RAM "=off");
    exit(EXIT_FAILURE);
}

static void warn_incomplete(void)
{
    KVMPrefault *p = &kvm_prefault;
    static bool warned;

    if (!warned) {
        warned = true;
        warn_report("kvm prefault: guest RAM is not completely populated: %s "
                    "(see query-kvm-prefault)",
                    (char *)g_ptr_array_index(p->pass_reasons, 0));
    }
}

void kvm_prefault_lost(const char *reason)
{
    KVMPrefault *p = &kvm_prefault;

    g_ptr_array_set_size(p->pass_reasons, 0);
    kvm_prefault_reason(p->pass_reasons, "%s", reason);
    warn_incomplete();
    kvm_prefault_state_set(KVM_PREFAULT_STATE_PARTIAL);
}

static KvmPrefaultState state_after_pass(void)
{
    KVMPrefault *p = &kvm_prefault;

    if (!p->tdp_on) {
        /* 'pin-ram' alone, or all that was possible of what was asked for */
        return p->config.mode == ON_OFF_AUTO_OFF ? KVM_PREFAULT_STATE_OFF
                                                 : KVM_PREFAULT_STATE_FAILED;
    }
    return p->pass_reasons->len ? KVM_PREFAULT_STATE_PARTIAL
                                : KVM_PREFAULT_STATE_READY;
}

/* Whether a pass over everything leaves each page writable */
static bool ends_protection(void)
{
    KVMPrefault *p = &kvm_prefault;

    return p->lifts_protection || kvm_prefault_borrows();
}

/*
 * Since dirty logging has ended everything has been worked on; what could not
 * be done then has a reason, which stays until it is done again.
 */
static void forget_protection(void)
{
    KVMPrefault *p = &kvm_prefault;

    if (!p->write_protected || !p->tdp_on) {
        return;
    }
    if (!ends_protection()) {
        kvm_prefault_reason(p->pass_reasons,
                            "pages that were write-protected for dirty "
                            "logging fault once when they are written to: "
                            "KVM_PRE_FAULT_MEMORY leaves them alone, and "
                            "vCPUs cannot be made to touch them "
                            "('%s=vcpu')", PROP_PREFAULT_METHOD);
    } else if (!p->pass_reasons->len) {
        p->write_protected = false;
    }
}

static void add_poison(void)
{
    KVMPrefault *p = &kvm_prefault;
    unsigned others = p->pass_reasons->len;

    if (p->tdp_on) {
        kvm_prefault_poison_reasons(p->pass_reasons);
    }
    p->only_poison = !others && p->pass_reasons->len;
}

static void finish_pass(void)
{
    KVMPrefault *p = &kvm_prefault;

    forget_protection();
    add_poison();
    refuse_incomplete_start();
    timer_del(p->timer);
    p->duration_us = g_get_monotonic_time() - p->requested_us;
    p->passes_done++;
    p->first_pass_done = true;
    p->busy = false;
    p->busy_until_us = 0;
    if (p->pass_reasons->len) {
        warn_incomplete();
    }
    /*
     * Before the guest runs on: it must not take a fault that is not counted.
     * What it has taken on lost mappings stays in the count.
     */
    if (!p->background) {
        p->have_ready_counts = kvm_prefault_counts(&p->ready_counts);
    }
    trace_kvm_prefault_pass_end(p->pass, p->duration_us);
    kvm_prefault_state_set(state_after_pass());
    kvm_prefault_watch_pass_end();
    p->background = false;
    kvm_prefault_release();
}

/* Give up what is left to do; the reasons say why */
static void abandon_work(void)
{
    KVMPrefaultRanges *r = &kvm_prefault.ranges;
    KVMPrefaultChunk *chunk;
    int as_id;

    for (as_id = 0; as_id < kvm_prefault.nr_as; as_id++) {
        while ((chunk = kvm_prefault_ranges_take(r, as_id,
                                                 KVM_PREFAULT_CHUNK_SIZE))) {
            kvm_prefault_ranges_put(r, chunk, 0, true);
        }
    }
}

/*
 * With KVM_MEM_ALWAYS_WRITABLE the pass over the second-level tables allocates
 * host pages itself, for writing and under the NUMA policy of the mapping.
 * Not if they are pinned, which may move them and so has to come first.  Nor
 * once the guest has run: a page may have got a memory error since, and is to
 * be found by MADV_POPULATE_WRITE, not by a vCPU.
 */
static bool is_one_pass(void)
{
    KVMPrefault *p = &kvm_prefault;

    return p->tdp_on && p->always_writable &&
           p->pin != KVM_PIN_RAM_LONGTERM &&
           !(p->guest_has_run && p->host_all) && !kvm_prefault_host_placed();
}

/* Returns false if there is nothing to be done to host pages now */
static bool start_host_step(void)
{
    KVMPrefault *p = &kvm_prefault;
    bool idle = kvm_prefault_ranges_idle(&p->ranges);
    bool populate = p->host_stale && (p->split || !is_one_pass());
    bool lock = p->lock_stale && (populate || idle || !p->tdp_on);

    p->host_stale = false;
    if (!populate && !lock) {
        /* or the next DIMM would have all RAM locked again */
        p->host_all = p->lock_stale;
        return false;
    }
    p->lock_stale &= !lock;
    p->host_running = true;
    if (p->pausing) {
        /* a pause is for the tables */
        kvm_prefault_hold_end();
    }
    kvm_prefault_host_start(populate, lock);
    return true;
}

bool kvm_prefault_in_tables(void)
{
    KVMPrefault *p = &kvm_prefault;

    return p->state == KVM_PREFAULT_STATE_POPULATING && !p->settling &&
           !p->host_stale && !p->host_running;
}

bool kvm_prefault_borrows(void)
{
    KVMPrefault *p = &kvm_prefault;

    return p->method == KVM_PREFAULT_METHOD_VCPU ||
           (p->write_protected && !p->lifts_protection && p->can_borrow);
}

bool kvm_prefault_wait_for_vcpus(void)
{
    KVMPrefault *p = &kvm_prefault;
    int64_t now = g_get_monotonic_time();

    if (guest_is_replaceable()) {
        return false;
    }
    if (!p->busy_until_us) {
        p->busy_until_us = now + BUSY_MAX_US;
    }
    if (now >= p->busy_until_us) {
        p->retry = true;
        return false;
    }
    if (!p->busy) {
        p->busy = true;
        /* twice as long after the first one as since then */
        p->busy_next_us = now + MAX(BUSY_FIRST_US, BUSY_MAX_US -
                                    (p->busy_until_us - now));
    }
    kvm_prefault_hold_end();
    return true;
}

/*
 * Returns false if there is only what no vCPU was able to do, and it is too
 * early to ask them again.
 */
static bool ask_busy_again(void)
{
    KVMPrefault *p = &kvm_prefault;

    if (p->busy && g_get_monotonic_time() < p->busy_next_us) {
        return kvm_prefault_can_go_on();
    }
    if (p->busy) {
        p->busy = false;
        kvm_prefault_next_attempt();
    }
    return true;
}

void kvm_prefault_next_attempt(void)
{
    kvm_prefault.attempt++;
    kvm_prefault.not_now_as = 0;
}

static void have_vcpus_work(void)
{
    KVMPrefault *p = &kvm_prefault;

    if (!ask_busy_again()) {
        return;
    }
    if (p->hold && !p->pausing) {
        kvm_prefault_kick_vcpus();
    } else if (!p->pausing) {
        /* a pause has kicked them when it began */
        kvm_prefault_ask_for_turns();
    }
}

void kvm_prefault_advance(void)
{
    KVMPrefault *p = &kvm_prefault;

    if (!p->machine_ready || p->state != KVM_PREFAULT_STATE_POPULATING ||
        p->settling || p->host_running || start_host_step()) {
        return;
    }
    if (!p->tdp_on) {
        abandon_work();
    }
    if (kvm_prefault_ranges_idle(&p->ranges)) {
        finish_pass();
        return;
    }
    have_vcpus_work();
    timer_mod(p->timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) +
                        (p->hold && !p->pausing ? HOLD_INTERVAL_MS
                                                : TURN_INTERVAL_MS));
}

static void prefault_tick(void *opaque)
{
    KVMPrefault *p = &kvm_prefault;
    int64_t now = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);

    kvm_prefault_watchdog();
    if (now - p->last_event_ms >= HOLD_INTERVAL_MS) {
        kvm_prefault_event();
    }
    kvm_prefault_pause_tick();
    kvm_prefault_advance();
}

void kvm_prefault_core_init(void)
{
    KVMPrefault *p = &kvm_prefault;

    p->host_reasons = g_ptr_array_new_with_free_func(g_free);
    p->pass_reasons = g_ptr_array_new_with_free_func(g_free);
    kvm_prefault_ranges_init(&p->ranges);
    qemu_mutex_init(&p->inflight_lock);
    qemu_cond_init(&p->inflight_cond);
    p->timer = timer_new_ms(QEMU_CLOCK_REALTIME, prefault_tick, NULL);
    kvm_prefault_pause_init();
}

static void advance_bh(void *opaque)
{
    kvm_prefault_advance();
}

void kvm_prefault_work_done(void)
{
    aio_bh_schedule_oneshot(qemu_get_aio_context(), advance_bh, NULL);
}

void kvm_prefault_abandon(void)
{
    abandon_work();
    kvm_prefault_work_done();
}

void kvm_prefault_inline_done(void)
{
    KVMPrefault *p = &kvm_prefault;

    if (p->state == KVM_PREFAULT_STATE_READY && p->pass_reasons->len) {
        warn_incomplete();
        kvm_prefault_state_set(KVM_PREFAULT_STATE_PARTIAL);
    }
}

/*
 * Without host pages KVM would map the zero page, and each first write would
 * fault twice: worse than not populating at all.
 */
static void abandon_without_pages(const GPtrArray *failed)
{
    unsigned i;

    if (!failed->len) {
        abandon_work();
    }
    for (i = 0; i < failed->len; i++) {
        kvm_prefault_ranges_drop(&kvm_prefault.ranges,
                                 g_ptr_array_index(failed, i));
    }
}

void kvm_prefault_host_done(Error *err, const GPtrArray *failed)
{
    KVMPrefault *p = &kvm_prefault;

    p->host_running = false;
    if (err) {
        kvm_prefault_reason(p->pass_reasons, "%s", error_get_pretty(err));
        error_free(err);
        /* unless all of them are going to be populated again */
        if (!(p->host_stale && p->host_all)) {
            abandon_without_pages(failed);
        }
    }
    kvm_prefault_advance();
}
