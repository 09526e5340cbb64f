/*
 * KVM pre-fault: KVM's statistics
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef ACCEL_KVM_PREFAULT_STATS_H
#define ACCEL_KVM_PREFAULT_STATS_H

#include "qapi/qapi-types-kvm-prefault.h"
#include "hw/core/cpu.h"

/* Sums of KVM's counters over all vCPUs */
typedef struct KVMPrefaultCounts {
    uint64_t taken;
    uint64_t emulated;
    uint64_t fixed;
    uint64_t spurious;
    uint64_t fast;
    uint64_t nested;            /* times that a nested guest was entered */
} KVMPrefaultCounts;

/* KVM's counters of the whole VM */
typedef struct KVMPrefaultVMCounts {
    uint64_t mapped;            /* bytes mapped now, in all address spaces */
    bool has_mtrr;              /* the next one exists */
    uint64_t mtrr_zapped;       /* mappings dropped because of guest MTRRs */
} KVMPrefaultVMCounts;

/**
 * kvm_prefault_counts: read KVM's fault counters, the sum over all vCPUs
 *
 * A vCPU that has been unplugged counts as it did when it was last read, so
 * that sums never fall.
 *
 * Returns: false if there are none.
 */
bool kvm_prefault_counts(KVMPrefaultCounts *counts);

/**
 * kvm_prefault_counts_of: add one vCPU's counters to @counts
 *
 * Returns: false if there are none.
 */
bool kvm_prefault_counts_of(CPUState *cpu, KVMPrefaultCounts *counts);

/**
 * kvm_prefault_counts_read: the same, from a file of KVM_GET_STATS_FD
 */
bool kvm_prefault_counts_read(int fd, KVMPrefaultCounts *counts);

/**
 * kvm_prefault_mapped: read how much memory is mapped, by page size
 *
 * Returns: false if KVM has no statistics.
 */
bool kvm_prefault_mapped(KvmPrefaultMapped *mapped);

/**
 * kvm_prefault_vm_counts: read KVM's counters of the VM
 *
 * Returns: false if KVM has no statistics.
 */
bool kvm_prefault_vm_counts(KVMPrefaultVMCounts *counts);

#endif
