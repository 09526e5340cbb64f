/*
 * prefault-host-validate: KVM, its capabilities and its parameters
 *
 * Capabilities are asked for, kernel versions are never compared; where a
 * text names one, it is the first that has what is missing.
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <string.h>
#include "host-validate.h"

#define PARAMETERS "/sys/module/%s/parameters/%s"
#define OUR_MODULES "use a newer kernel, or on Debian's 6.1 and 6.12 the " \
                    "project's KVM modules (make kvm-modules)"

/* The value of a parameter of a module, NULL if there is none */
static char *parameter(const HvHost *host, const char *module,
                       const char *name)
{
    g_autofree char *path = g_strdup_printf(PARAMETERS, module, name);

    return hv_read(host, path);
}

static bool is_on(const char *value)
{
    return value && (value[0] == 'Y' || value[0] == '1');
}

static void no_device(HvReport *report, int error)
{
    HvCheck *check = hv_check(report, HV_FAIL, "kvm.device",
                              "/dev/kvm: %s", g_strerror(error));

    hv_means(check, "without KVM there is nothing to pre-fault");
    if (error == EACCES || error == EPERM) {
        hv_remedy(check, NULL, "put the user who runs QEMU into the group of "
                  "/dev/kvm (usermod -aG kvm USER), and log in again");
    } else {
        hv_remedy(check, NULL, "turn virtualization on in the firmware, then "
                  "load kvm_intel or kvm_amd (modprobe)");
    }
}

/* Returns: whether KVM has answered */
static bool check_device(HvReport *report, const HvHost *host)
{
    int64_t error;

    if (!hv_probe(host, "kvm-open", &error)) {
        hv_means(hv_check(report, HV_NOTE, "kvm.device", "not asked"),
                 "this record has no answers of KVM");
        return false;
    }
    if (error) {
        no_device(report, error);
        return false;
    }
    if (hv_probe(host, "kvm-create-vm", &error) && error) {
        hv_means(hv_check(report, HV_FAIL, "kvm.device",
                          "a VM cannot be made: %s", g_strerror(error)),
                 "no guest can run");
        return false;
    }
    hv_check(report, HV_PASS, "kvm.device", "/dev/kvm can be used");
    return true;
}

static void no_tdp(HvReport *report, const char *name, const char *module,
                   const char *parameter_name)
{
    HvCheck *check = hv_check(report, HV_FAIL, name, "off");

    hv_means(check, "KVM shadows the guest's page tables, so the guest "
             "faults whenever it changes them; 'prefault=on' refuses to "
             "start");
    hv_remedy(check, NULL, "load %s with %s=1; if it says 0 again, the CPU "
              "or an outer hypervisor lacks it", module, parameter_name);
}

static bool check_one_tdp(HvReport *report, const HvHost *host,
                          const char *module, const char *name)
{
    g_autofree char *value = parameter(host, module, name);
    g_autofree char *line = g_strdup_printf("%s.%s", module, name);

    if (!value) {
        return false;
    }
    if (is_on(value)) {
        hv_check(report, HV_PASS, line, "on");
    } else {
        no_tdp(report, line, module, name);
    }
    return true;
}

static void check_tdp(HvReport *report, const HvHost *host)
{
    bool intel = check_one_tdp(report, host, "kvm_intel", "ept");
    bool amd = check_one_tdp(report, host, "kvm_amd", "npt");
    HvCheck *check;

    if (!intel && !amd) {
        check = hv_check(report, HV_FAIL, "kvm.tdp",
                         "neither kvm_intel nor kvm_amd is loaded");
        hv_means(check, "second-level page tables (EPT, NPT) are what is "
                 "pre-faulted; 'prefault=on' refuses to start");
        hv_remedy(check, NULL, "load the module for this CPU (modprobe); a "
                  "guest needs nested virtualization for it");
    }
}

static void check_method(HvReport *report, const HvHost *host,
                         const HvOffer *offer)
{
    g_autofree char *ept = parameter(host, "kvm_intel", "ept");
    g_autofree char *npt = parameter(host, "kvm_amd", "npt");
    bool borrow = offer->sregs2 && (is_on(ept) || is_on(npt));
    HvCheck *check;

    if (offer->pre_fault_memory) {
        hv_check(report, HV_PASS, "kvm.pre-fault-memory", "offered");
        return;
    }
    check = hv_check(report, borrow ? HV_WARN : HV_FAIL,
                     "kvm.pre-fault-memory", "not offered");
    hv_means(check, "%s", borrow ? "tables are filled by borrowing vCPUs "
             "('prefault-method=vcpu'), for which all vCPUs have to stop" :
             "and vCPUs cannot be borrowed either (KVM_CAP_SREGS2, EPT or "
             "NPT): 'prefault=on' refuses to start");
    hv_remedy(check, NULL, "use Linux 6.11 or later, or on Debian's 6.1 the "
              "project's KVM modules (make kvm-modules KERNEL=6.1)");
}

