/*
 * KVM pre-fault: what the rest of QEMU calls
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef SYSTEM_KVM_PREFAULT_H
#define SYSTEM_KVM_PREFAULT_H

#include "exec/hwaddr.h"
#include "hw/hotplug.h"
#include "qom/object.h"
#include "system/kvm.h"

/* system/kvm_int.h is not for all targets */
typedef struct KVMMemoryListener KVMMemoryListener;

/**
 * kvm_prefault_machine_options: move accelerator properties out of -machine
 * @opts: the -machine options
 *
 * libvirt writes its own -accel, so each property of ours is also accepted
 * as a -machine option and handed on to the kvm accelerator.
 */
void kvm_prefault_machine_options(QDict *opts);

/**
 * kvm_prefault_check_accel: refuse or warn where our properties have no effect
 *
 * To be called once the accelerator has been chosen.  Exits if
 * 'prefault=on' was asked for and another accelerator is in use; warns
 * about properties on an -accel option that QEMU dropped.
 */
void kvm_prefault_check_accel(void);

/**
 * kvm_prefault_class_init: add the properties to the kvm accelerator
 * @oc: class of the kvm accelerator
 */
void kvm_prefault_class_init(ObjectClass *oc);

/**
 * kvm_prefault_init: probe the host and check what was asked for
 * @s: the accelerator; the VM exists, it has neither slots nor vCPUs
 * @ms: the machine
 *
 * Exits with a message if something was asked for that the host cannot do.
 */
void kvm_prefault_init(KVMState *s, MachineState *ms);

/**
 * kvm_prefault_add_address_space: follow the memory slots of @as
 * @as: an address space that KVM has just been made to follow
 *
 * Our listener must stand behind KVM's own, whose commit changes the slots.
 */
void kvm_prefault_add_address_space(AddressSpace *as);

/**
 * kvm_prefault_keep_slots: have memory slots outlive a change of the flat view
 * @kml: one of KVM's memory listeners, whose transaction is to be committed
 * @flags_of: the flags of a slot with memory of @mr
 *
 * Takes slots that the new view maps as they are out of both lists of the
 * transaction.  What is left there are slots, and sections that have none.
 * Does nothing without prefault.
 *
 * Context: BQL held, which protects the slots against changes.
 */
void kvm_prefault_keep_slots(KVMMemoryListener *kml,
                             int (*flags_of)(MemoryRegion *mr));

/**
 * kvm_prefault_slot_size: where to find the next slot of a section
 * @kml: one of KVM's memory listeners
 * @start: an address in a section, at which a slot begins if it has any
 * @size: bytes from there on that would be one slot without prefault
 *
 * Returns: the size of the slot that begins at @start, or @size.
 * Context: BQL held, or the lock of the slots.
 */
hwaddr kvm_prefault_slot_size(KVMMemoryListener *kml, hwaddr start,
                              hwaddr size);

/**
 * kvm_prefault_slot_changed: KVM has, or has no longer, a memory slot
 * @kml: the memory listener that it belongs to
 * @section: the section that it is in
 * @start: its guest-physical address
 * @size: its size in bytes
 * @add: whether it has come or gone
 *
 * Context: BQL and the lock of the slots held.
 */
void kvm_prefault_slot_changed(KVMMemoryListener *kml,
                               MemoryRegionSection *section, hwaddr start,
                               hwaddr size, bool add);

/**
 * kvm_prefault_slot_flags: additional flags of a memory slot
 * @mr: the memory region behind the slot
 *
 * Returns: KVM_MEM_ALWAYS_WRITABLE or 0.
 */
uint32_t kvm_prefault_slot_flags(MemoryRegion *mr);

/**
 * kvm_prefault_reset: ask for a pass before the guest runs again
 *
 * Context: BQL held, vCPUs stopped, their reset state is (being) put to KVM.
 */
void kvm_prefault_reset(void);

/**
 * kvm_prefault_vcpu_ready: do @cpu's share of a pass
 * @cpu: a vCPU that is about to enter the guest
 *
 * Context: the vCPU's own thread, BQL held; it is dropped around ioctls.
 *
 * Returns: false if the vCPU must not enter the guest now but look after
 * its queued work or a request to stop first.
 */
bool kvm_prefault_vcpu_ready(CPUState *cpu);

/**
 * kvm_prefault_vcpu_left: @cpu has left the guest
 *
 * Context: the vCPU's own thread, BQL held.
 */
void kvm_prefault_vcpu_left(CPUState *cpu);

/**
 * kvm_prefault_ram_align: where to map guest RAM that has a file descriptor
 * @align: the least alignment of its address in QEMU
 *
 * Returns: an alignment that is good for huge pages, if RAM is kept mapped or
 * locked, else @align.
 */
size_t kvm_prefault_ram_align(size_t align);

/**
 * kvm_prefault_before_discard: guest RAM is about to be discarded
 * @rb: the RAM block
 * @start: offset of what is discarded
 * @length: bytes that are discarded
 *
 * Memory that a device has unplugged is unlocked, and nothing that is going on
 * populates it any more.
 *
 * Context: BQL held if @rb has a RamDiscardManager.
 */
void kvm_prefault_before_discard(RAMBlock *rb, uint64_t start,
                                 uint64_t length);

/**
 * kvm_prefault_plug_when_ready: tell the guest of a device with memory
 * @handler: will plug the device, which tells the guest
 * @dev: the device; its memory is guest-visible already
 *
 * At once if that memory is populated, else as soon as it is, or cannot be.
 */
void kvm_prefault_plug_when_ready(HotplugHandler *handler, DeviceState *dev);

/**
 * kvm_prefault_plug_now: have the guest be told of @dev, if it has not been
 *
 * To be called before it is asked to give the device up.
 */
void kvm_prefault_plug_now(DeviceState *dev);

#endif /* SYSTEM_KVM_PREFAULT_H */
