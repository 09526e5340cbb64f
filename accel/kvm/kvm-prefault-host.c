/*
 * KVM pre-fault: host pages of guest RAM are populated and locked in a thread
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/mman.h>
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "exec/memory.h"
#include "system/runstate.h"
#include "system/system.h"
#include "kvm-prefault.h"
#include "kvm-prefault-blocks.h"
#include "kvm-prefault-chores.h"
#include "kvm-prefault-host.h"
#include "kvm-prefault-hostpass.h"
#include "kvm-prefault-pin.h"
#include "kvm-prefault-poison.h"
#include "kvm-prefault-populate.h"
#include "trace.h"

/*
 * Locked pages that are unlocked at a time; so much is unlocked at once, a few
 * milliseconds, and the rest without the BQL.
 */
#define UNLOCK_STEP (256 * MiB)

/* The pass that has a thread, NULL if none has */
static KVMPrefaultHostPass *running;
static pthread_t host_thread;
static bool host_threaded;
static bool host_cancelled;
static KVMPrefaultHostProgress progress;

/* What has gone is neither populated nor locked; what comes will be counted */
static void progress_limit(uint64_t bytes)
{
    qatomic_set(&progress.populated, MIN(progress.populated, bytes));
    qatomic_set(&progress.pinned, MIN(progress.pinned, bytes));
}

typedef struct Unlock {
    KVMPrefaultChore chore;
    MemoryRegion *mr;
    char *host;
    uint64_t size;
} Unlock;

static void unlock(MemoryRegion *mr, char *host, uint64_t size)
{
    if (munlock(host, size) < 0) {
        trace_kvm_prefault_unlock(memory_region_name(mr), errno);
    }
}

static bool unlock_step(KVMPrefaultChore *chore)
{
    Unlock *u = container_of(chore, Unlock, chore);
    uint64_t size = MIN(u->size, UNLOCK_STEP);

    unlock(u->mr, u->host, size);
    u->host += size;
    u->size -= size;
    return u->size;
}

static void unlock_end(KVMPrefaultChore *chore)
{
    Unlock *u = container_of(chore, Unlock, chore);

    object_unref(u->mr->owner);
    g_free(u);
}

/* All of a backend, which has left the guest: nobody waits for it */
static void unlock_backend(MemoryRegion *mr, char *host, uint64_t size)
{
    uint64_t now = MIN(size, UNLOCK_STEP);
    Unlock *u;

    unlock(mr, host, now);
    if (now == size) {
        return;
    }
    u = g_new0(Unlock, 1);
    u->chore = (KVMPrefaultChore) {
        .step = unlock_step, .end = unlock_end, .owner = mr,
    };
    u->mr = mr;
    u->host = host + now;
    u->size = size - now;
    object_ref(mr->owner);
    kvm_prefault_chore_add(&u->chore);
}

void kvm_prefault_host_forget(MemoryRegion *mr, uint64_t offset,
                              uint64_t size)
{
    KVMPrefaultBlock block = kvm_prefault_block(mr, offset, size);
    bool locked = kvm_prefault.pin != KVM_PIN_RAM_OFF &&
                  !kvm_prefault_block_is_hugetlb(&block);

    if (running) {
        kvm_prefault_host_pass_avoid(running, (KVMPrefaultHole) {
            .start = (uintptr_t)block.host,
            .size = block.size,
        });
    }
    kvm_prefault_blocks_forget(&block);
    kvm_prefault_poison_forget(block.host, block.size);
    if (block.unit) {
        kvm_prefault_unpin_part(mr, offset, size);
    }
    if (locked && block.unit) {
        /* it is about to be discarded, and has to be unlocked by then */
        unlock(mr, block.host, block.size);
    } else if (locked) {
        unlock_backend(mr, block.host, block.size);
    }
    if (!running) {
        progress_limit(kvm_prefault_blocks_bytes());
    }
}

/* Backends that have been unplugged, once nobody works on them any more */
void kvm_prefault_host_release(void)
{
    if (!running) {
        kvm_prefault_pin_release(kvm_prefault_blocks_has);
    }
}

static void host_join(void)
{
    if (running && host_threaded) {
        pthread_join(host_thread, NULL);
    }
    running = NULL;
}

