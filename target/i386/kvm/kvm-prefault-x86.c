/*
 * KVM pre-fault: what the host offers, quirks and address spaces of x86
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/kvm.h>
#include "qapi/error.h"
#include "cpu.h"
#include "system/hw_accel.h"
#include "system/kvm_int.h"
#include "accel/kvm/kvm-prefault.h"
#include "accel/kvm/kvm-prefault-abi.h"
#include "kvm-prefault-stub.h"

/*
 * The guest's e820 map has 16 KiB for KVM here (kvm_arch_init()), where KVM
 * itself has slots if the CPU cannot run real mode unrestricted.  In that case
 * the stub goes next to it: no device of a PC is there.
 */
#define KVM_RESERVED_GPA  0xfeffc000
#define KVM_RESERVED_SIZE 0x4000

bool kvm_arch_prefault_has_slot_zap(KVMState *s)
{
    return kvm_vm_check_extension(s, KVM_CAP_DISABLE_QUIRKS2) &
           KVM_X86_QUIRK_SLOT_ZAP_ALL;
}

int kvm_arch_prefault_set_slot_zap(KVMState *s)
{
    return kvm_vm_enable_cap(s, KVM_CAP_DISABLE_QUIRKS2, 0,
                             KVM_X86_QUIRK_SLOT_ZAP_ALL);
}

/*
 * Linux 6.11 dropped guest MTRRs (0a7b73559b39) and got APIC_BUS_CYCLES_NS.
 */
KvmMtrrZapSupport kvm_arch_prefault_mtrr_zap_support(KVMState *s)
{
    if (kvm_check_extension(s, KVM_CAP_MTRR_ZAP) == KVM_MTRR_ZAP_MAGIC) {
        return KVM_MTRR_ZAP_SUPPORT_SELECTABLE;
    }
    return kvm_check_extension(s, KVM_CAP_X86_APIC_BUS_CYCLES_NS) > 0 ?
           KVM_MTRR_ZAP_SUPPORT_OBSOLETE : KVM_MTRR_ZAP_SUPPORT_FIXED;
}

int kvm_arch_prefault_set_mtrr_zap(KVMState *s, KvmMtrrZap zap)
{
    static const uint64_t modes[] = {
        [KVM_MTRR_ZAP_FULL] = KVM_MTRR_ZAP_CAP_FULL,
        [KVM_MTRR_ZAP_RANGE] = KVM_MTRR_ZAP_CAP_RANGE,
        [KVM_MTRR_ZAP_NONE] = KVM_MTRR_ZAP_CAP_NONE,
    };

    return kvm_vm_enable_cap(s, KVM_CAP_MTRR_ZAP, 0, modes[zap]);
}

static bool module_parameter(const char *path)
{
    g_autofree char *value = NULL;

    return g_file_get_contents(path, &value, NULL, NULL) &&
           (value[0] == 'Y' || value[0] == '1');
}

bool kvm_arch_prefault_nx_huge_pages(void)
{
    return module_parameter("/sys/module/kvm/parameters/nx_huge_pages");
}

/* Kernels without KVM_PRE_FAULT_MEMORY have no capability that says so */
static bool tdp_in_use(void)
{
    return module_parameter("/sys/module/kvm_intel/parameters/ept") ||
           module_parameter("/sys/module/kvm_amd/parameters/npt");
}

bool kvm_arch_prefault_vcpu_possible(KVMState *s, Error **errp)
{
    const char *missing = NULL;

    if (!tdp_in_use()) {
        missing = "EPT or NPT in use on the host (kvm_intel.ept=1, "
                  "kvm_amd.npt=1)";
    } else if (!kvm_irqchip_in_kernel()) {
        missing = "KVM's local APIC (kernel-irqchip=on or split)";
    } else if (kvm_check_extension(s, KVM_CAP_SREGS2) <= 0) {
        missing = "KVM_GET_SREGS2 (Linux 5.14)";
    }
    if (missing) {
        error_setg(errp, "'%s=vcpu' needs %s", PROP_PREFAULT_METHOD, missing);
    }
    return !missing;
}

