/*
 * KVM pre-fault: what KVM's binary statistics say about faults and mappings
 *
 * The format is described in Linux, Documentation/virt/kvm/api.rst,
 * KVM_GET_STATS_FD.
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/kvm.h>
#include "qemu/units.h"
#include "hw/core/cpu.h"
#include "kvm-prefault.h"

/* Names and offsets are the same for all vCPUs, so they are read once */
typedef struct StatsLayout {
    GHashTable *offsets;
} StatsLayout;

static StatsLayout vm_layout, vcpu_layout;

static bool read_at(int fd, void *buf, size_t size, off_t offset)
{
    return pread(fd, buf, size, offset) == size;
}

static bool layout_read(StatsLayout *layout, int fd)
{
    struct kvm_stats_header header;
    g_autofree char *block = NULL;
    size_t desc_size, i;

    if (!read_at(fd, &header, sizeof(header), 0)) {
        return false;
    }
    desc_size = sizeof(struct kvm_stats_desc) + header.name_size;
    block = g_malloc(desc_size * header.num_desc);
    if (!read_at(fd, block, desc_size * header.num_desc,
                 header.desc_offset)) {
        return false;
    }

    layout->offsets = g_hash_table_new_full(g_str_hash, g_str_equal,
                                            g_free, NULL);
    for (i = 0; i < header.num_desc; i++) {
        struct kvm_stats_desc *desc = (void *)(block + i * desc_size);

        g_hash_table_insert(layout->offsets, g_strdup(desc->name),
                            GSIZE_TO_POINTER(header.data_offset +
                                             desc->offset));
    }
    return true;
}

static uint64_t stat_read(StatsLayout *layout, int fd, const char *name)
{
    gpointer offset;
    uint64_t value;

    if (!layout->offsets && !layout_read(layout, fd)) {
        return 0;
    }
    if (!g_hash_table_lookup_extended(layout->offsets, name, NULL, &offset) ||
        !read_at(fd, &value, sizeof(value), GPOINTER_TO_SIZE(offset))) {
        return 0;
    }
    return value;
}

bool kvm_prefault_counts_of(CPUState *cpu, KVMPrefaultCounts *counts)
{
    int fd = cpu->kvm_vcpu_stats_fd;

    if (!kvm_prefault.has_stats || fd < 0) {
        return false;
    }
    counts->taken += stat_read(&vcpu_layout, fd, "pf_taken");
    counts->emulated += stat_read(&vcpu_layout, fd, "pf_emulate");
    counts->fixed += stat_read(&vcpu_layout, fd, "pf_fixed");
    counts->spurious += stat_read(&vcpu_layout, fd, "pf_spurious");
    counts->fast += stat_read(&vcpu_layout, fd, "pf_fast");
    return true;
}

bool kvm_prefault_counts(KVMPrefaultCounts *counts)
{
    CPUState *cpu;

    memset(counts, 0, sizeof(*counts));
    if (!kvm_prefault.has_stats) {
        return false;
    }
    CPU_FOREACH(cpu) {
        if (!kvm_prefault_counts_of(cpu, counts)) {
            return false;
        }
    }
    return true;
}

bool kvm_prefault_mapped(KvmPrefaultMapped *mapped)
{
    static int fd = -1;

    if (!kvm_prefault.has_stats) {
        return false;
    }
    if (fd < 0) {
        fd = kvm_vm_ioctl(kvm_state, KVM_GET_STATS_FD, NULL);
    }
    if (fd < 0) {
        return false;
    }
    mapped->page_4k = stat_read(&vm_layout, fd, "pages_4k") * 4 * KiB;
    mapped->page_2m = stat_read(&vm_layout, fd, "pages_2m") * 2 * MiB;
    mapped->page_1g = stat_read(&vm_layout, fd, "pages_1g") * GiB;
    return true;
}
