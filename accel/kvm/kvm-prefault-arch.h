/*
 * KVM pre-fault: what each architecture provides
 *
 * Unless a comment says otherwise, everything here is called with the BQL held.
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef ACCEL_KVM_PREFAULT_ARCH_H
#define ACCEL_KVM_PREFAULT_ARCH_H

#include "qapi/qapi-types-kvm-prefault.h"
#include "system/kvm.h"
#include "kvm-prefault-ranges.h"

/* target/i386/kvm/kvm-prefault-x86.c */

/* The mode that a vCPU was in before it was made to use another root */
typedef struct KVMPrefaultVCPUMode {
    bool changed;
    struct kvm_vcpu_events events;
    /* VMX operation, which KVM ends when SMM changes; NULL if there is none */
    struct kvm_nested_state *nested;
} KVMPrefaultVCPUMode;

/**
 * kvm_arch_prefault_has_slot_zap: whether zaps can be limited to a slot
 */
bool kvm_arch_prefault_has_slot_zap(KVMState *s);

/**
 * kvm_arch_prefault_set_slot_zap: limit zaps to the deleted slot
 *
 * Cannot be undone.  Returns: 0 or -errno.
 */
int kvm_arch_prefault_set_slot_zap(KVMState *s);

/**
 * kvm_arch_prefault_mtrr_zap_support: what KVM does about guest MTRRs
 */
KvmMtrrZapSupport kvm_arch_prefault_mtrr_zap_support(KVMState *s);

/**
 * kvm_arch_prefault_set_mtrr_zap: choose what guest MTRRs zap
 * @zap: not KVM_MTRR_ZAP_AUTO
 *
 * Context: before the first vCPU exists.
 * Returns: 0 or -errno; -EOPNOTSUPP for KVM_MTRR_ZAP_NONE if the CPU has no
 * self-snoop.
 */
int kvm_arch_prefault_set_mtrr_zap(KVMState *s, KvmMtrrZap zap);

/**
 * kvm_arch_prefault_nx_huge_pages: whether the first instruction fetch from a
 * huge page faults, whatever is mapped (KVM's nx_huge_pages, against the iTLB
 * multihit erratum; arch/x86/kvm/mmu/mmu.c)
 */
bool kvm_arch_prefault_nx_huge_pages(void);

/**
 * kvm_arch_prefault_enter_as: make @cpu's current root the one of @as_id
 * @mode: filled in for kvm_arch_prefault_leave_as()
 *
 * Context: the vCPU's own thread, BQL held.
 *
 * Returns: 0; -EBUSY if the vCPU is in a state that must not be disturbed now
 * (see kvm_prefault_nested_save()), other -errno from KVM.
 */
int kvm_arch_prefault_enter_as(CPUState *cpu, int as_id,
                               KVMPrefaultVCPUMode *mode);

/**
 * kvm_arch_prefault_leave_as: undo kvm_arch_prefault_enter_as()
 *
 * What has arrived in between (INIT, SMI) is kept, but for the moment between
 * two ioctls, in which KVM itself loses an INIT.
 */
void kvm_arch_prefault_leave_as(CPUState *cpu, KVMPrefaultVCPUMode *mode);

/**
 * kvm_arch_prefault_was_held: tell the guest that @cpu has not run for a while
 *
 * So that it does not take that for a lock-up of its own (KVM_KVMCLOCK_CTRL,
 * PVCLOCK_GUEST_STOPPED), if it uses KVM's clock.
 *
 * Context: the vCPU's own thread, BQL held.
 */
void kvm_arch_prefault_was_held(CPUState *cpu);

/**
 * kvm_arch_prefault_renew_root: have @cpu load a valid root next time
 *
 * KVM_PRE_FAULT_MEMORY up to Linux 6.14 does not notice that a slot deletion
 * has made the root obsolete, and retries for ever (upstream fix:
 * 20a6cff3b283 "KVM: x86/mmu: Check and free obsolete roots in
 * kvm_mmu_reload()").
 */
void kvm_arch_prefault_renew_root(CPUState *cpu);

/**
 * kvm_arch_prefault_vcpu_possible: whether vCPUs can be made to touch memory
 *
 * Returns: false with @errp set if this host cannot.
 */
bool kvm_arch_prefault_vcpu_possible(KVMState *s, Error **errp);

/**
 * kvm_arch_prefault_vcpu_start: create the stub that touches memory
 *
 * Context: the machine and its CPUs exist.
 * Returns: false with @errp set if these CPUs cannot run it.
 */
bool kvm_arch_prefault_vcpu_start(Error **errp);

/**
 * kvm_arch_prefault_vcpu_threads_max: how many vCPUs can run it at a time
 */
unsigned kvm_arch_prefault_vcpu_threads_max(void);

/* target/i386/kvm/kvm-prefault-probe.c */

/**
 * kvm_arch_prefault_lifts_protection: whether KVM_PRE_FAULT_MEMORY makes pages
 * writable that are mapped, but were write-protected for dirty logging
 *
 * Linux 6.12 does; from 6.13 on it leaves alone what is present (6385d01eec16,
 * kvm_tdp_mmu_map()).  Tried out with a small VM, which takes some
 * milliseconds.
 *
 * Context: KVM_PRE_FAULT_MEMORY exists.
 * Returns: false as well if it could not be found out.
 */
bool kvm_arch_prefault_lifts_protection(KVMState *s);

/* target/i386/kvm/kvm-prefault-vcpu.c */

/* A vCPU's state while it is borrowed */
typedef struct KVMPrefaultSaved KVMPrefaultSaved;

/**
 * kvm_arch_prefault_vcpu_enter: save @cpu's state and replace it by the stub's
 * @as_id: address space that it is to work in
 * @saved: set to what kvm_arch_prefault_vcpu_leave() needs
 *
 * Context: the vCPU's own thread, BQL held, no vCPU in the guest until the
 * matching leave.
 *
 * Returns: 0; -EBUSY if the vCPU is in a state that must not be disturbed now
 * (see kvm_prefault_nested_save()), other -errno from KVM.
 */
int kvm_arch_prefault_vcpu_enter(CPUState *cpu, int as_id,
                                 KVMPrefaultSaved **saved);

/**
 * kvm_arch_prefault_vcpu_touch: have @cpu touch memory
 * @done: set to the bytes touched, from the start, in any case
 *
 * Context: between enter and leave, in the same thread, without the BQL.  Ends
 * early when the vCPU is kicked.
 *
 * Returns: 0; -EINTR if kicked; -ENOENT if there is no memory slot; -EOPNOTSUPP
 * if the vCPU has lost the stub's state, so that others have to do it; -EIO if
 * KVM gave up for another reason (see the trace event kvm_prefault_stub); other
 * -errno of KVM_RUN.
 */
int kvm_arch_prefault_vcpu_touch(CPUState *cpu, KVMPrefaultSaved *saved,
                                 const KVMPrefaultTouch *touch,
                                 uint64_t *done);

/**
 * kvm_arch_prefault_vcpu_leave: give @cpu its state back
 * @saved: freed
 */
void kvm_arch_prefault_vcpu_leave(CPUState *cpu, KVMPrefaultSaved *saved);

#endif
