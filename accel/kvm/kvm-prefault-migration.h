/*
 * KVM pre-fault: passes around migration and snapshots
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef ACCEL_KVM_PREFAULT_MIGRATION_H
#define ACCEL_KVM_PREFAULT_MIGRATION_H

#include "qapi/qapi-types-kvm-prefault.h"
#include "hw/core/cpu.h"

/**
 * kvm_prefault_migration_init: follow migrations and the state of the VM
 */
void kvm_prefault_migration_init(void);

/**
 * kvm_prefault_early: whether stopped vCPUs populate
 *
 * Returns: true from the start of the destination of a migration until the
 * guest may run there.
 */
bool kvm_prefault_early(void);

/**
 * kvm_prefault_queue_early: have @cpu, which is stopped, look for work
 */
void kvm_prefault_queue_early(CPUState *cpu);

/**
 * kvm_prefault_expect_arrival: the guest that runs next comes from elsewhere
 */
void kvm_prefault_expect_arrival(void);

/**
 * kvm_prefault_arrival_held: the guest that runs next has to wait for a pass
 */
void kvm_prefault_arrival_held(void);

/**
 * kvm_prefault_arrival_entered: the first vCPU is about to enter the guest
 */
void kvm_prefault_arrival_entered(void);

/**
 * kvm_prefault_query_incoming: what the arrival of the guest has cost
 *
 * Returns: NULL if the guest has been started here.
 */
KvmPrefaultIncoming *kvm_prefault_query_incoming(void);

#endif
