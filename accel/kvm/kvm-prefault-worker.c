/*
 * KVM pre-fault: the vCPU threads fill the second-level tables
 *
 * Each vCPU thread calls in before it enters the guest, takes chunks of work
 * and hands them to KVM_PRE_FAULT_MEMORY on its own vCPU.  That keeps every
 * ioctl of a vCPU in one thread, as KVM asks for, makes population as
 * parallel as the guest is, and lets a kick (stop, queued work, quit)
 * interrupt it like it interrupts KVM_RUN.
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/kvm.h>
#include "qemu/main-loop.h"
#include "qemu/units.h"
#include "hw/core/cpu.h"
#include "system/cpus.h"
#include "system/runstate.h"
#include "kvm-prefault.h"
#include "kvm-prefault-method.h"
#include "kvm-prefault-migration.h"
#include "kvm-prefault-pause.h"
#include "kvm-prefault-poison.h"
#include "trace.h"

/* Most bytes per turn while the guest runs: about 1 ms with 4 KiB pages */
#define TURN_BYTES_RUNNING (16 * MiB)

/*
 * Time or calls without any progress after which a vCPU leaves work to others:
 * less when the guest has run, because then somebody waits for it, and calls are
 * a turn apart.
 */
#define STALLED_MAX_US (10 * G_USEC_PER_SEC)
#define STALLED_MAX_RUNNING_US (G_USEC_PER_SEC / 2)
#define STALLED_MAX_CALLS 300
#define STALLED_MAX_RUNNING_CALLS 30

/*
 * KVM_PRE_FAULT_MEMORY makes no progress with an obsolete root.  One call may
 * have been interrupted before it began.
 */
#define STALLED_ROOT_CALLS 3

/* The guest need not be told that it was held for less than this */
#define HELD_US (10 * G_USEC_PER_SEC / 1000)

/* Interrupted calls without progress that are repeated with the BQL held */
#define INLINE_RETRIES 100

/* Most bytes at a time while the running guest is held for a moment */
#define TURN_BYTES_PAUSING (4 * MiB)

static bool is_retry(int ret)
{
    return ret == -EINTR || ret == -EAGAIN;
}

/* Whether @v has been interrupted without any progress for too long */
static bool is_stalled(KVMPrefaultVCPU *v, int as_id, uint64_t done,
                       int64_t us)
{
    if (done || v->stalled_pass_us != kvm_prefault.requested_us) {
        v->stalled_pass_us = kvm_prefault.requested_us;
        v->stalled_us = v->stalled_calls = 0;
    }
    if (done) {
        return false;
    }
    v->stalled_us += us;
    v->stalled_calls++;
    if (kvm_prefault.given_up_as & (1u << as_id)) {
        /* a guest that changes slots all the time would keep the pass alive */
        return true;
    }
    if (kvm_prefault.guest_has_run) {
        return v->stalled_calls >= STALLED_MAX_RUNNING_CALLS ||
               v->stalled_us >= STALLED_MAX_RUNNING_US;
    }
    return v->stalled_calls >= STALLED_MAX_CALLS ||
           v->stalled_us >= STALLED_MAX_US;
}

/*
 * Called with the BQL held, which is dropped meanwhile.  Returns what
 * kvm_prefault_method_map() does, but -ETIMEDOUT once calls have been
 * interrupted without any progress for too long.
 */
static int map_unlocked(CPUState *cpu, const KVMPrefaultSession *session,
                        const KVMPrefaultChunk *chunk, uint64_t *done)
{
    KVMPrefaultVCPU *v = kvm_prefault_vcpu(cpu);
    int64_t us;
    int ret;

    kvm_prefault_ioctl_begin(v);
    ret = kvm_prefault_method_map(cpu, session, chunk, done);
    us = kvm_prefault_ioctl_end(v);
    kvm_prefault.turn_us = MAX(kvm_prefault.turn_us, us);

    return is_stalled(v, chunk->as_id, *done, us) && is_retry(ret) ?
           -ETIMEDOUT : ret;
}

static int map_locked(CPUState *cpu, const KVMPrefaultSession *session,
                      const KVMPrefaultChunk *chunk, uint64_t *done)
{
    int tries = 0;
    int ret;

    do {
        ret = kvm_prefault_method_map(cpu, session, chunk, done);
    } while (is_retry(ret) && *done == 0 && ++tries < INLINE_RETRIES);
    return is_retry(ret) && *done == 0 ? -ETIMEDOUT : ret;
}