static void check_slot_zap(HvReport *report, const HvOffer *offer)
{
    HvCheck *check;

    if (offer->slot_zap) {
        hv_check(report, HV_PASS, "kvm.slot-zap", "can be limited to a slot");
        return;
    }
    check = hv_check(report, HV_WARN, "kvm.slot-zap", "always everything");
    hv_means(check, "each memory slot that firmware deletes unmaps the whole "
             "guest: no faults from the end of firmware on only, and the "
             "guest is held while it is populated again");
    hv_remedy(check, NULL, "use Linux 6.12 or later, or on Debian's 6.1 the "
              "project's KVM modules (make kvm-modules KERNEL=6.1)");
}

static void check_statistics(HvReport *report, const HvOffer *offer)
{
    HvCheck *check;

    if (offer->statistics) {
        hv_check(report, HV_PASS, "kvm.statistics", "readable");
        return;
    }
    check = hv_check(report, HV_WARN, "kvm.statistics", "not offered");
    hv_means(check, "faults cannot be counted, so that the query has no "
             "proof ('faults-since-ready')");
    hv_remedy(check, NULL, "use Linux 5.14 or later");
}

static void check_mtrr_zap(HvReport *report, const HvOffer *offer)
{
    HvCheck *check;

    if (offer->mtrr_zap == HV_MTRR_ZAP_OBSOLETE) {
        hv_check(report, HV_PASS, "kvm.mtrr-zap", "guest MTRRs unmap nothing");
    } else if (offer->mtrr_zap == HV_MTRR_ZAP_SELECTABLE) {
        hv_check(report, HV_PASS, "kvm.mtrr-zap", "can be chosen");
    } else {
        check = hv_check(report, HV_WARN, "kvm.mtrr-zap", "cannot be changed");
        hv_means(check, "on Intel CPUs a guest that has an assigned device "
                 "with non-coherent DMA loses its mappings each time that "
                 "firmware programs MTRRs; other guests do not");
        hv_remedy(check, NULL, OUR_MODULES);
    }
}

static void check_modules(HvReport *report, const HvOffer *offer)
{
    HvCheck *check;

    if (offer->always_writable) {
        hv_check(report, HV_PASS, "kvm.modules", "the project's");
        return;
    }
    check = hv_check(report, HV_NOTE, "kvm.modules", "the kernel's own");
    hv_means(check, "population takes two passes instead of one "
             "('always-writable'), and the end of dirty logging (a cancelled "
             "migration) drops mappings, which are populated again");
    hv_remedy(check, NULL, "none is needed; on Debian's 6.1 and 6.12 there "
              "is make kvm-modules");
}

void hv_check_kvm(HvReport *report, const HvHost *host, const HvOffer *offer)
{
    bool answered = check_device(report, host);

    check_tdp(report, host);
    if (answered) {
        check_method(report, host, offer);
        check_slot_zap(report, offer);
        check_statistics(report, offer);
        check_mtrr_zap(report, offer);
        check_modules(report, offer);
    }
}

/* Parameters that are as good as anything can be when they are on */
static const struct {
    const char *module;
    const char *name;
    const char *command;
    const char *meaning;
} wanted[] = {
    { "kvm", "tdp_mmu", NULL, "all faults and all of population take one lock "
      "in turn" },
    { "kvm", "eager_page_split",
      "echo 1 >/sys/module/kvm/parameters/eager_page_split", "while a guest "
      "is migrated, its first write to each huge page splits that page in a "
      "fault" },
    { "kvm_intel", "eptad", NULL, "KVM watches accesses by unmapping pages, "
      "so that whatever asks for their age causes faults" },
};

static void check_wanted(HvReport *report, const HvHost *host, unsigned i)
{
    g_autofree char *value = parameter(host, wanted[i].module,
                                       wanted[i].name);
    g_autofree char *line = g_strdup_printf("%s.%s", wanted[i].module,
                                            wanted[i].name);
    HvCheck *check;

    /* another CPU's module, or a kernel that has no such thing */
    if (!value) {
        return;
    }
    if (is_on(value)) {
        hv_check(report, HV_PASS, line, "on");
        return;
    }
    check = hv_check(report, HV_WARN, line, "%s", value);
    hv_means(check, "%s", wanted[i].meaning);
    hv_remedy(check, wanted[i].command, "boot the host with %s=1", line);
}

static void check_nx_huge_pages(HvReport *report, const HvHost *host)
{
    g_autofree char *value = parameter(host, "kvm", "nx_huge_pages");
    HvCheck *check;

    if (!value) {
        return;
    }
    if (value[0] != 'Y') {
        hv_check(report, HV_PASS, "kvm.nx_huge_pages", "%s", value);
        return;
    }
    check = hv_check(report, HV_WARN, "kvm.nx_huge_pages", "Y");
    hv_means(check, "the guest's first instruction fetch from each huge page "
             "faults, against the CPU erratum iTLB multihit");
    hv_remedy(check, "echo off >/sys/module/kvm/parameters/nx_huge_pages",
              "if guests are trusted, boot the host with "
              "kvm.nx_huge_pages=off");
}

void hv_check_parameters(HvReport *report, const HvHost *host)
{
    unsigned i;

    for (i = 0; i < G_N_ELEMENTS(wanted); i++) {
        check_wanted(report, host, i);
    }
    check_nx_huge_pages(report, host);
}
