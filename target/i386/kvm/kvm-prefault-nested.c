/*
 * KVM pre-fault: what entering or leaving SMM would take from a hypervisor
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "cpu.h"
#include "system/kvm_int.h"
#include "accel/kvm/kvm-prefault.h"
#include "kvm_i386.h"
#include "kvm-prefault-nested.h"

/* In a guest that has VMX or SVM, or is said to */
static bool may_be_hypervisor(CPUState *cpu)
{
    CPUX86State *env = cpu_env(cpu);

    return kvm_max_nested_state_length() &&
           ((env->features[FEAT_1_ECX] & CPUID_EXT_VMX) ||
            (env->features[FEAT_8000_0001_ECX] & CPUID_EXT3_SVM));
}

/* Linux, arch/x86/kvm/vmx/nested.c: INVALID_GPA stands for "no VMXON region" */
static bool is_in_vmx_operation(const struct kvm_nested_state *state)
{
    return state->format == KVM_STATE_NESTED_FORMAT_VMX &&
           state->hdr.vmx.vmxon_pa != -1ULL;
}

/*
 * A nested guest's state cannot be replaced by ours.  In SMM KVM only remembers
 * VMX operation, and KVM_SET_NESTED_STATE does not take that back where no VMCS
 * is loaded (vmx_set_nested_state()).
 */
static bool must_not_be_disturbed(const struct kvm_nested_state *state,
                                  bool smm_changes)
{
    return (state->flags & KVM_STATE_NESTED_GUEST_MODE) ||
           (smm_changes && is_in_vmx_operation(state) &&
            state->hdr.vmx.smm.flags);
}

int kvm_prefault_nested_save(CPUState *cpu, bool smm_changes,
                             struct kvm_nested_state **state)
{
    g_autofree struct kvm_nested_state *now = NULL;
    int ret;

    *state = NULL;
    if (!may_be_hypervisor(cpu)) {
        return 0;
    }
    now = g_malloc0(kvm_max_nested_state_length());
    now->size = kvm_max_nested_state_length();
    ret = kvm_vcpu_ioctl(cpu, KVM_GET_NESTED_STATE, now);
    if (ret < 0) {
        return ret;
    }
    if (must_not_be_disturbed(now, smm_changes)) {
        return -EBUSY;
    }
    if (smm_changes && is_in_vmx_operation(now)) {
        *state = g_steal_pointer(&now);
    }
    return 0;
}

int kvm_prefault_nested_restore(CPUState *cpu, struct kvm_nested_state *state)
{
    int ret = 0;

    if (state) {
        ret = kvm_prefault_set_state(cpu, KVM_SET_NESTED_STATE, state);
        g_free(state);
    }
    return ret;
}
