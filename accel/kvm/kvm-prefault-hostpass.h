/*
 * KVM pre-fault: one pass over host pages of guest RAM
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef ACCEL_KVM_PREFAULT_HOSTPASS_H
#define ACCEL_KVM_PREFAULT_HOSTPASS_H

#include "qemu/thread.h"
#include "kvm-prefault-blocks.h"

/* Bytes that are done, of this pass and of those before; atomic */
typedef struct KVMPrefaultHostProgress {
    uint64_t populated;
    uint64_t pinned;
} KVMPrefaultHostProgress;

typedef struct KVMPrefaultHostPass {
    /* KVMPrefaultBlock; a reference to each backend keeps them mapped */
    GArray *blocks;
    /* what is to be done, in this order: see kvm_prefault_host_start() */
    bool collapse;
    bool populate;
    bool lock;
    bool pin;
    /* set by another thread to have it end with its next step; atomic */
    const bool *cancelled;
    KVMPrefaultHostProgress *progress;
    /* the first failure, and the names of all backends that have had one */
    Error *err;
    GPtrArray *failed;

    /*
     * What is not to be touched any more (KVMPrefaultHole), and what is being
     * worked on.  The lock is not held while it is.
     */
    QemuMutex lock_holes;
    QemuCond step_done;
    GArray *holes;
    KVMPrefaultHole step;
} KVMPrefaultHostPass;

/**
 * kvm_prefault_host_pass_new: a pass that has nothing to do yet
 * @blocks: array of KVMPrefaultBlock, which the pass keeps
 *
 * Context: BQL held.
 */
KVMPrefaultHostPass *kvm_prefault_host_pass_new(GArray *blocks);

/**
 * kvm_prefault_host_pass_free: let go of blocks and their backends
 *
 * Context: BQL held, nobody works on the pass.
 */
void kvm_prefault_host_pass_free(KVMPrefaultHostPass *pass);

/**
 * kvm_prefault_host_pass_run: do the work, or what can be done
 *
 * What fails with one backend is tried with the others all the same.
 *
 * Context: a thread without the BQL.  Ends with @pass->err set on failure.
 */
void kvm_prefault_host_pass_run(KVMPrefaultHostPass *pass);

/**
 * kvm_prefault_host_pass_avoid: have the thread of @pass leave memory alone
 *
 * Waits for the step that it is in if that has a part of @hole.
 * Context: BQL held.
 */
void kvm_prefault_host_pass_avoid(KVMPrefaultHostPass *pass,
                                  KVMPrefaultHole hole);

#endif