static void host_done_bh(void *opaque)
{
    KVMPrefaultHostPass *pass = opaque;
    bool cancelled = pass != running;
    g_autoptr(GPtrArray) failed = g_ptr_array_ref(pass->failed);
    Error *err = pass->err;

    /* the thread of a pass that was cancelled has been joined then */
    if (!cancelled) {
        host_join();
    }
    /* before memory regions go with their backends */
    kvm_prefault_host_release();
    kvm_prefault_host_pass_free(pass);
    if (cancelled) {
        error_free(err);
    } else {
        progress_limit(kvm_prefault_blocks_bytes());
        kvm_prefault_host_done(err, failed);
    }
}

static void *host_thread_fn(void *opaque)
{
    /* memory regions are looked at under RCU */
    rcu_register_thread();
    kvm_prefault_host_pass_run(opaque);
    rcu_unregister_thread();
    aio_bh_schedule_oneshot(qemu_get_aio_context(), host_done_bh, opaque);
    return NULL;
}

/* Backends are about to be destroyed; the thread ends with its next step */
static void host_cancel(Notifier *notifier, void *data)
{
    qatomic_set(&host_cancelled, true);
    host_join();
}

void kvm_prefault_host_resume(void)
{
    if (host_cancelled) {
        host_cancelled = false;
        kvm_prefault.host_running = false;
    }
}

static Notifier shutdown_notifier = { .notify = host_cancel };

/*
 * The kernel lets go of pins some time after the end of a process.  The next
 * one may want the huge pages at once.
 */
static void host_exit(Notifier *notifier, void *data)
{
    host_cancel(notifier, data);
    kvm_prefault_pin_release(NULL);
    kvm_prefault_chores_finish();
}

static Notifier exit_notifier = { .notify = host_exit };

/* Blocks to be worked on; forgotten once nothing is left to be done to them */
static GArray *blocks_to_do(void)
{
    KVMPrefault *p = &kvm_prefault;
    GArray *blocks = kvm_prefault_blocks_new(p->lock_stale);

    if (p->host_all) {
        g_array_free(blocks, true);
        blocks = kvm_prefault_blocks();
        p->host_all = p->lock_stale;
    }
    return blocks;
}

/* What is left alone by this pass stays populated and locked */
static uint64_t bytes_but(const GArray *blocks)
{
    uint64_t bytes = kvm_prefault_blocks_bytes(), wanted = 0;
    unsigned i;

    for (i = 0; i < blocks->len; i++) {
        wanted += g_array_index(blocks, KVMPrefaultBlock, i).size;
    }
    return bytes - MIN(bytes, wanted);
}

void kvm_prefault_host_start(bool populate, bool lock)
{
    KVMPrefaultHostPass *pass = kvm_prefault_host_pass_new(blocks_to_do());
    uint64_t rest = bytes_but(pass->blocks);
    int ret;

    if (!shutdown_notifier.node.le_prev) {
        qemu_register_shutdown_notifier(&shutdown_notifier);
        qemu_add_exit_notifier(&exit_notifier);
    }
    pass->cancelled = &host_cancelled;
    pass->progress = &progress;
    pass->populate = populate;
    pass->collapse = populate && kvm_prefault.split;
    kvm_prefault.split &= !populate;
    pass->lock = lock;
    pass->pin = lock && kvm_prefault.pin == KVM_PIN_RAM_LONGTERM;
    if (populate) {
        qatomic_set(&progress.populated, MIN(progress.populated, rest));
    }
    if (lock) {
        qatomic_set(&progress.pinned, MIN(progress.pinned, rest));
    }
    running = pass;
    ret = kvm_prefault_thread_create(&host_thread, "kvm-prefault",
                                     host_thread_fn, pass);
    host_threaded = ret == 0;
    if (ret < 0) {
        error_setg_errno(&pass->err, -ret, "no thread for host memory could "
                         "be created (see ulimit -u, TasksMax=)");
        aio_bh_schedule_oneshot(qemu_get_aio_context(), host_done_bh, pass);
    }
}

void kvm_prefault_host_progress(uint64_t *populated, uint64_t *pinned)
{
    uint64_t bytes = kvm_prefault_blocks_bytes();

    *populated = MIN(qatomic_read(&progress.populated), bytes);
    *pinned = kvm_prefault.pin == KVM_PIN_RAM_LONGTERM ?
              kvm_prefault_pin_bytes() :
              MIN(qatomic_read(&progress.pinned), bytes);
}
