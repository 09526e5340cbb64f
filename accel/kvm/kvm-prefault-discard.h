/*
 * KVM pre-fault: devices that plug, unplug and discard guest RAM
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef ACCEL_KVM_PREFAULT_DISCARD_H
#define ACCEL_KVM_PREFAULT_DISCARD_H

#include "exec/memory.h"

/* kvm-prefault-discard.c */

/**
 * kvm_prefault_discard_add: follow what is plugged and unplugged in a slot
 * @section: RAM with a RamDiscardManager; what is plugged becomes work
 */
void kvm_prefault_discard_add(MemoryRegionSection *section, int as_id,
                              bool large);

/**
 * kvm_prefault_discard_del: the slot has gone
 */
void kvm_prefault_discard_del(MemoryRegionSection *section, int as_id);

/**
 * kvm_prefault_discard_forbid: keep devices from discarding guest RAM
 *
 * Devices that tell what they discard (virtio-mem) are let be, others keep
 * quiet (virtio-balloon) or are refused.
 *
 * Returns: false with @errp set if there is a device already that does not go
 * with the properties.
 */
bool kvm_prefault_discard_forbid(Error **errp);

/**
 * kvm_prefault_discard_allow: undo kvm_prefault_discard_forbid()
 */
void kvm_prefault_discard_allow(void);

/**
 * kvm_prefault_discard_reasons: which devices do not do what they are for
 * @reasons: they are added to it
 */
void kvm_prefault_discard_reasons(GPtrArray *reasons);

/* kvm-prefault-plug.c */

/**
 * kvm_prefault_plug_all: tell the guest of all memory that has been plugged
 *
 * Context: main loop.
 */
void kvm_prefault_plug_all(void);

#endif
