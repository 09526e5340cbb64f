/*
 * KVM pre-fault: long work that nobody waits for
 *
 * To unlock or unpin half a terabyte takes seconds, in which the monitor would
 * not answer.  A thread does it step by step, one chore after the other; it
 * lives as long as there is one.
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/thread.h"
#include "kvm-prefault-chores.h"
#include "kvm-prefault-populate.h"

/* Protects what follows; not held during a step, nor taken while the BQL is
 * waited for. */
static QemuMutex lock;
static QemuCond changed;
static QSIMPLEQ_HEAD(, KVMPrefaultChore) waiting =
    QSIMPLEQ_HEAD_INITIALIZER(waiting);
static KVMPrefaultChore *current;
static bool current_dropped;
static bool threaded;

static void __attribute__((constructor)) init_lock(void)
{
    qemu_mutex_init(&lock);
    qemu_cond_init(&changed);
}

static void end_bh(void *opaque)
{
    KVMPrefaultChore *chore = opaque;

    chore->end(chore);
}

static void end_soon(KVMPrefaultChore *chore)
{
    aio_bh_schedule_oneshot(qemu_get_aio_context(), end_bh, chore);
}

/* Called with the lock held, which is dropped during the step */
static void do_current(void)
{
    bool more = true;

    while (more && !current_dropped) {
        qemu_mutex_unlock(&lock);
        more = current->step(current);
        qemu_mutex_lock(&lock);
    }
    end_soon(current);
    current = NULL;
    current_dropped = false;
    qemu_cond_broadcast(&changed);
}

static void *chores_fn(void *opaque)
{
    qemu_mutex_lock(&lock);
    while ((current = QSIMPLEQ_FIRST(&waiting))) {
        QSIMPLEQ_REMOVE_HEAD(&waiting, next);
        do_current();
    }
    threaded = false;
    qemu_cond_broadcast(&changed);
    qemu_mutex_unlock(&lock);
    return NULL;
}

static bool start_thread(void)
{
    pthread_t thread;

    threaded = kvm_prefault_thread_create(&thread, "kvm-prefault", chores_fn,
                                          NULL) == 0;
    if (threaded) {
        /* what it has left to do when it is not "threaded" is to return */
        pthread_detach(thread);
    }
    return threaded;
}

void kvm_prefault_chore_add(KVMPrefaultChore *chore)
{
    QEMU_LOCK_GUARD(&lock);
    if (threaded || start_thread()) {
        QSIMPLEQ_INSERT_TAIL(&waiting, chore, next);
        return;
    }
    while (chore->step(chore)) {
        /* the monitor has to wait */
    }
    end_soon(chore);
}

static void drop_waiting(const void *owner)
{
    KVMPrefaultChore *chore, *tmp;

    QSIMPLEQ_FOREACH_SAFE(chore, &waiting, next, tmp) {
        if (chore->owner == owner) {
            QSIMPLEQ_REMOVE(&waiting, chore, KVMPrefaultChore, next);
            end_soon(chore);
        }
    }
}

void kvm_prefault_chores_drop(const void *owner)
{
    QEMU_LOCK_GUARD(&lock);
    drop_waiting(owner);
    while (current && current->owner == owner) {
        current_dropped = true;
        qemu_cond_wait(&changed, &lock);
    }
}

void kvm_prefault_chores_finish(void)
{
    QEMU_LOCK_GUARD(&lock);
    while (threaded) {
        qemu_cond_wait(&changed, &lock);
    }
}