static bool can_populate(CPUState *cpu, int as_id)
{
    KVMPrefaultVCPU *v = kvm_prefault_vcpu(cpu);

    return v->attempt != kvm_prefault.attempt || !(v->unable & (1u << as_id));
}

static bool has_work(int as_id)
{
    KVMPrefaultChunk *chunk;

    QTAILQ_FOREACH(chunk, &kvm_prefault.ranges.work, next) {
        if (chunk->as_id == as_id) {
            return true;
        }
    }
    return false;
}

static bool somebody_can(int as_id)
{
    CPUState *cpu;

    CPU_FOREACH(cpu) {
        if (can_populate(cpu, as_id)) {
            return true;
        }
    }
    return false;
}

bool kvm_prefault_can_go_on(void)
{
    int as_id;

    for (as_id = 0; as_id < kvm_prefault.nr_as; as_id++) {
        if (has_work(as_id) && somebody_can(as_id)) {
            return true;
        }
    }
    return false;
}

/* What a vCPU is not able to do in its present state it may be able to later */
static const char *why_not_now(int ret)
{
    switch (ret) {
    case -EBUSY:
        return "each runs a nested guest, or is in SMM";
    case -EOPNOTSUPP:
        return "each runs a nested guest, or KVM does not support it";
    case -ETIMEDOUT:
        return "KVM makes no progress";
    default:
        return NULL;
    }
}

/* Keep, or drop, work of @as_id that no vCPU is able to do */
static void nobody_can(int as_id, int ret)
{
    KVMPrefault *p = &kvm_prefault;
    const char *why = why_not_now(ret);
    KVMPrefaultChunk *chunk;

    if ((p->not_now_as & (1u << as_id)) && kvm_prefault_wait_for_vcpus()) {
        return;
    }
    p->given_up_as |= 1u << as_id;
    kvm_prefault_reason(p->pass_reasons,
                        "no vCPU can populate address space %d now: %s",
                        as_id, why ? why : strerror(-ret));
    while ((chunk = kvm_prefault_ranges_take(&p->ranges, as_id,
                                             KVM_PREFAULT_CHUNK_SIZE))) {
        kvm_prefault_ranges_put(&p->ranges, chunk, 0, true);
    }
}

static void mark_unable(CPUState *cpu, int as_id, int ret)
{
    KVMPrefaultVCPU *v = kvm_prefault_vcpu(cpu);

    trace_kvm_prefault_unable(cpu->cpu_index, as_id, ret);
    if (v->attempt != kvm_prefault.attempt) {
        v->attempt = kvm_prefault.attempt;
        v->unable = 0;
    }
    v->unable |= 1u << as_id;
    if (!(kvm_prefault.given_up_as & (1u << as_id))) {
        /* it says nothing about other address spaces */
        v->stalled_us = v->stalled_calls = 0;
    }
    if (why_not_now(ret)) {
        kvm_prefault.not_now_as |= 1u << as_id;
    }
    if (!somebody_can(as_id)) {
        nobody_can(as_id, ret);
    }
    /* others may have waited for this vCPU because of 'prefault-threads' */
    kvm_prefault_kick_vcpus();
}

/* The first failure in an address space speaks for those that follow it */
static void chunk_failed(const KVMPrefaultChunk *chunk, uint64_t done, int ret)
{
    KVMPrefault *p = &kvm_prefault;

    if (p->failed_as & (1u << chunk->as_id)) {
        return;
    }
    p->failed_as |= 1u << chunk->as_id;
    kvm_prefault_reason(p->pass_reasons,
                        "%s at 0x%" PRIx64 " in address space %d: %s",
                        kvm_prefault_borrows() ? "touching memory"
                                               : "KVM_PRE_FAULT_MEMORY",
                        chunk->gpa + done, chunk->as_id, strerror(-ret));
}

/*
 * Give @chunk back with the result of the ioctl.  Returns false if this vCPU
 * had better not go on with the address space.
 */
static bool finish_chunk(CPUState *cpu, KVMPrefaultChunk *chunk, int ret,
                         uint64_t done)
{
    KVMPrefault *p = &kvm_prefault;
    int as_id = chunk->as_id;
    bool unable = ret == -EOPNOTSUPP || ret == -ETIMEDOUT;
    bool failed = ret < 0 && !is_retry(ret) && !unable;

    trace_kvm_prefault_chunk(cpu->cpu_index, as_id, chunk->gpa, chunk->size,
                             done, ret);
    /* ROM, flash and device RAM are mapped as a favour: no reason given */
    if (failed && chunk->range && chunk->range->ram) {
        chunk_failed(chunk, done, ret);
    }
    kvm_prefault_ranges_put(&p->ranges, chunk, done, failed);
    if (unable) {
        mark_unable(cpu, as_id, ret);
    }
    return !unable;
}

