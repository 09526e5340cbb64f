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
#include "kvm-prefault-nested.h"
#include "kvm-prefault-stub.h"
#include "kvm-prefault-x86.h"

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

bool kvm_prefault_module_parameter(const char *path)
{
    g_autofree char *value = NULL;

    return g_file_get_contents(path, &value, NULL, NULL) &&
           (value[0] == 'Y' || value[0] == '1');
}

bool kvm_arch_prefault_nx_huge_pages(void)
{
    return kvm_prefault_module_parameter("/sys/module/kvm/parameters/nx_huge_pages");
}

/* Kernels without KVM_PRE_FAULT_MEMORY have no capability that says so */
static bool tdp_in_use(void)
{
    return kvm_prefault_module_parameter("/sys/module/kvm_intel/parameters/ept") ||
           kvm_prefault_module_parameter("/sys/module/kvm_amd/parameters/npt");
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
        !kvm_prefault_module_parameter("/sys/module/kvm_intel/parameters/"
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

/* Enter SMM, or leave it, until kvm_arch_prefault_leave_as() */
static int begin_smm_visit(CPUState *cpu, KVMPrefaultVCPUMode *mode)
{
    int ret = kvm_prefault_nested_save(cpu, true, &mode->nested);

    if (ret < 0) {
        return ret;
    }
    ret = set_smm(cpu, &mode->events, !mode->events.smi.smm);
    mode->changed = ret == 0;
    if (ret < 0) {
        g_free(g_steal_pointer(&mode->nested));
    }
    return ret;
}

int kvm_arch_prefault_enter_as(CPUState *cpu, int as_id,
                               KVMPrefaultVCPUMode *mode)
{
    int ret;

    mode->changed = false;
    mode->nested = NULL;
    if (kvm_prefault.nr_as < 2) {
        return 0;
    }
    ret = kvm_vcpu_ioctl(cpu, KVM_GET_VCPU_EVENTS, &mode->events);
    if (ret < 0) {
        return ret;
    }
    return mode->events.smi.smm == (as_id == KVM_PREFAULT_AS_SMM) ?
           0 : begin_smm_visit(cpu, mode);
}

/*
 * An INIT or SMI may have arrived during the visit: both are in the same
 * structure as SMM, so what is written back must not be older than they are.
 * KVM takes an INIT that is not mentioned away (it clears KVM_APIC_INIT), and
 * with it goes a CPU that the guest is about to start.
 */
static int end_smm_visit(CPUState *cpu, const KVMPrefaultVCPUMode *mode)
{
    struct kvm_vcpu_events events;
    bool smm = mode->events.smi.smm;

    if (kvm_vcpu_ioctl(cpu, KVM_GET_VCPU_EVENTS, &events) < 0) {
        events = mode->events;
    }
    /* KVM has forgotten that if the vCPU was taken out of SMM */
    events.smi.smm_inside_nmi = mode->events.smi.smm_inside_nmi;
    return set_smm(cpu, &events, smm);
}

void kvm_arch_prefault_leave_as(CPUState *cpu, KVMPrefaultVCPUMode *mode)
{
    int ret, nested;

    if (!mode->changed) {
        return;
    }
    ret = end_smm_visit(cpu, mode);
    /* KVM checks it against SMM, so it comes last */
    nested = kvm_prefault_nested_restore(cpu, g_steal_pointer(&mode->nested));
    if (ret < 0 || nested < 0) {
        kvm_prefault_vcpu_lost(cpu, ret ?: nested);
    }
}

/* A guest that does not use KVM's clock gets -EINVAL, which is no loss */
void kvm_arch_prefault_was_held(CPUState *cpu)
{
    kvm_vcpu_ioctl(cpu, KVM_KVMCLOCK_CTRL, 0);
}

/*
 * Entering and leaving SMM resets the MMU context (kvm_smm_changed), so that
 * the next load of the root finds a valid one.
 */
void kvm_arch_prefault_renew_root(CPUState *cpu)
{
    KVMPrefaultVCPUMode mode = { 0 };

    if (kvm_prefault.nr_as > 1 &&
        kvm_vcpu_ioctl(cpu, KVM_GET_VCPU_EVENTS, &mode.events) >= 0 &&
        begin_smm_visit(cpu, &mode) == 0) {
        kvm_arch_prefault_leave_as(cpu, &mode);
    }
}
