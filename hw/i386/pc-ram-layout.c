/*
 * PC RAM layout that firmware does not disturb
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "exec/address-spaces.h"
#include "exec/memory.h"
#include "hw/boards.h"
#include "hw/i386/pc-ram-layout.h"
#include "system/kvm_prefault.h"

/* Below this, PAM and SMRAM registers change what is RAM */
#define FIRMWARE_AREA_SIZE (1 * MiB)

/* Largest TSEG of q35 by default (extended-tseg-mbytes) */
#define TSEG_AREA_SIZE (16 * MiB)

/*
 * Lay a part of guest RAM over "ram-below-4g", at the same address.  It is a
 * flat range, and so a KVM memory slot, of its own: neighbours that come and
 * go neither merge with it nor split it.
 */
static void add_stable_part(MachineState *machine, const char *name,
                            hwaddr start, hwaddr end)
{
    MemoryRegion *part = g_new(MemoryRegion, 1);

    memory_region_init_alias(part, NULL, name, machine->ram, start,
                             end - start);
    memory_region_set_unmergeable(part, true);
    memory_region_add_subregion_overlap(get_system_memory(), start, part, 0);
}

static bool has_tseg(MachineState *machine)
{
    const char *family = MACHINE_GET_CLASS(machine)->family;

    return family && g_str_equal(family, "pc_q35");
}

void pc_ram_layout_stabilize(MachineState *machine, hwaddr below_4g_size)
{
    hwaddr end = below_4g_size;

    if (!kvm_prefault_stable_slots() || end <= FIRMWARE_AREA_SIZE) {
        return;
    }
    if (has_tseg(machine) && end > 2 * TSEG_AREA_SIZE) {
        hwaddr tseg = QEMU_ALIGN_DOWN(end - TSEG_AREA_SIZE, 2 * MiB);

        add_stable_part(machine, "ram-tseg", tseg, end);
        end = tseg;
    }
    add_stable_part(machine, "ram-above-1m", FIRMWARE_AREA_SIZE, end);
}
