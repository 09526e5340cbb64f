/*
 * KVM pre-fault: populate and lock the host pages of guest RAM
 *
 * KVM_PRE_FAULT_MEMORY is a read fault: it maps what the host page tables
 * have, and for a page never written that is the read-only zero page.  So
 * host pages are populated for writing first, with the NUMA policy of their
 * backend (it sits on the mapping) and in its 'prealloc-context'.
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/kvm.h>
#include <sys/mman.h>
#include "qemu/madvise.h"
#include "qemu/main-loop.h"
#include "qemu/thread-context.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "exec/memory.h"
#include "exec/ramblock.h"
#include "system/hostmem.h"
#include "system/runstate.h"
#include "system/system.h"
#include "kvm-prefault.h"
#include "kvm-prefault-blocks.h"
#include "kvm-prefault-pin.h"
#include "kvm-prefault-populate.h"
#include "trace.h"

/* Linux 6.1; older headers lack it */
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

/* Per thread and step: small enough to be cancelled, or waited for */
#define STEP_BYTES_PER_THREAD (64 * MiB)

typedef struct HostPass {
    /* KVMPrefaultBlock; a reference to each backend keeps them mapped */
    GArray *blocks;
    bool populate;
    bool collapse;
    bool lock;
    bool pin;
    bool threaded;
    Error *err;

    /*
     * What is not to be touched any more (KVMPrefaultHole), and what is being
     * worked on.  The lock is not held while it is.
     */
    QemuMutex lock_holes;
    QemuCond step_done;
    GArray *holes;
    KVMPrefaultHole step;
} HostPass;

/* The pass that has a thread, NULL if none has */
static HostPass *running;
static pthread_t host_thread;
static bool host_cancelled;
static uint64_t host_populated, host_pinned;

static bool lock_step(const KVMPrefaultBlock *block, char *addr, uint64_t size,
                      Error **errp)
{
    if (!kvm_prefault_block_is_hugetlb(block) && mlock(addr, size) < 0) {
        error_setg_errno(errp, errno, "'%s=%s': locking 0x%" PRIx64
                         " bytes of memory backend '%s' failed (see ulimit "
                         "-l, LimitMEMLOCK=, <memtune><hard_limit>)",
                         PROP_PIN_RAM, KvmPinRam_str(kvm_prefault.pin), size,
                         memory_region_name(&block->backend->mr));
        return false;
    }
    qatomic_set(&host_pinned, host_pinned + size);
    return true;
}

static bool populate_step(const KVMPrefaultBlock *block, char *addr,
                          uint64_t size, Error **errp)
{
    KVMPrefaultMemory memory = {
        .fd = block->fd,
        .addr = addr,
        .size = size,
        .page_size = block->page_size,
        .threads = block->threads,
        .context = block->backend->prealloc_context,
    };

    if (!kvm_prefault_populate(&memory, errp)) {
        error_prepend(errp, "populating memory backend '%s': ",
                      memory_region_name(&block->backend->mr));
        return false;
    }
    qatomic_set(&host_populated, host_populated + size);
    return true;
}

/*
 * As much as can be; khugepaged would do it later, and unmap.  One at a time,
 * because the kernel gives up the rest of a range at some errors.
 */
static void collapse_step(char *addr, uint64_t size)
{
    uint64_t done;

    for (done = 0; done < size; done += 2 * MiB) {
        qemu_madvise(addr + done, MIN(2 * MiB, size - done), MADV_COLLAPSE);
    }
}

static bool host_step(const HostPass *pass, const KVMPrefaultBlock *block,
                      char *addr, uint64_t size, Error **errp)
{
    MemoryRegion *mr = &block->backend->mr;
    uint64_t offset = addr - (char *)memory_region_get_ram_ptr(mr);

    if (pass->collapse && !kvm_prefault_block_is_hugetlb(block)) {
        collapse_step(addr, size);
    }
    return (!pass->populate || populate_step(block, addr, size, errp)) &&
           (!pass->lock || lock_step(block, addr, size, errp)) &&
           (!pass->pin || !block->unit ||
            kvm_prefault_pin_part(mr, block->unit, offset, size, errp));
}

/* Find the next piece and let nobody else have it */
static uint64_t step_begin(HostPass *pass, const KVMPrefaultBlock *block,
                           uint64_t *done, uint64_t max)
{
    uint64_t size;

    qemu_mutex_lock(&pass->lock_holes);
    size = kvm_prefault_block_piece(block, pass->holes, done, max);
    pass->step.start = (uintptr_t)block->host + *done;
    pass->step.size = size;
    qemu_mutex_unlock(&pass->lock_holes);
    return size;
}

static void step_end(HostPass *pass)
{
    qemu_mutex_lock(&pass->lock_holes);
    pass->step.size = 0;
    qemu_cond_signal(&pass->step_done);
    qemu_mutex_unlock(&pass->lock_holes);
}

static bool host_block_pass(HostPass *pass, const KVMPrefaultBlock *block,
                            Error **errp)
{
    uint64_t step = QEMU_ALIGN_UP(STEP_BYTES_PER_THREAD * block->threads,
                                  MAX(block->page_size, block->unit));
    uint64_t done = 0, size;

    /*
     * A page merged by KSM is read-only and would have to be broken out.  For
     * all of the block at once: the kernel never joins mappings again that
     * have been split before their first page was allocated.
     */
    qemu_madvise(block->host, block->size, QEMU_MADV_UNMERGEABLE);
    while (!qatomic_read(&host_cancelled) &&
           (size = step_begin(pass, block, &done, step))) {
        bool ok = host_step(pass, block, block->host + done, size, errp);

        step_end(pass);
        if (!ok) {
            return false;
        }
        done += size;
    }
    return !pass->pin || block->unit ||
           kvm_prefault_pin_block(&block->backend->mr, block->host,
                                  block->size, &host_cancelled, errp);
}

