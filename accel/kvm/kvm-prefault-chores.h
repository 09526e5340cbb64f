/*
 * KVM pre-fault: long work that nobody waits for
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef ACCEL_KVM_PREFAULT_CHORES_H
#define ACCEL_KVM_PREFAULT_CHORES_H

#include "qemu/queue.h"

typedef struct KVMPrefaultChore KVMPrefaultChore;

struct KVMPrefaultChore {
    /*
     * Do a bounded piece, without the BQL, in a thread of ours.
     * Returns: whether there is more.
     */
    bool (*step)(KVMPrefaultChore *chore);
    /* When it has been done, or dropped: main loop, BQL held; frees it */
    void (*end)(KVMPrefaultChore *chore);
    /* what it works on, for kvm_prefault_chores_drop() */
    const void *owner;
    QSIMPLEQ_ENTRY(KVMPrefaultChore) next;
};

/**
 * kvm_prefault_chore_add: have a chore done some time soon, after all others
 *
 * Where no thread can be had it is done at once.
 * Context: BQL held.
 */
void kvm_prefault_chore_add(KVMPrefaultChore *chore);

/**
 * kvm_prefault_chores_drop: leave undone what is left of @owner's chores
 *
 * Waits for the step that is being done, if it is @owner's.
 * Context: BQL held.
 */
void kvm_prefault_chores_drop(const void *owner);

/**
 * kvm_prefault_chores_finish: wait until all chores have been done
 *
 * Context: BQL held, QEMU is about to end.
 */
void kvm_prefault_chores_finish(void);

#endif
