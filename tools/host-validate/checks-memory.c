/*
 * prefault-host-validate: host memory that guests are made of
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <string.h>
#include "host-validate.h"

#define THP "/sys/kernel/mm/transparent_hugepage"
#define HUGEPAGES "/sys/kernel/mm/hugepages"
#define NODES "/sys/devices/system/node"

static void no_huge_pages(HvReport *report, const char *mode)
{
    HvCheck *check = hv_check(report, HV_WARN, "thp.enabled", "%s", mode);

    hv_means(check, "guests that are not in hugetlbfs are mapped by 4 KiB "
             "pages: tables take 2 MiB per GiB of RAM, and population takes "
             "longer");
    hv_remedy(check, "echo madvise >" THP "/enabled", "turn transparent huge "
              "pages on, or put guests into hugetlbfs");
}

/* QEMU asks for huge pages (MADV_HUGEPAGE), so "madvise" will do */
static void check_thp(HvReport *report, const HvHost *host)
{
    g_autofree char *mode = hv_read_choice(host, THP "/enabled");

    if (!mode || !strcmp(mode, "never")) {
        no_huge_pages(report, mode ? mode : "not in this kernel");
    } else {
        hv_check(report, HV_PASS, "thp.enabled", "%s", mode);
    }
}

static void check_shmem(HvReport *report, const HvHost *host)
{
    g_autofree char *mode = hv_read_choice(host, THP "/shmem_enabled");
    HvCheck *check;

    if (!mode) {
        return;
    }
    if (strcmp(mode, "never") && strcmp(mode, "deny")) {
        hv_check(report, HV_PASS, "thp.shmem_enabled", "%s", mode);
        return;
    }
    check = hv_check(report, HV_NOTE, "thp.shmem_enabled", "%s", mode);
    hv_means(check, "memory-backend-memfd and files on tmpfs are mapped by "
             "4 KiB pages, unless they are in hugetlbfs");
    hv_remedy(check, "echo advise >" THP "/shmem_enabled",
              "for guests with shared memory only");
}

static void check_defrag(HvReport *report, const HvHost *host)
{
    g_autofree char *mode = hv_read_choice(host, THP "/defrag");
    HvCheck *check;

    if (!mode) {
        return;
    }
    if (strcmp(mode, "never") && strcmp(mode, "defer")) {
        hv_check(report, HV_PASS, "thp.defrag", "%s", mode);
        return;
    }
    check = hv_check(report, HV_WARN, "thp.defrag", "%s", mode);
    hv_means(check, "population takes 4 KiB pages where no huge page is free "
             "at once");
    hv_remedy(check, "echo madvise >" THP "/defrag",
              "have population make room for huge pages");
}

static void one_pool(HvReport *report, const HvHost *host, const char *node,
                     const char *pool)
{
    g_autofree char *dir = node ?
        g_strdup_printf(NODES "/%s/hugepages/%s", node, pool) :
        g_strdup_printf(HUGEPAGES "/%s", pool);
    g_autofree char *total_path = g_strconcat(dir, "/nr_hugepages", NULL);
    g_autofree char *free_path = g_strconcat(dir, "/free_hugepages", NULL);
    g_autofree char *line = g_strdup_printf("%s%s%s", node ? node : "",
                                            node ? "." : "", pool);
    int64_t total, unused;

    if (hv_read_int(host, total_path, &total) &&
        hv_read_int(host, free_path, &unused)) {
        hv_check(report, HV_NOTE, line, "%" PRId64 " of %"
                 PRId64 " free", unused, total);
    }
}

/* Without NUMA in the kernel there are no nodes, but pools all the same */
static void check_pools(HvReport *report, const HvHost *host,
                        const char *node)
{
    g_autoptr(GPtrArray) pools = hv_list(host, HUGEPAGES, "hugepages-");
    unsigned i;

    for (i = 0; i < pools->len; i++) {
        one_pool(report, host, node, g_ptr_array_index(pools, i));
    }
}

static void check_node(HvReport *report, const HvHost *host,
                       const char *node)
{
    g_autofree char *path = g_strdup_printf(NODES "/%s/meminfo", node);
    g_autofree char *line = g_strconcat(node, ".memory", NULL);
    int64_t total, unused;

    if (hv_read_field(host, path, "MemTotal", &total) &&
        hv_read_field(host, path, "MemFree", &unused)) {
        hv_check(report, HV_NOTE, line, "%" PRId64 " of %"
                 PRId64 " MiB free", unused / 1024, total / 1024);
    }
    check_pools(report, host, node);
}

static void check_available(HvReport *report, const HvHost *host)
{
    int64_t available;
    HvCheck *check;

    if (!hv_read_field(host, "/proc/meminfo", "MemAvailable", &available)) {
        return;
    }
    check = hv_check(report, HV_NOTE, "memory.available", "%" PRId64
                     " MiB", available / 1024);
    hv_means(check, "all RAM of a guest is allocated at start; 'prefault=on' "
             "refuses a guest that is larger than this, or than the free "
             "huge pages of its size");
}

void hv_check_memory(HvReport *report, const HvHost *host)
{
    g_autoptr(GPtrArray) nodes = hv_list(host, NODES, "node");
    unsigned i;

    check_thp(report, host);
    check_shmem(report, host);
    check_defrag(report, host);
    check_available(report, host);
    for (i = 0; i < nodes->len; i++) {
        check_node(report, host, g_ptr_array_index(nodes, i));
    }
    if (!nodes->len) {
        check_pools(report, host, NULL);
    }
}