static bool step_overlaps(const HostPass *pass, const KVMPrefaultHole *hole)
{
    return pass->step.size && pass->step.start < hole->start + hole->size &&
           hole->start < pass->step.start + pass->step.size;
}

/* Have the thread stay away; waits for the step that it is in, if need be */
static void keep_thread_away(HostPass *pass, KVMPrefaultHole hole)
{
    qemu_mutex_lock(&pass->lock_holes);
    g_array_append_val(pass->holes, hole);
    while (step_overlaps(pass, &hole)) {
        qemu_cond_wait(&pass->step_done, &pass->lock_holes);
    }
    qemu_mutex_unlock(&pass->lock_holes);
}

/* What has gone is neither populated nor locked; what comes will be counted */
static void progress_limit(uint64_t bytes)
{
    qatomic_set(&host_populated, MIN(host_populated, bytes));
    qatomic_set(&host_pinned, MIN(host_pinned, bytes));
}

void kvm_prefault_host_forget(MemoryRegion *mr, uint64_t offset,
                              uint64_t size)
{
    KVMPrefaultBlock block = kvm_prefault_block(mr, offset, size);

    if (running) {
        keep_thread_away(running, (KVMPrefaultHole) {
            .start = (uintptr_t)block.host,
            .size = block.size,
        });
    }
    kvm_prefault_blocks_forget(&block);
    if (block.unit) {
        kvm_prefault_unpin_part(mr, offset, size);
    }
    if (kvm_prefault.pin != KVM_PIN_RAM_OFF &&
        !kvm_prefault_block_is_hugetlb(&block) &&
        munlock(block.host, block.size) < 0) {
        trace_kvm_prefault_unlock(memory_region_name(mr), errno);
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
    if (running && running->threaded) {
        pthread_join(host_thread, NULL);
    }
    running = NULL;
}

static HostPass *pass_new(GArray *blocks)
{
    HostPass *pass = g_new0(HostPass, 1);
    unsigned i;

    pass->blocks = blocks;
    pass->holes = g_array_new(false, false, sizeof(KVMPrefaultHole));
    qemu_mutex_init(&pass->lock_holes);
    qemu_cond_init(&pass->step_done);
    for (i = 0; i < blocks->len; i++) {
        object_ref(OBJECT(g_array_index(blocks, KVMPrefaultBlock,
                                        i).backend));
    }
    return pass;
}

static void pass_free(HostPass *pass)
{
    unsigned i;

    for (i = 0; i < pass->blocks->len; i++) {
        object_unref(OBJECT(g_array_index(pass->blocks, KVMPrefaultBlock,
                                          i).backend));
    }
    g_array_free(pass->blocks, true);
    g_array_free(pass->holes, true);
    qemu_mutex_destroy(&pass->lock_holes);
    qemu_cond_destroy(&pass->step_done);
    g_free(pass);
}

static void host_done_bh(void *opaque)
{
    HostPass *pass = opaque;
    bool cancelled = pass != running;
    Error *err = pass->err;

    /* the thread of a pass that was cancelled has been joined then */
    if (!cancelled) {
        host_join();
    }
    /* before memory regions go with their backends */
    kvm_prefault_host_release();
    pass_free(pass);
    if (cancelled) {
        error_free(err);
    } else {
        progress_limit(kvm_prefault_blocks_bytes());
        kvm_prefault_host_done(err);
    }
}

static void *host_thread_fn(void *opaque)
{
    HostPass *pass = opaque;
    unsigned i;

    for (i = 0; i < pass->blocks->len && !pass->err; i++) {
        KVMPrefaultBlock *block = &g_array_index(pass->blocks,
                                                 KVMPrefaultBlock, i);

        host_block_pass(pass, block, &pass->err);
        trace_kvm_prefault_host(memory_region_name(&block->backend->mr),
                                block->size, pass->err ? -1 : 0);
    }
    aio_bh_schedule_oneshot(qemu_get_aio_context(), host_done_bh, pass);
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
    HostPass *pass = pass_new(blocks_to_do());
    uint64_t rest = bytes_but(pass->blocks);
    int ret;

    if (!shutdown_notifier.node.le_prev) {
        qemu_register_shutdown_notifier(&shutdown_notifier);
        qemu_add_exit_notifier(&exit_notifier);
    }
    pass->populate = populate;
    pass->collapse = populate && kvm_prefault.split;
    kvm_prefault.split &= !populate;
    pass->lock = lock;
    pass->pin = lock && kvm_prefault.pin == KVM_PIN_RAM_LONGTERM;
    if (populate) {
        qatomic_set(&host_populated, MIN(host_populated, rest));
    }
    if (lock) {
        qatomic_set(&host_pinned, MIN(host_pinned, rest));
    }
    running = pass;
    ret = kvm_prefault_thread_create(&host_thread, "kvm-prefault",
                                     host_thread_fn, pass);
    pass->threaded = ret == 0;
    if (ret < 0) {
        error_setg_errno(&pass->err, -ret, "no thread for host memory could "
                         "be created (see ulimit -u, TasksMax=)");
        aio_bh_schedule_oneshot(qemu_get_aio_context(), host_done_bh, pass);
    }
}

void kvm_prefault_host_progress(uint64_t *populated, uint64_t *pinned)
{
    uint64_t bytes = kvm_prefault_blocks_bytes();

    *populated = MIN(qatomic_read(&host_populated), bytes);
    *pinned = kvm_prefault.pin == KVM_PIN_RAM_LONGTERM ?
              kvm_prefault_pin_bytes() :
              MIN(qatomic_read(&host_pinned), bytes);
}
