/*
 * KVM pre-fault: host pages that have had a memory error
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef ACCEL_KVM_PREFAULT_POISON_H
#define ACCEL_KVM_PREFAULT_POISON_H

/**
 * kvm_prefault_poison_add: remember a page that the host has given up
 * @host: its address in QEMU
 * @size: its size, that of a huge page of hugetlbfs if it is one
 * @name: of the memory backend
 *
 * Context: any thread.
 */
void kvm_prefault_poison_add(char *host, uint64_t size, const char *name);

/**
 * kvm_prefault_poison_forget: forget those in [@host, @host + @size)
 *
 * The memory goes, or is about to be looked at again.  At reset QEMU puts other
 * pages in place (qemu_ram_remap()).
 *
 * Context: any thread.
 */
void kvm_prefault_poison_forget(char *host, uint64_t size);

/**
 * kvm_prefault_poison_host_piece: as kvm_prefault_poison_piece(), by an address
 * in QEMU
 *
 * Context: any thread.
 */
uint64_t kvm_prefault_poison_host_piece(char *host, uint64_t size,
                                        bool *poisoned);

/**
 * kvm_prefault_poison_piece: memory that is all poisoned, or all sound
 * @as_id: KVM's address space
 * @gpa: where it begins
 * @size: most bytes
 * @poisoned: set to which of the two it is
 *
 * KVM must not be made to map a poisoned page: it would send the vCPU thread a
 * SIGBUS, which QEMU hands on to the guest as a memory error that it has met
 * (kvm_send_hwpoison_signal(), BUS_MCEERR_AR).
 *
 * Context: BQL held.
 * Returns: bytes at @gpa that are so.
 */
uint64_t kvm_prefault_poison_piece(int as_id, uint64_t gpa, uint64_t size,
                                   bool *poisoned);

/**
 * kvm_prefault_poison_reasons: say which pages there are
 *
 * Context: BQL held.
 */
void kvm_prefault_poison_reasons(GPtrArray *reasons);

#endif
