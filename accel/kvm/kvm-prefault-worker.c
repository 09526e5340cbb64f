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
#include "trace.h"

/* Most bytes per turn while the guest runs: about 1 ms with 4 KiB pages */
#define TURN_BYTES_RUNNING (16 * MiB)

/* Time or calls without any progress after which work is given up */
#define STALLED_MAX_US (10 * G_USEC_PER_SEC)
#define STALLED_MAX_CALLS 300

/* Interrupted calls without progress that are repeated with the BQL held */
#define INLINE_RETRIES 100

/* Most bytes at a time while the running guest is held for a moment */
#define TURN_BYTES_PAUSING (4 * MiB)

static bool is_retry(int ret)
{
    return ret == -EINTR || ret == -EAGAIN;
}

/* Whether @v has been interrupted without any progress for too long */
static bool is_stalled(KVMPrefaultVCPU *v, uint64_t done, int64_t us)
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
    return v->stalled_us >= STALLED_MAX_US ||
           v->stalled_calls >= STALLED_MAX_CALLS;
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

    return is_stalled(v, *done, us) && is_retry(ret) ? -ETIMEDOUT : ret;
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

    return v->pass != kvm_prefault.pass || !(v->unable & (1u << as_id));
}

/* Drop work of @as_id that no vCPU is able to do, so that the pass ends */
static void drop_hopeless_work(int as_id, int ret)
{
    KVMPrefault *p = &kvm_prefault;
    KVMPrefaultChunk *chunk;
    CPUState *cpu;

    CPU_FOREACH(cpu) {
        if (can_populate(cpu, as_id)) {
            return;
        }
    }
    kvm_prefault_reason(p->pass_reasons,
                        "no vCPU can populate address space %d now: %s",
                        as_id, strerror(-ret));
    while ((chunk = kvm_prefault_ranges_take(&p->ranges, as_id,
                                             KVM_PREFAULT_CHUNK_SIZE))) {
        kvm_prefault_ranges_put(&p->ranges, chunk, 0, true);
    }
}

static void mark_unable(CPUState *cpu, int as_id, int ret)
{
    KVMPrefaultVCPU *v = kvm_prefault_vcpu(cpu);

    trace_kvm_prefault_unable(cpu->cpu_index, as_id, ret);
    if (v->pass != kvm_prefault.pass) {
        v->pass = kvm_prefault.pass;
        v->unable = 0;
    }
    v->unable |= 1u << as_id;
    drop_hopeless_work(as_id, ret);
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
                        p->method == KVM_PREFAULT_METHOD_VCPU ?
                        "touching memory" : "KVM_PRE_FAULT_MEMORY",
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
    bool unable = ret == -EOPNOTSUPP;
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

/* Work in @as_id until none is left, or for one bounded chunk */
static bool work_in_as(CPUState *cpu, int as_id)
{
    KVMPrefault *p = &kvm_prefault;
    KVMPrefaultSession session;
    bool worked = false;
    int ret;

    ret = kvm_prefault_method_enter(cpu, as_id, &session);
    if (ret < 0) {
        mark_unable(cpu, as_id, ret);
        return true;
    }
    do {
        KVMPrefaultChunk *chunk;
        uint64_t done;

        chunk = kvm_prefault_ranges_take(&p->ranges, as_id, chunk_size());
        if (!chunk) {
            break;
        }
        worked = true;
        ret = map_unlocked(cpu, &session, chunk, &done);
        if (!finish_chunk(cpu, chunk, ret, done)) {
            break;
        }
    } while (p->hold && p->state == KVM_PREFAULT_STATE_POPULATING &&
             !kvm_prefault_pause_over() && !interrupted(cpu));
    kvm_prefault_method_leave(cpu, &session);
    return worked;
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

/* Whether a vCPU may be borrowed: see kvm-prefault-pause.c */
static bool method_must_wait(void)
{
    KVMPrefault *p = &kvm_prefault;

    return p->method == KVM_PREFAULT_METHOD_VCPU &&
           (!p->hold || p->sessions >= p->threads ||
            !kvm_prefault_quiescent() || kvm_prefault_pause_over());
}

/* One turn of work.  Returns false if there was nothing to do for @cpu. */
static bool take_turn(CPUState *cpu)
{
    KVMPrefault *p = &kvm_prefault;
    KVMPrefaultVCPU *v = kvm_prefault_vcpu(cpu);
    bool worked = false;
    int as_id;

    if (p->state != KVM_PREFAULT_STATE_POPULATING ||
        p->host_stale || p->host_running || p->settling ||
        qatomic_read(&p->inflight) >= p->threads || method_must_wait()) {
        return false;
    }
    if (p->method == KVM_PREFAULT_METHOD_IOCTL &&
        p->slot_zap == KVM_SLOT_ZAP_ALL && v->pass != p->pass) {
        v->pass = p->pass;
        v->unable = 0;
        kvm_arch_prefault_renew_root(cpu);
    }
    for (as_id = 0; as_id < p->nr_as && !worked; as_id++) {
        if (has_work(as_id) && can_populate(cpu, as_id)) {
            worked = work_in_as(cpu, as_id);
        }
    }
    if (worked && kvm_prefault_ranges_idle(&p->ranges)) {
        kvm_prefault_work_done();
    }
    return worked;
}

bool kvm_prefault_vcpu_ready(CPUState *cpu)
{
    KVMPrefault *p = &kvm_prefault;

    while ((p->hold || p->state == KVM_PREFAULT_STATE_POPULATING) &&
           !interrupted(cpu)) {
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
    qatomic_set(&kvm_prefault_vcpu(cpu)->turn_asked, false);
    if (p->nr_vcpus) {
        kvm_prefault_vcpu(cpu)->in_guest = !p->hold;
    }
    if (!p->hold) {
        kvm_prefault_arrival_entered();
    }
    return !p->hold;
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

void kvm_prefault_inline(CPUState *cpu)
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
        while ((chunk = kvm_prefault_ranges_take(&p->ranges, as_id,
                                                 KVM_PREFAULT_CHUNK_SIZE))) {
            ret = map_locked(cpu, &session, chunk, &done);
            if (!finish_chunk(cpu, chunk, ret, done)) {
                break;
            }
        }
        kvm_prefault_method_leave(cpu, &session);
    }
    kvm_prefault_inline_done();
}
