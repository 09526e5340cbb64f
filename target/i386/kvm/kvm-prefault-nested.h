/*
 * KVM pre-fault: what entering or leaving SMM would take from a hypervisor
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TARGET_I386_KVM_PREFAULT_NESTED_H
#define TARGET_I386_KVM_PREFAULT_NESTED_H

#include <linux/kvm.h>
#include "hw/core/cpu.h"

/**
 * kvm_prefault_nested_save: read what a change of SMM from userspace ends
 * @smm_changes: whether there is going to be one; else it is only found out
 *     whether the vCPU may be borrowed
 * @state: set to what kvm_prefault_nested_restore() needs, NULL if there is
 *     nothing
 *
 * KVM leaves VMX operation when KVM_SET_VCPU_EVENTS changes SMM, also outside
 * of a nested guest (kvm_vcpu_ioctl_x86_set_vcpu_events(), vmx_leave_nested(),
 * free_nested()).  SVM has nothing to lose there (svm_leave_nested()).
 *
 * Context: the vCPU's own thread, BQL held.
 *
 * Returns: 0; -EBUSY if it could not be given back: the vCPU runs a nested guest,
 * or is in SMM and was in VMX operation before; other -errno of KVM.
 */
int kvm_prefault_nested_save(CPUState *cpu, bool smm_changes,
                             struct kvm_nested_state **state);

/**
 * kvm_prefault_nested_restore: give it back
 * @state: of kvm_prefault_nested_save(); freed, may be NULL
 *
 * Context: the vCPU's own thread, BQL held; SMM and control registers are as
 * they were.
 *
 * Returns: 0 or -errno of KVM.
 */
int kvm_prefault_nested_restore(CPUState *cpu,
                                struct kvm_nested_state *state);

#endif
