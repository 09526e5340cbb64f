/*
 * KVM pre-fault: a borrowed vCPU gets its state back, or the guest stops
 *
 * KVM has reported that state itself and has no reason to refuse it.  Should
 * it do so all the same, the vCPU must not run on: the guest is stopped as it
 * is after any other internal error, and only a reset makes it run again.  A
 * guest that is stopped already is stopped again when it is to run.
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/kvm.h>
#include "qemu/error-report.h"
#include "hw/core/cpu.h"
#include "system/runstate.h"
#include "kvm-prefault.h"

/* A signal may be pending, or memory short for a moment */
#define TRIES 10

int kvm_prefault_set_state(CPUState *cpu, unsigned long request, void *state)
{
    int tries = 0;
    int ret;

    do {
        ret = kvm_vcpu_ioctl(cpu, request, state);
    } while ((ret == -EINTR || ret == -EAGAIN) && ++tries < TRIES);
    return MIN(ret, 0);
}

void kvm_prefault_vcpu_lost(CPUState *cpu, int ret)
{
    kvm_prefault_reason(kvm_prefault.pass_reasons,
                        "KVM did not take back the state of vCPU %d (%s), "
                        "so the guest has been stopped: reset it",
                        cpu->cpu_index, strerror(-ret));
    error_report("kvm prefault: KVM did not take back the state of vCPU %d: "
                 "%s; the guest is stopped and has to be reset",
                 cpu->cpu_index, strerror(-ret));
    kvm_prefault_vcpu(cpu)->not_restored = true;
    vm_stop(RUN_STATE_INTERNAL_ERROR);
    kvm_prefault_abandon();
}