static bool interrupted(CPUState *cpu)
{
    return cpu->stop || cpu->unplug || !cpu_work_list_empty(cpu) ||
           (cpu_is_stopped(cpu) && !kvm_prefault_early());
}

static uint64_t chunk_size(void)
{
    return kvm_prefault.pausing ? TURN_BYTES_PAUSING :
           kvm_prefault.hold ? KVM_PREFAULT_CHUNK_SIZE : TURN_BYTES_RUNNING;
}

/* The next piece of work in which no host page is poisoned */
static KVMPrefaultChunk *take_sound(int as_id, uint64_t max)
{
    KVMPrefaultRanges *r = &kvm_prefault.ranges;
    KVMPrefaultChunk *chunk;
    bool poisoned;

    while ((chunk = kvm_prefault_ranges_take(r, as_id, max))) {
        kvm_prefault_ranges_trim(r, chunk,
                                 kvm_prefault_poison_piece(as_id, chunk->gpa,
                                                           chunk->size,
                                                           &poisoned));
        if (!poisoned) {
            break;
        }
        /* it stays missing; the host's pass has said why */
        kvm_prefault_ranges_put(r, chunk, 0, true);
    }
    return chunk;
}

/* Whether KVM is not to be asked again before @cpu's root is a valid one */
static bool wants_new_root(CPUState *cpu)
{
    KVMPrefaultVCPU *v = kvm_prefault_vcpu(cpu);

    return !kvm_prefault_borrows() && v->renewed != kvm_prefault.attempt &&
           (kvm_prefault.slot_zap == KVM_SLOT_ZAP_ALL ||
            v->stalled_calls >= STALLED_ROOT_CALLS);
}

static void renew_root(CPUState *cpu)
{
    kvm_prefault_vcpu(cpu)->renewed = kvm_prefault.attempt;
    kvm_arch_prefault_renew_root(cpu);
}

/*
 * Whether a turn goes on: beside the guest until it has done its share, or has
 * been interrupted.
 */
static bool goes_on(CPUState *cpu, uint64_t bytes, int ret)
{
    KVMPrefault *p = &kvm_prefault;

    if (!kvm_prefault_in_tables() || wants_new_root(cpu) || interrupted(cpu)) {
        return false;
    }
    return p->hold ? !kvm_prefault_pause_over()
                   : bytes < TURN_BYTES_RUNNING && !is_retry(ret);
}

/* Work in @as_id until none is left, or for one bounded turn */
static bool work_in_as(CPUState *cpu, int as_id)
{
    KVMPrefaultSession session;
    bool worked = false;
    uint64_t bytes = 0;
    int ret;

    ret = kvm_prefault_method_enter(cpu, as_id, &session);
    if (ret < 0) {
        mark_unable(cpu, as_id, ret);
        return true;
    }
    do {
        KVMPrefaultChunk *chunk;
        uint64_t done;

        chunk = take_sound(as_id, chunk_size());
        if (!chunk) {
            break;
        }
        worked = true;
        ret = map_unlocked(cpu, &session, chunk, &done);
        bytes += done;
        if (!finish_chunk(cpu, chunk, ret, done)) {
            break;
        }
    } while (goes_on(cpu, bytes, ret));
    kvm_prefault_method_leave(cpu, &session);
    return worked;
}

/* Whether a vCPU may be borrowed: see kvm-prefault-pause.c */
static bool method_must_wait(void)
{
    KVMPrefault *p = &kvm_prefault;

    return kvm_prefault_borrows() &&
           (!p->hold ||
            p->sessions >= MIN(p->threads,
                               kvm_arch_prefault_vcpu_threads_max()) ||
            !kvm_prefault_quiescent() || kvm_prefault_pause_over());
}

/*
 * While a vCPU visits SMM nobody should send it an INIT: KVM loses one that
 * comes between two ioctls.  So vCPUs that are held wait for all to have left
 * the guest; beside a running guest the moment has to be short enough.
 */
static bool may_visit(int as_id)
{
    return as_id == 0 || !kvm_prefault.hold || kvm_prefault_quiescent();
}

static bool may_work(void)
{
    KVMPrefault *p = &kvm_prefault;

    return kvm_prefault_in_tables() &&
           qatomic_read(&p->inflight) < p->threads && !method_must_wait();
}

