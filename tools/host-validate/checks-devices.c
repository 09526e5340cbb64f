/*
 * prefault-host-validate: DMA of assigned devices, and memory types
 *
 * Where the IOMMU cannot make a device's DMA coherent (Intel: extended
 * capability "snoop control"), KVM honours the guest's memory types, and
 * before Linux 6.11 its MTRRs.
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <string.h>
#include "host-validate.h"

#define IOMMUS "/sys/class/iommu"
#define VFIO "/sys/bus/pci/drivers/vfio-pci"
/* Intel VT-d specification, Extended Capability Register: SC */
#define ECAP_SNOOP_CONTROL (1ULL << 7)

/* Devices behind an IOMMU that are bound to vfio-pci; "" if none */
static char *assigned(const HvHost *host, const char *iommu)
{
    g_autoptr(GPtrArray) devices = hv_list(host, VFIO, "");
    GString *names = g_string_new(NULL);
    unsigned i;

    for (i = 0; i < devices->len; i++) {
        const char *name = g_ptr_array_index(devices, i);
        g_autofree char *path = g_strdup_printf(IOMMUS "/%s/devices/%s",
                                                iommu, name);

        if (strchr(name, ':') && hv_exists(host, path)) {
            g_string_append_printf(names, "%s%s", names->len ? ", " : "",
                                   name);
        }
    }
    return g_string_free(names, FALSE);
}

static void no_snoop_control(HvReport *report, const char *line,
                             const char *devices, const HvOffer *offer)
{
    bool zaps = offer->known && offer->mtrr_zap == HV_MTRR_ZAP_FIXED;
    HvCheck *check;

    check = hv_check(report, zaps ? HV_WARN : HV_NOTE, line,
                     "no snoop control%s%s", *devices ? ", assigned: " : "",
                     devices);
    hv_means(check, "DMA of devices behind it is not coherent, so KVM honours "
             "memory types of guests that get one%s", zaps ?
             "; this KVM unmaps memory when they program MTRRs" : "");
    if (zaps) {
        hv_remedy(check, NULL, "see kvm.mtrr-zap");
    }
}

/* Intel's driver shows the register; AMD's page table entries force snoops */
static void check_iommu(HvReport *report, const HvHost *host,
                        const char *iommu, const HvOffer *offer)
{
    g_autofree char *path = g_strdup_printf(IOMMUS "/%s/intel-iommu/ecap",
                                            iommu);
    g_autofree char *amd = g_strdup_printf(IOMMUS "/%s/amd-iommu", iommu);
    g_autofree char *line = g_strdup_printf("iommu.%s", iommu);
    g_autofree char *ecap = hv_read(host, path);
    g_autofree char *devices = assigned(host, iommu);

    if (ecap && !(g_ascii_strtoull(ecap, NULL, 16) & ECAP_SNOOP_CONTROL)) {
        no_snoop_control(report, line, devices, offer);
    } else if (ecap || hv_exists(host, amd)) {
        hv_check(report, HV_PASS, line, "DMA is coherent%s%s",
                 *devices ? ", assigned: " : "", devices);
    } else {
        hv_means(hv_check(report, HV_NOTE, line, "cannot be told"),
                 "sysfs says nothing about snoop control of this kind of "
                 "IOMMU");
    }
}

static void check_iommus(HvReport *report, const HvHost *host,
                         const HvOffer *offer)
{
    g_autoptr(GPtrArray) iommus = hv_list(host, IOMMUS, "");
    HvCheck *check;
    unsigned i;

    for (i = 0; i < iommus->len; i++) {
        check_iommu(report, host, g_ptr_array_index(iommus, i), offer);
    }
    if (!iommus->len) {
        check = hv_check(report, HV_NOTE, "iommu", "none");
        hv_means(check, "no device can be assigned to guests safely; whether "
                 "DMA would be coherent cannot be told");
    }
}

/* A flag of the first CPU, as a word of its line */
static bool has_flag(const char *cpuinfo, const char *name)
{
    const char *flags = strstr(cpuinfo, "\nflags");
    g_autofree char *line = NULL;
    g_auto(GStrv) words = NULL;

    if (!flags) {
        return false;
    }
    line = g_strndup(flags + 1, strcspn(flags + 1, "\n"));
    words = g_strsplit_set(line, " \t", -1);
    return g_strv_contains((const char *const *)words, name);
}

static void check_self_snoop(HvReport *report, const HvHost *host,
                             const HvOffer *offer)
{
    g_autofree char *cpuinfo = hv_read_first(host, "/proc/cpuinfo");
    bool choice = offer->known && offer->mtrr_zap == HV_MTRR_ZAP_SELECTABLE;
    HvCheck *check;

    if (!cpuinfo || !strstr(cpuinfo, "GenuineIntel")) {
        return;
    }
    if (has_flag(cpuinfo, "ss")) {
        hv_check(report, HV_PASS, "cpu.self-snoop", "yes");
        return;
    }
    check = hv_check(report, choice ? HV_WARN : HV_NOTE, "cpu.self-snoop",
                     "no");
    hv_means(check, "'mtrr-zap=none' is refused%s", choice ? "" :
             " where it can be chosen");
    if (choice) {
        hv_remedy(check, NULL, "'mtrr-zap=range' works on all CPUs, and "
                  "'auto' takes it");
    }
}

void hv_check_devices(HvReport *report, const HvHost *host,
                      const HvOffer *offer)
{
    check_iommus(report, host, offer);
    check_self_snoop(report, host, offer);
}
