/*
 * KVM pre-fault: vCPU threads in ioctls of ours, and how to get them out
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/kvm.h>
#include "qemu/main-loop.h"
#include "hw/core/cpu.h"
#include "system/cpus.h"
#include "kvm-prefault.h"
#include "kvm-prefault-migration.h"

/* A turn beside the guest ends after this on a slow host: the guest goes on */
#define TURN_MAX_US (10 * G_USEC_PER_SEC / 1000)

/* An ioctl that takes longer than this is interrupted and taken up again */
#define IOCTL_SLOW_US (2 * G_USEC_PER_SEC)

void kvm_prefault_kick_vcpus(void)
{
    CPUState *cpu;

    CPU_FOREACH(cpu) {
        if (kvm_prefault_early()) {
            kvm_prefault_queue_early(cpu);
        } else if (cpu->created) {
            /* while it is being unplugged its thread may have ended already */
            qemu_cpu_kick(cpu);
        }
    }
}

/*
 * qemu_cpu_kick() signals once until the vCPU thread reaches its event loop;
 * here the signal must be repeatable, because one that arrives before the
 * ioctl has begun does not interrupt it.
 */
static void interrupt_ioctls(int64_t older_than_us)
{
    int64_t now = g_get_monotonic_time();
    CPUState *cpu;

    CPU_FOREACH(cpu) {
        int64_t start = qatomic_read(&kvm_prefault_vcpu(cpu)->ioctl_start_us);

        /* a thread that has been joined, but is still listed, has none */
        if (start && cpu->created && now - start >= older_than_us) {
            pthread_kill(cpu->thread->thread, SIG_IPI);
        }
    }
}

void kvm_prefault_ask_for_turns(void)
{
    CPUState *cpu;

    interrupt_ioctls(TURN_MAX_US);
    if (kvm_prefault.background && !kvm_prefault_watch_turn_due()) {
        return;
    }
    CPU_FOREACH(cpu) {
        if (cpu->created &&
            !qatomic_xchg(&kvm_prefault_vcpu(cpu)->turn_asked, true)) {
            qemu_cpu_kick(cpu);
        }
    }
}

void kvm_prefault_watchdog(void)
{
    interrupt_ioctls(IOCTL_SLOW_US);
}

void kvm_prefault_interrupt(void)
{
    interrupt_ioctls(0);
}

/*
 * Why memory transactions wait for our ioctls: Linux 6.12's
 * KVM_PRE_FAULT_MEMORY holds SRCU and retries while it meets a slot that is
 * being deleted, and the deleter waits for SRCU (fixed upstream by
 * 3ccbf6f47098).  No ioctl can start meanwhile: that takes the BQL, which a
 * transaction holds to its end.
 */
void kvm_prefault_drain(void)
{
    KVMPrefault *p = &kvm_prefault;

    qemu_mutex_lock(&p->inflight_lock);
    while (p->inflight) {
        interrupt_ioctls(0);
        qemu_cond_timedwait(&p->inflight_cond, &p->inflight_lock, 1);
    }
    qemu_mutex_unlock(&p->inflight_lock);
}

void kvm_prefault_ioctl_begin(KVMPrefaultVCPU *v)
{
    KVMPrefault *p = &kvm_prefault;

    qemu_mutex_lock(&p->inflight_lock);
    qatomic_set(&p->inflight, p->inflight + 1);
    qatomic_set(&v->ioctl_start_us, g_get_monotonic_time());
    qemu_mutex_unlock(&p->inflight_lock);
    bql_unlock();
}

int64_t kvm_prefault_ioctl_end(KVMPrefaultVCPU *v)
{
    KVMPrefault *p = &kvm_prefault;
    int64_t us;

    qemu_mutex_lock(&p->inflight_lock);
    us = g_get_monotonic_time() - v->ioctl_start_us;
    qatomic_set(&v->ioctl_start_us, 0);
    qatomic_set(&p->inflight, p->inflight - 1);
    qemu_cond_broadcast(&p->inflight_cond);
    qemu_mutex_unlock(&p->inflight_lock);
    bql_lock();
    return us;
}
