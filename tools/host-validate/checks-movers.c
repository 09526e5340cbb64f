/*
 * prefault-host-validate: what the host does to memory behind a guest's back
 *
 * Each of these can unmap a page that is locked, which the guest notices as
 * a fault.  What helps against which has been measured, see the section
 * "Limits" of docs/system/i386/kvm-prefault.rst.
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <string.h>
#include "host-validate.h"

#define KHUGEPAGED "/sys/kernel/mm/transparent_hugepage/khugepaged"
/* As good as never: the longest that it can be told to sleep is 49 days */
#define SELDOM_MS (24 * 60 * 60 * 1000LL)

static unsigned count_nodes(const HvHost *host)
{
    g_autoptr(GPtrArray) nodes = hv_list(host, "/sys/devices/system/node",
                                         "node");

    return nodes->len;
}

static void check_khugepaged(HvReport *report, const HvHost *host)
{
    g_autofree char *mode = hv_read_choice(host,
        "/sys/kernel/mm/transparent_hugepage/enabled");
    int64_t sleep_ms;
    HvCheck *check;

    if (!mode ||
        !hv_read_int(host, KHUGEPAGED "/scan_sleep_millisecs", &sleep_ms)) {
        return;
    }
    if (!strcmp(mode, "never") || sleep_ms >= SELDOM_MS) {
        hv_check(report, HV_PASS, "thp.khugepaged", "does not scan");
        return;
    }
    check = hv_check(report, HV_WARN, "thp.khugepaged", "scans every %"
                     PRId64 " ms", sleep_ms);
    hv_means(check, "RAM in 4 KiB pages may be put together into huge pages, "
             "which unmaps it; RAM that got huge pages at once is left "
             "alone");
    hv_remedy(check, "echo 4294967295 >" KHUGEPAGED "/scan_sleep_millisecs",
              "hugetlbfs or 'pin-ram=longterm', or stop it");
}

static bool moves_locked_pages(const HvHost *host)
{
    int64_t allowed = 0;

    hv_read_int(host, "/proc/sys/vm/compact_unevictable_allowed", &allowed);
    return allowed != 0;
}

static void check_compaction(HvReport *report, const HvHost *host)
{
    HvCheck *check;

    if (!hv_exists(host, "/proc/sys/vm/compact_unevictable_allowed")) {
        hv_check(report, HV_PASS, "vm.compact_unevictable_allowed",
                 "this kernel does not compact memory");
        return;
    }
    if (!moves_locked_pages(host)) {
        hv_check(report, HV_PASS, "vm.compact_unevictable_allowed", "0");
        return;
    }
    check = hv_check(report, HV_WARN, "vm.compact_unevictable_allowed", "1");
    hv_means(check, "compaction moves locked pages, and each move is a fault; "
             "pinned and huge ones it leaves alone, but not pinned memfds");
    hv_remedy(check, "sysctl -w vm.compact_unevictable_allowed=0",
              "have compaction leave locked memory out, or use "
              "'pin-ram=longterm' or hugetlbfs");
}

static void check_proactiveness(HvReport *report, const HvHost *host)
{
    int64_t value;
    HvCheck *check;

    if (!hv_read_int(host, "/proc/sys/vm/compaction_proactiveness",
                     &value)) {
        return;
    }
    if (value == 0 || !moves_locked_pages(host)) {
        check = hv_check(report, HV_PASS, "vm.compaction_proactiveness",
                         "%" PRId64, value);
        if (value) {
            hv_means(check, "harmless while it leaves locked memory out");
        }
        return;
    }
    check = hv_check(report, HV_WARN, "vm.compaction_proactiveness",
                     "%" PRId64, value);
    hv_means(check, "the host compacts memory without need, that of guests "
             "included");
    hv_remedy(check, "sysctl -w vm.compaction_proactiveness=0",
              "compact on demand only");
}

static void check_numa_balancing(HvReport *report, const HvHost *host)
{
    unsigned nodes = count_nodes(host);
    int64_t mode = 0;
    HvCheck *check;

    if (!hv_read_int(host, "/proc/sys/kernel/numa_balancing", &mode) ||
        mode == 0 || nodes < 2) {
        hv_check(report, HV_PASS, "kernel.numa_balancing", "%"
                 PRId64 ", %u node%s", mode, nodes,
                 nodes == 1 ? "" : "s");
        return;
    }
    check = hv_check(report, HV_WARN, "kernel.numa_balancing", "%"
                     PRId64 ", %u nodes", mode, nodes);
    hv_means(check, "private memory without a NUMA policy is unmapped all the "
             "time to see who uses it, locked or not");
    hv_remedy(check, "sysctl -w kernel.numa_balancing=0", "bind guests "
              "(memory-backend-*,policy=bind; libvirt <numatune>), use "
              "'pin-ram=longterm' or hugetlbfs, or turn it off");
}

static void check_ksm(HvReport *report, const HvHost *host)
{
    int64_t run = 0;
    HvCheck *check;

    if (!hv_read_int(host, "/sys/kernel/mm/ksm/run", &run) || run != 1) {
        hv_check(report, HV_PASS, "ksm.run", "%" PRId64, run);
        return;
    }
    check = hv_check(report, HV_PASS, "ksm.run", "1");
    hv_means(check, "RAM of guests with 'prefault' or 'pin-ram' is exempt; it "
             "takes CPU time and saves nothing for them");
}

/* The first line is a heading */
static void check_swap(HvReport *report, const HvHost *host)
{
    g_autofree char *text = hv_read(host, "/proc/swaps");
    HvCheck *check;

    if (!text || !strchr(text, '\n')) {
        hv_check(report, HV_PASS, "swap", "none");
        return;
    }
    check = hv_check(report, HV_WARN, "swap", "in use");
    hv_means(check, "guest RAM is locked, but QEMU itself can be swapped out, "
             "and so can guest RAM where 'prefault=auto' could not lock it");
    hv_remedy(check, "swapoff -a", "-overcommit mem-lock=on (libvirt "
              "<memoryBacking><locked/>) locks QEMU as well; or do without "
              "swap");
}

void hv_check_movers(HvReport *report, const HvHost *host)
{
    check_khugepaged(report, host);
    check_compaction(report, host);
    check_proactiveness(report, host);
    check_numa_balancing(report, host);
    check_ksm(report, host);
    check_swap(report, host);
}
