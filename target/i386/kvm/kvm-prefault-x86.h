/*
 * KVM pre-fault: what the files for x86 share
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TARGET_I386_KVM_PREFAULT_X86_H
#define TARGET_I386_KVM_PREFAULT_X86_H

/**
 * kvm_prefault_module_parameter: whether a parameter of the host's KVM is on
 * @path: its file below /sys/module
 *
 * Returns: false as well if there is no such parameter.
 */
bool kvm_prefault_module_parameter(const char *path);

#endif
