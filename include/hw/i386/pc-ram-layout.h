/*
 * PC RAM layout that firmware does not disturb
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_I386_PC_RAM_LAYOUT_H
#define HW_I386_PC_RAM_LAYOUT_H

#include "hw/boards.h"

/**
 * pc_ram_layout_stabilize: keep RAM in memory slots that stay
 * @machine: a PC whose RAM below 4 GiB has just been mapped
 * @below_4g_size: bytes of RAM below 4 GiB
 *
 * Firmware switches the first MiB (PAM, SMRAM) and, on q35, the top of low
 * RAM (TSEG) between RAM and other things.  Each time the memory core
 * rebuilds the flat range around, and KVM deletes its slot with all
 * mappings.  Here RAM at and above 1 MiB gets ranges of its own.  Addresses
 * and offsets stay as they are: neither the guest nor migration notices.
 *
 * Without prefault this does nothing.
 */
void pc_ram_layout_stabilize(MachineState *machine, hwaddr below_4g_size);

#endif
