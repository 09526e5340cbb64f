/*
 * KVM pre-fault: memory slots that KVM alone sees
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef ACCEL_KVM_PREFAULT_REFINE_H
#define ACCEL_KVM_PREFAULT_REFINE_H

#include "exec/memory.h"

/**
 * kvm_prefault_refine_slots: have slots outlive the flat view from now on
 *
 * Without it KVM's slots are the ranges of the flat view, as upstream.
 * Context: before KVM has any slot.
 */
void kvm_prefault_refine_slots(void);

/* @section: one slot, in the address space @as_id; it has no flat view */
typedef void KVMPrefaultSlotChanged(MemoryRegionSection *section, int as_id,
                                    bool add);

/**
 * kvm_prefault_tell_slots: tell which slots have come and gone
 * @changed: called for each since the last time, in KVM's order
 *
 * Context: BQL held, KVM has changed its slots.
 */
void kvm_prefault_tell_slots(KVMPrefaultSlotChanged *changed);

#endif
