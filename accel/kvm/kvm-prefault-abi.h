/*
 * KVM pre-fault: ABI of the project's own KVM patches (patches/kvm)
 *
 * Private numbers, which upstream's headers do not have.
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef ACCEL_KVM_PREFAULT_ABI_H
#define ACCEL_KVM_PREFAULT_ABI_H

/* Flag of a memory slot: a read fault maps the page writable */
#define KVM_MEM_ALWAYS_WRITABLE         (1UL << 15)

/* KVM_CHECK_EXTENSION returns the magic value, else it is something else */
#define KVM_CAP_MEM_ALWAYS_WRITABLE     0x4b570001
#define KVM_MEM_ALWAYS_WRITABLE_MAGIC   0x414c5752

/* Capability of a VM, enabled before it has vCPUs; args[0] is one of these */
#define KVM_CAP_MTRR_ZAP                0x4b570002
#define KVM_MTRR_ZAP_MAGIC              0x4d54525a
#define KVM_MTRR_ZAP_CAP_FULL           0
#define KVM_MTRR_ZAP_CAP_RANGE          1
#define KVM_MTRR_ZAP_CAP_NONE           2

#endif
