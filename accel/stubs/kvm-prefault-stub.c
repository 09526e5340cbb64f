/*
 * KVM pre-fault: for targets and builds without it
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-kvm-prefault.h"
#include "hw/hotplug.h"
#include "system/kvm_prefault.h"

void kvm_prefault_class_init(ObjectClass *oc)
{
}

void kvm_prefault_init(KVMState *s, MachineState *ms)
{
}

void kvm_prefault_add_address_space(AddressSpace *as)
{
}

void kvm_prefault_keep_slots(KVMMemoryListener *kml,
                             int (*flags_of)(MemoryRegion *mr))
{
}

hwaddr kvm_prefault_slot_size(KVMMemoryListener *kml, hwaddr start,
                              hwaddr size)
{
    return size;
}

void kvm_prefault_slot_changed(KVMMemoryListener *kml,
                               MemoryRegionSection *section, hwaddr start,
                               hwaddr size, bool add)
{
}

uint32_t kvm_prefault_slot_flags(MemoryRegion *mr)
{
    return 0;
}

void kvm_prefault_reset(void)
{
}

bool kvm_prefault_vcpu_ready(CPUState *cpu)
{
    return true;
}

void kvm_prefault_vcpu_left(CPUState *cpu)
{
}

size_t kvm_prefault_ram_align(size_t align)
{
    return align;
}

void kvm_prefault_before_discard(RAMBlock *rb, uint64_t start,
                                 uint64_t length)
{
}

void kvm_prefault_plug_when_ready(HotplugHandler *handler, DeviceState *dev)
{
    hotplug_handler_plug(handler, dev, &error_abort);
}

void kvm_prefault_plug_now(DeviceState *dev)
{
}

KvmPrefaultInfo *qmp_query_kvm_prefault(Error **errp)
{
    KvmPrefaultInfo *info = g_new0(KvmPrefaultInfo, 1);

    info->mode = ON_OFF_AUTO_OFF;
    info->slot_zap = KVM_SLOT_ZAP_ALL;
    info->mtrr_zap = KVM_MTRR_ZAP_FULL;
    info->repopulations = g_new0(KvmPrefaultCauses, 1);
    info->pauses = g_new0(KvmPrefaultPauses, 1);
    return info;
}

void qmp_kvm_prefault(Error **errp)
{
    error_setg(errp, "guest RAM is not pre-faulted: this build has no KVM");
}
