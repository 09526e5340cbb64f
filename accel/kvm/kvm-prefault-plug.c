/*
 * KVM pre-fault: memory is populated before the guest is told of it
 *
 * A DIMM is plugged in two steps: its memory slot appears, then ACPI tells the
 * guest.  In between there is all the time in the world, because nobody waits:
 * device_add has returned, and the guest runs.
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/kvm.h>
#include "qapi/error.h"
#include "hw/hotplug.h"
#include "hw/qdev-core.h"
#include "kvm-prefault.h"
#include "kvm-prefault-discard.h"
#include "trace.h"

/* A device of which the guest has not been told yet */
typedef struct PendingPlug {
    HotplugHandler *handler;
    DeviceState *dev;
    QTAILQ_ENTRY(PendingPlug) next;
} PendingPlug;

static QTAILQ_HEAD(, PendingPlug) pending = QTAILQ_HEAD_INITIALIZER(pending);

static void tell_guest(PendingPlug *plug)
{
    QTAILQ_REMOVE(&pending, plug, next);
    trace_kvm_prefault_tell_guest(plug->dev->id ?: "");
    hotplug_handler_plug(plug->handler, plug->dev, &error_abort);
    object_unref(OBJECT(plug->dev));
    g_free(plug);
}

void kvm_prefault_plug_all(void)
{
    PendingPlug *plug, *tmp;

    QTAILQ_FOREACH_SAFE(plug, &pending, next, tmp) {
        tell_guest(plug);
    }
}

void kvm_prefault_plug_when_ready(HotplugHandler *handler, DeviceState *dev)
{
    KVMPrefault *p = &kvm_prefault;
    PendingPlug *plug;

    if (!dev->hotplugged || !p->tdp_on || !p->config.wait ||
        p->state != KVM_PREFAULT_STATE_POPULATING) {
        hotplug_handler_plug(handler, dev, &error_abort);
        return;
    }
    plug = g_new0(PendingPlug, 1);
    plug->handler = handler;
    plug->dev = dev;
    object_ref(OBJECT(dev));
    QTAILQ_INSERT_TAIL(&pending, plug, next);
}

void kvm_prefault_plug_now(DeviceState *dev)
{
    PendingPlug *plug;

    QTAILQ_FOREACH(plug, &pending, next) {
        if (plug->dev == dev) {
            tell_guest(plug);
            return;
        }
    }
}
