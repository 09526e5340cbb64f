/*
 * KVM pre-fault: two ways to have KVM fill second-level tables
 *
 * ioctl: KVM_PRE_FAULT_MEMORY on a vCPU's file descriptor (Linux 6.11).
 * vcpu: the vCPU itself touches memory, by instructions of ours; works on any
 * KVM with EPT or NPT.  The rest of prefault does not care which.
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/kvm.h>
#include "qapi/error.h"
#include "hw/core/cpu.h"
#include "kvm-prefault.h"
#include "kvm-prefault-method.h"
#include "kvm-prefault-pause.h"

static bool ioctl_possible(Error **errp)
{
    KVMPrefault *p = &kvm_prefault;
    bool automatic = p->config.method == KVM_PREFAULT_METHOD_NONE;

    if (p->has_ioctl) {
        return true;
    }
    error_setg(errp, "'%s=%s' needs KVM_PRE_FAULT_MEMORY, which this host's "
               "KVM does not have",
               automatic ? PROP_PREFAULT : PROP_PREFAULT_METHOD,
               automatic ? OnOffAuto_str(p->config.mode) : "ioctl");
    return false;
}

static void append_remedy(Error *const *errp)
{
    error_append_hint(errp, "It takes Linux 6.11 or later with EPT or NPT "
                      "in use (kvm_intel.ept=1, kvm_amd.npt=1); "
                      "%s=auto starts without.\n", PROP_PREFAULT);
}

static KvmPrefaultMethod choose(KVMState *s, Error **errp)
{
    Error *no_ioctl = NULL, *no_vcpu = NULL;

    switch (kvm_prefault.config.method) {
    case KVM_PREFAULT_METHOD_IOCTL:
        return ioctl_possible(errp) ? KVM_PREFAULT_METHOD_IOCTL
                                    : KVM_PREFAULT_METHOD_NONE;
    case KVM_PREFAULT_METHOD_VCPU:
        return kvm_arch_prefault_vcpu_possible(s, errp) ?
               KVM_PREFAULT_METHOD_VCPU : KVM_PREFAULT_METHOD_NONE;
    default:
        break;
    }
    if (ioctl_possible(&no_ioctl)) {
        return KVM_PREFAULT_METHOD_IOCTL;
    }
    if (kvm_arch_prefault_vcpu_possible(s, &no_vcpu)) {
        error_free(no_ioctl);
        return KVM_PREFAULT_METHOD_VCPU;
    }
    error_setg(errp, "%s; %s", error_get_pretty(no_ioctl),
               error_get_pretty(no_vcpu));
    error_free(no_ioctl);
    error_free(no_vcpu);
    return KVM_PREFAULT_METHOD_NONE;
}

bool kvm_prefault_method_choose(KVMState *s, Error **errp)
{
    ERRP_GUARD();
    KVMPrefault *p = &kvm_prefault;

    p->method = choose(s, errp);
    if (p->method == KVM_PREFAULT_METHOD_NONE) {
        append_remedy(errp);
        return false;
    }
    p->can_borrow = p->method == KVM_PREFAULT_METHOD_VCPU ||
                    (!p->lifts_protection &&
                     kvm_arch_prefault_vcpu_possible(s, NULL));
    if (p->method == KVM_PREFAULT_METHOD_VCPU) {
        p->threads = MIN(p->threads, kvm_arch_prefault_vcpu_threads_max());
    }
    return true;
}

bool kvm_prefault_method_start(Error **errp)
{
    KVMPrefault *p = &kvm_prefault;

    if (p->method == KVM_PREFAULT_METHOD_VCPU) {
        return kvm_arch_prefault_vcpu_start(errp);
    }
    p->can_borrow = p->can_borrow && kvm_arch_prefault_vcpu_start(NULL);
    return true;
}

int kvm_prefault_method_enter(CPUState *cpu, int as_id,
                              KVMPrefaultSession *session)
{
    KVMPrefault *p = &kvm_prefault;
    int ret;

    memset(session, 0, sizeof(*session));
    session->borrowed = kvm_prefault_borrows();
    if (!session->borrowed) {
        return kvm_arch_prefault_enter_as(cpu, as_id, &session->mode);
    }
    kvm_prefault_counts_of(cpu, &session->counts);
    ret = kvm_arch_prefault_vcpu_enter(cpu, as_id, &session->saved);
    p->sessions += ret == 0;
    return ret;
}

/* Faults that we make are none of the guest's */
static void forgive_faults(CPUState *cpu, const KVMPrefaultCounts *before)
{
    KVMPrefaultCounts *base = &kvm_prefault.ready_counts;
    KVMPrefaultCounts now = { 0 };

    if (kvm_prefault_counts_of(cpu, &now)) {
        base->taken += now.taken - before->taken;
        base->emulated += now.emulated - before->emulated;
        base->fixed += now.fixed - before->fixed;
        base->spurious += now.spurious - before->spurious;
        base->fast += now.fast - before->fast;
        kvm_prefault_vcpu(cpu)->counts = now;
    }
}

void kvm_prefault_method_leave(CPUState *cpu, KVMPrefaultSession *session)
{
    KVMPrefault *p = &kvm_prefault;

    if (!session->borrowed) {
        kvm_arch_prefault_leave_as(cpu, &session->mode);
        return;
    }
    kvm_arch_prefault_vcpu_leave(cpu, session->saved);
    forgive_faults(cpu, &session->counts);
    p->sessions--;
    kvm_prefault_pause_end_if_over();
}

static int pre_fault(CPUState *cpu, const KVMPrefaultChunk *chunk,
                     uint64_t *done)
{
    struct kvm_pre_fault_memory range = {
        .gpa = chunk->gpa,
        .size = chunk->size,
    };
    int ret = kvm_vcpu_ioctl(cpu, KVM_PRE_FAULT_MEMORY, &range);

    *done = chunk->size - range.size;
    /* a signal after some progress ends the call with success */
    return ret == 0 && range.size ? -EINTR : ret;
}

/*
 * ROM, flash and device RAM are only read: a write to them would have an
 * effect, and their host pages are there for writing already.
 */
int kvm_prefault_method_map(CPUState *cpu, const KVMPrefaultSession *session,
                            const KVMPrefaultChunk *chunk, uint64_t *done)
{
    KVMPrefaultTouch touch = {
        .gpa = chunk->gpa,
        .size = chunk->size,
        .write = chunk->ram,
        /* dirty logging may have left each small page protected */
        .large = chunk->large && !kvm_prefault.write_protected,
    };

    if (!session->borrowed) {
        return pre_fault(cpu, chunk, done);
    }
    return kvm_arch_prefault_vcpu_touch(cpu, session->saved, &touch, done);
}
