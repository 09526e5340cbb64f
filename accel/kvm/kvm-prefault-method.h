/*
 * KVM pre-fault: how second-level tables are filled
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef ACCEL_KVM_PREFAULT_METHOD_H
#define ACCEL_KVM_PREFAULT_METHOD_H

#include "hw/core/cpu.h"
#include "kvm-prefault-arch.h"
#include "kvm-prefault-ranges.h"

/* What has been done to a vCPU to have it fill tables */
typedef struct KVMPrefaultSession {
    bool borrowed;
    KVMPrefaultVCPUMode mode;
    KVMPrefaultSaved *saved;
    KVMPrefaultCounts counts;
} KVMPrefaultSession;

/**
 * kvm_prefault_method_choose: decide how tables are filled
 *
 * Returns: false with @errp set if the host offers no way, or not the one
 * that was asked for.
 */
bool kvm_prefault_method_choose(KVMState *s, Error **errp);

/**
 * kvm_prefault_method_start: make ready what the method needs
 *
 * Context: the machine exists, the guest has not run.
 * Returns: false with @errp set if this guest's CPUs cannot do it.
 */
bool kvm_prefault_method_start(Error **errp);

/**
 * kvm_prefault_method_enter: prepare @cpu for work in @as_id
 * @session: filled in for kvm_prefault_method_leave()
 *
 * Context: the vCPU's own thread, BQL held until the matching leave except
 * around kvm_prefault_method_map().
 *
 * Returns: 0; -EBUSY if the vCPU is in a state that must not be disturbed,
 * other -errno from KVM.
 */
int kvm_prefault_method_enter(CPUState *cpu, int as_id,
                              KVMPrefaultSession *session);

/**
 * kvm_prefault_method_leave: undo kvm_prefault_method_enter()
 */
void kvm_prefault_method_leave(CPUState *cpu, KVMPrefaultSession *session);

/**
 * kvm_prefault_method_map: have KVM map @chunk
 * @done: set to the bytes mapped, from its start, in any case
 *
 * Returns: 0 if all is mapped, -EINTR or -EAGAIN if the rest is to be tried
 * again, other -errno if it cannot be mapped.
 */
int kvm_prefault_method_map(CPUState *cpu, const KVMPrefaultSession *session,
                            const KVMPrefaultChunk *chunk, uint64_t *done);

#endif
