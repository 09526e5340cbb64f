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

/*
 * Names and offsets are the same for all vCPUs, so they are read once.  All
 * values of one file are read at a time.
 */
typedef struct Stats {
    GHashTable *offsets;
    off_t data_offset;
    size_t size;
    char *data;
} Stats;

static Stats vm_stats, vcpu_stats;

static bool read_at(int fd, void *buf, size_t size, off_t offset)
{
    return pread(fd, buf, size, offset) == size;
}

static bool read_layout(Stats *stats, int fd)
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

    stats->offsets = g_hash_table_new_full(g_str_hash, g_str_equal,
                                           g_free, NULL);
    stats->data_offset = header.data_offset;
    for (i = 0; i < header.num_desc; i++) {
        struct kvm_stats_desc *desc = (void *)(block + i * desc_size);

        g_hash_table_insert(stats->offsets, g_strdup(desc->name),
                            GSIZE_TO_POINTER(desc->offset));
        stats->size = MAX(stats->size, desc->offset + sizeof(uint64_t) *
                                                      desc->size);
    }
    stats->data = g_malloc0(stats->size);
    return true;
}

static bool load(Stats *stats, int fd)
{
    return (stats->data || read_layout(stats, fd)) &&
           read_at(fd, stats->data, stats->size, stats->data_offset);
}

/* A value that load() has read.  Returns: false if there is none. */
static bool find(const Stats *stats, const char *name, uint64_t *value)
{
    gpointer offset;

    *value = 0;
    if (!g_hash_table_lookup_extended(stats->offsets, name, NULL, &offset)) {
        return false;
    }
    memcpy(value, stats->data + GPOINTER_TO_SIZE(offset), sizeof(*value));
    return true;
}

static uint64_t get(const Stats *stats, const char *name)
{
    uint64_t value;

    find(stats, name, &value);
    return value;
}

bool kvm_prefault_counts_read(int fd, KVMPrefaultCounts *counts)
{
    if (fd < 0 || !load(&vcpu_stats, fd)) {
        return false;
    }
    counts->taken += get(&vcpu_stats, "pf_taken");
    counts->emulated += get(&vcpu_stats, "pf_emulate");
    counts->fixed += get(&vcpu_stats, "pf_fixed");
    counts->spurious += get(&vcpu_stats, "pf_spurious");
    counts->fast += get(&vcpu_stats, "pf_fast");
    counts->nested += get(&vcpu_stats, "nested_run");
    return true;
}

bool kvm_prefault_counts_of(CPUState *cpu, KVMPrefaultCounts *counts)
{
    return kvm_prefault.has_stats &&
           kvm_prefault_counts_read(cpu->kvm_vcpu_stats_fd, counts);
}

static void add_counts(KVMPrefaultCounts *sum, const KVMPrefaultCounts *counts)
{
    sum->taken += counts->taken;
    sum->emulated += counts->emulated;
    sum->fixed += counts->fixed;
    sum->spurious += counts->spurious;
    sum->fast += counts->fast;
    sum->nested += counts->nested;
}

bool kvm_prefault_counts(KVMPrefaultCounts *counts)
{
    CPUState *cpu;
    unsigned i;

    memset(counts, 0, sizeof(*counts));
    CPU_FOREACH(cpu) {
        KVMPrefaultCounts now = { 0 };

        if (!kvm_prefault_counts_of(cpu, &now)) {
            return false;
        }
        kvm_prefault_vcpu(cpu)->counts = now;
    }
    for (i = 0; i < kvm_prefault.nr_vcpus; i++) {
        add_counts(counts, &kvm_prefault.vcpus[i].counts);
    }
    return kvm_prefault.has_stats;
}

static bool load_vm(void)
{
    static int fd = -1;

    if (!kvm_prefault.has_stats) {
        return false;
    }
    if (fd < 0) {
        fd = kvm_vm_ioctl(kvm_state, KVM_GET_STATS_FD, NULL);
    }
    return fd >= 0 && load(&vm_stats, fd);
}

bool kvm_prefault_mapped(KvmPrefaultMapped *mapped)
{
    if (!load_vm()) {
        return false;
    }
    mapped->page_4k = get(&vm_stats, "pages_4k") * 4 * KiB;
    mapped->page_2m = get(&vm_stats, "pages_2m") * 2 * MiB;
    mapped->page_1g = get(&vm_stats, "pages_1g") * GiB;
    return true;
}

bool kvm_prefault_vm_counts(KVMPrefaultVMCounts *counts)
{
    KvmPrefaultMapped mapped;

    if (!kvm_prefault_mapped(&mapped)) {
        return false;
    }
    counts->mapped = mapped.page_4k + mapped.page_2m + mapped.page_1g;
    counts->has_mtrr = find(&vm_stats, "mtrr_zap_walk_sptes",
                            &counts->mtrr_zapped);
    return true;
}