bool kvm_arch_prefault_vcpu_start(Error **errp)
{
    uint64_t gpa = KVM_RESERVED_GPA;

    if (!first_cpu) {
        /* machine "none": nobody to run it, and no RAM */
        return true;
    }
    if (!(cpu_env(first_cpu)->features[FEAT_1_EDX] & CPUID_PAE)) {
        error_setg(errp, "'%s=vcpu' needs a guest CPU with PAE or long mode, "
                   "which '%s' does not have", PROP_PREFAULT_METHOD,
                   object_get_typename(OBJECT(first_cpu)));
        return false;
    }
    if (g_file_test("/sys/module/kvm_intel", G_FILE_TEST_IS_DIR) &&
        !module_parameter("/sys/module/kvm_intel/parameters/"
                          "unrestricted_guest")) {
        gpa -= KVM_RESERVED_SIZE;
    }
    return kvm_prefault_stub_create(gpa, errp);
}

unsigned kvm_arch_prefault_vcpu_threads_max(void)
{
    return KVM_PREFAULT_STUB_WINDOWS;
}

/*
 * KVM leaves a nested guest when SMM is entered or left from userspace
 * (kvm_vcpu_ioctl_x86_set_vcpu_events), which would lose the guest's state.
 */
bool kvm_arch_prefault_in_nested_guest(CPUState *cpu)
{
    g_autofree struct kvm_nested_state *state = NULL;
    CPUX86State *env = cpu_env(cpu);

    if (!kvm_max_nested_state_length() ||
        !((env->features[FEAT_1_ECX] & CPUID_EXT_VMX) ||
          (env->features[FEAT_8000_0001_ECX] & CPUID_EXT3_SVM))) {
        return false;
    }
    state = g_malloc0(kvm_max_nested_state_length());
    state->size = kvm_max_nested_state_length();
    return kvm_vcpu_ioctl(cpu, KVM_GET_NESTED_STATE, state) == 0 &&
           (state->flags & KVM_STATE_NESTED_GUEST_MODE);
}

/*
 * Everything but SMM is put back as it was read.  NMIs and SIPIs are left
 * out: one that arrives between reading and writing must not be lost.
 */
static int set_smm(CPUState *cpu, const struct kvm_vcpu_events *events,
                   bool smm)
{
    struct kvm_vcpu_events set = *events;

    set.smi.smm = smm;
    set.flags = KVM_VCPUEVENT_VALID_SMM |
                (events->flags & KVM_VCPUEVENT_VALID_PAYLOAD);
    return kvm_prefault_set_state(cpu, KVM_SET_VCPU_EVENTS, &set);
}

int kvm_arch_prefault_enter_as(CPUState *cpu, int as_id,
                               KVMPrefaultVCPUMode *mode)
{
    bool smm = as_id == KVM_PREFAULT_AS_SMM;
    int ret;

    mode->changed = false;
    if (kvm_prefault.nr_as < 2) {
        return 0;
    }
    ret = kvm_vcpu_ioctl(cpu, KVM_GET_VCPU_EVENTS, &mode->events);
    if (ret < 0) {
        return ret;
    }
    if (mode->events.smi.smm == smm) {
        return 0;
    }
    if (kvm_arch_prefault_in_nested_guest(cpu)) {
        return -EBUSY;
    }
    ret = set_smm(cpu, &mode->events, smm);
    mode->changed = ret == 0;
    return ret;
}

void kvm_arch_prefault_leave_as(CPUState *cpu,
                                const KVMPrefaultVCPUMode *mode)
{
    if (mode->changed) {
        int ret = set_smm(cpu, &mode->events, mode->events.smi.smm);

        if (ret < 0) {
            kvm_prefault_vcpu_lost(cpu, ret);
        }
    }
}

void kvm_arch_prefault_renew_root(CPUState *cpu)
{
    KVMPrefaultVCPUMode mode;

    /*
     * Entering and leaving SMM resets the MMU context (kvm_smm_changed), so
     * that the next load of the root finds a valid one.
     */
    if (kvm_prefault.nr_as < 2 ||
        kvm_vcpu_ioctl(cpu, KVM_GET_VCPU_EVENTS, &mode.events) < 0 ||
        kvm_arch_prefault_in_nested_guest(cpu)) {
        return;
    }
    mode.changed = set_smm(cpu, &mode.events, !mode.events.smi.smm) == 0;
    kvm_arch_prefault_leave_as(cpu, &mode);
}