/* One turn of work.  Returns false if there was nothing to do for @cpu. */
static bool take_turn(CPUState *cpu)
{
    KVMPrefault *p = &kvm_prefault;
    bool worked = false;
    int as_id;

    if (!may_work()) {
        return false;
    }
    if (wants_new_root(cpu)) {
        renew_root(cpu);
    }
    /* all of them in each turn, or new work in one would starve the next */
    for (as_id = 0; as_id < p->nr_as; as_id++) {
        if (has_work(as_id) && can_populate(cpu, as_id) &&
            may_visit(as_id) && may_work()) {
            worked |= work_in_as(cpu, as_id);
        }
    }
    /* also if all that was left was poisoned */
    if (kvm_prefault_ranges_idle(&p->ranges)) {
        kvm_prefault_work_done();
    }
    return worked;
}

/*
 * Beside the guest only once when asked, and not whenever it comes by: a guest
 * that leaves often, or that an interrupted ioctl has leave at once, would get
 * nowhere.
 */
static bool is_due(CPUState *cpu)
{
    KVMPrefault *p = &kvm_prefault;

    return p->hold || (p->state == KVM_PREFAULT_STATE_POPULATING &&
                       qatomic_read(&kvm_prefault_vcpu(cpu)->turn_asked));
}

/* Do work, or wait until others have done it, unless something else is due */
static void work_or_wait(CPUState *cpu)
{
    KVMPrefault *p = &kvm_prefault;

    while (is_due(cpu) && !interrupted(cpu)) {
        bool worked = take_turn(cpu);

        /* let the next kick send a signal again */
        qatomic_set_mb(&cpu->thread_kicked, false);
        if (!p->hold) {
            break;
        }
        if (!worked) {
            qemu_cond_wait_bql(cpu->halt_cond);
        }
    }
}

/*
 * Returns: whether @cpu may enter the guest.  Not if it has been asked to stop
 * or has got other work meanwhile: the kick may have been taken by a KVM_RUN of
 * the stub's, and nobody sends a second one.
 */
static bool wait_for_pass(CPUState *cpu)
{
    int64_t start = g_get_monotonic_time();
    bool may_enter;

    work_or_wait(cpu);
    may_enter = !kvm_prefault.hold && !interrupted(cpu);
    if (may_enter && g_get_monotonic_time() - start >= HELD_US) {
        kvm_arch_prefault_was_held(cpu);
    }
    return may_enter;
}

bool kvm_prefault_vcpu_ready(CPUState *cpu)
{
    KVMPrefault *p = &kvm_prefault;
    KVMPrefaultVCPU *v = kvm_prefault_vcpu(cpu);
    bool may_enter = true;

    if (p->hold || p->state == KVM_PREFAULT_STATE_POPULATING) {
        may_enter = wait_for_pass(cpu);
    }
    qatomic_set(&v->turn_asked, false);
    if (may_enter && v->not_restored) {
        vm_stop(RUN_STATE_INTERNAL_ERROR);
        may_enter = false;
    }
    v->in_guest = may_enter;
    if (may_enter) {
        p->guest_has_run = true;
        kvm_prefault_arrival_entered();
    }
    return may_enter;
}

bool kvm_prefault_vcpu_early(CPUState *cpu)
{
    while (kvm_prefault_early() && !interrupted(cpu)) {
        if (!take_turn(cpu)) {
            return true;
        }
        /* let the next kick send a signal again */
        qatomic_set_mb(&cpu->thread_kicked, false);
    }
    return !kvm_prefault_early();
}

bool kvm_prefault_inline(CPUState *cpu)
{
    KVMPrefault *p = &kvm_prefault;
    KVMPrefaultSession session;
    KVMPrefaultChunk *chunk;
    uint64_t done;
    int as_id, ret;

    for (as_id = 0; as_id < p->nr_as; as_id++) {
        if (!has_work(as_id)) {
            continue;
        }
        ret = kvm_prefault_method_enter(cpu, as_id, &session);
        if (ret < 0) {
            mark_unable(cpu, as_id, ret);
            continue;
        }
        while ((chunk = take_sound(as_id, KVM_PREFAULT_CHUNK_SIZE))) {
            ret = map_locked(cpu, &session, chunk, &done);
            if (!finish_chunk(cpu, chunk, ret, done)) {
                break;
            }
        }
        kvm_prefault_method_leave(cpu, &session);
    }
    kvm_prefault_inline_done();
    return kvm_prefault_ranges_idle(&p->ranges);
}
