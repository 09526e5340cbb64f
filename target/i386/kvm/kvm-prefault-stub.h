/*
 * KVM pre-fault: a few instructions that touch guest memory
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TARGET_I386_KVM_PREFAULT_STUB_H
#define TARGET_I386_KVM_PREFAULT_STUB_H

/* How many vCPUs can run the stub at a time */
#define KVM_PREFAULT_STUB_WINDOWS 32

/* One window is as large as the largest piece of work, and aligned like it */
#define KVM_PREFAULT_STUB_WINDOW_SIZE (64ULL << 20)

/* Port that the stub writes to when it is done; no device listens on it */
#define KVM_PREFAULT_STUB_PORT 0xe1

/* KVM's number for what the guest sees in SMM (kvm_arch_vcpu_memslots_id) */
#define KVM_PREFAULT_AS_SMM 1

/**
 * kvm_prefault_stub_create: give the stub a memory slot, in all address spaces
 * @gpa: where, 16 KiB that nothing else uses
 *
 * The slot stays until QEMU ends: before Linux 6.12 KVM forgets all mappings
 * whenever a slot is deleted.
 *
 * Returns: false with @errp set if there is no memory.
 */
bool kvm_prefault_stub_create(uint64_t gpa, Error **errp);

/**
 * kvm_prefault_stub_get: take a window
 *
 * The first one taken writes the stub and what its page tables have in common.
 *
 * Context: BQL held.  Returns: its number, or -EBUSY if all are taken.
 */
int kvm_prefault_stub_get(void);

/**
 * kvm_prefault_stub_put: give a window back
 *
 * With the last one the slot's content becomes zero, which is what a guest
 * reads there without the slot.  Context: BQL held.
 */
void kvm_prefault_stub_put(int window);

/**
 * kvm_prefault_stub_aim: have a window show the block of memory around @gpa
 *
 * The stub flushes the TLB before it looks.
 *
 * Context: the thread that has taken the window.
 * Returns: the linear address of @gpa.
 */
uint32_t kvm_prefault_stub_aim(int window, uint64_t gpa);

/**
 * kvm_prefault_stub_cr3: page directory pointer table of a window, PAE format
 */
uint32_t kvm_prefault_stub_cr3(int window);

/**
 * kvm_prefault_stub_entry: linear address of the first instruction
 * @write: whether pages are touched for writing
 *
 * EDI: first linear address, a multiple of 4; ESI: end; EDX: distance from one
 * touch to the next.  EDI is always the next address to be touched.
 */
uint32_t kvm_prefault_stub_entry(bool write);

/**
 * kvm_prefault_stub_contains: whether an instruction of the stub is at @rip
 */
bool kvm_prefault_stub_contains(uint64_t rip);

#endif
