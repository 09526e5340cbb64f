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
#include "kvm-prefault-hostmem.h"
#include "kvm-prefault-pin.h"
#include "kvm-prefault-populate.h"
#include "trace.h"

/* Linux 6.1; older headers lack it */
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

/* Per thread and step: small enough to be cancelled soon */
#define STEP_BYTES_PER_THREAD (256 * MiB)

/* A memory backend's RAM; the reference keeps it mapped during the pass */
typedef struct HostBlock {
    HostMemoryBackend *backend;
    char *host;
    uint64_t size;
    uint64_t page_size;
    int fd;
    unsigned threads;
} HostBlock;

typedef struct HostPass {
    GArray *blocks;
    bool populate;
    bool collapse;
    bool lock;
    bool pin;
    bool threaded;
    Error *err;
} HostPass;

/* MemoryRegion of each guest-visible backend -> number of ranges of it */
static GHashTable *backends;

/* The pass that has a thread, NULL if none has */
static HostPass *running;
static pthread_t host_thread;
static bool host_cancelled;
static uint64_t host_populated, host_pinned;

void kvm_prefault_host_track(MemoryRegion *mr, bool visible)
{
    unsigned count;

    if (!backends) {
        backends = g_hash_table_new(NULL, NULL);
    }
    count = GPOINTER_TO_UINT(g_hash_table_lookup(backends, mr));
    if (!count) {
        kvm_prefault.host_stale = true;
        kvm_prefault.lock_stale = kvm_prefault.pin != KVM_PIN_RAM_OFF;
    }
    count += visible ? 1 : -1;
    if (count) {
        g_hash_table_insert(backends, mr, GUINT_TO_POINTER(count));
    } else {
        g_hash_table_remove(backends, mr);
    }
}

static bool is_tracked(MemoryRegion *mr)
{
    return backends && g_hash_table_contains(backends, mr);
}

static HostBlock host_block(MemoryRegion *mr)
{
    HostMemoryBackend *backend = MEMORY_BACKEND(mr->owner);
    unsigned asked = kvm_prefault.background ? 1 :
                     kvm_prefault.config.threads;

    return (HostBlock) {
        .backend = backend,
        .host = memory_region_get_ram_ptr(mr),
        .size = memory_region_size(mr),
        .page_size = qemu_ram_pagesize(mr->ram_block),
        .fd = mr->ram_block->fd,
        .threads = asked ? asked : backend->prealloc_threads,
    };
}

static GArray *host_blocks(void)
{
    GArray *blocks = g_array_new(false, false, sizeof(HostBlock));
    GHashTableIter iter;
    gpointer mr;

    if (backends) {
        g_hash_table_iter_init(&iter, backends);
        while (g_hash_table_iter_next(&iter, &mr, NULL)) {
            HostBlock block = host_block(mr);

            g_array_append_val(blocks, block);
        }
    }
    return blocks;
}

static bool is_hugetlb(const HostBlock *block)
{
    return block->page_size > qemu_real_host_page_size();
}

/* Bytes still to be allocated, by host page size */
static void add_need(GHashTable *needs, const HostBlock *block)
{
    uint64_t need = block->size -
                    kvm_prefault_resident(block->host, block->size);
    uint64_t *sum = g_hash_table_lookup(needs, &block->page_size);

    if (sum) {
        *sum += need;
    } else {
        g_hash_table_insert(needs, g_memdup2(&block->page_size, 8),
                            g_memdup2(&need, 8));
    }
}

bool kvm_prefault_check_memory(Error **errp)
{
    g_autoptr(GArray) blocks = host_blocks();
    g_autoptr(GHashTable) needs = g_hash_table_new_full(g_int64_hash,
                                                        g_int64_equal,
                                                        g_free, g_free);
    GHashTableIter iter;
    gpointer page_size, need;
    unsigned i;

    for (i = 0; i < blocks->len; i++) {
        add_need(needs, &g_array_index(blocks, HostBlock, i));
    }
    g_hash_table_iter_init(&iter, needs);
    while (g_hash_table_iter_next(&iter, &page_size, &need)) {
        if (!kvm_prefault_memory_available(*(uint64_t *)page_size,
                                           *(uint64_t *)need, errp)) {
            return false;
        }
    }
    return true;
}

bool kvm_prefault_check_memlock(Error **errp)
{
    g_autoptr(GArray) blocks = host_blocks();
    bool pin = kvm_prefault.pin == KVM_PIN_RAM_LONGTERM;
    uint64_t lock_bytes = 0, pin_bytes = 0;
    unsigned i;

    for (i = 0; i < blocks->len; i++) {
        HostBlock *block = &g_array_index(blocks, HostBlock, i);

        /* mlock(), not io_uring, leaves huge pages of hugetlbfs out */
        lock_bytes += is_hugetlb(block) ? 0 : block->size;
        pin_bytes += pin ? block->size : 0;
    }
    return kvm_prefault_memlock_allows("VmLck", lock_bytes, errp) &&
           kvm_prefault_memlock_allows("VmPin", pin_bytes, errp);
}

bool kvm_prefault_check_pin(Error **errp)
{
    g_autoptr(GArray) blocks = host_blocks();
    unsigned i;

    for (i = 0; i < blocks->len; i++) {
        HostBlock *block = &g_array_index(blocks, HostBlock, i);

        if (!kvm_prefault_pin_possible(&block->backend->mr, errp)) {
            return false;
        }
    }
    if (!kvm_prefault_pin_probe(errp)) {
        return false;
    }
    for (i = 0; i < blocks->len; i++) {
        HostBlock *block = &g_array_index(blocks, HostBlock, i);

        kvm_prefault_pin_advise(&block->backend->mr);
    }
    return true;
}

static bool lock_step(const HostBlock *block, char *addr, uint64_t size,
                      Error **errp)
{
    if (!is_hugetlb(block) && mlock(addr, size) < 0) {
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

static bool populate_step(const HostBlock *block, char *addr, uint64_t size,
                          Error **errp)
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

static bool host_step(const HostPass *pass, const HostBlock *block,
                      char *addr, uint64_t size, Error **errp)
{
    /* a page merged by KSM is read-only and would have to be broken out */
    qemu_madvise(addr, size, QEMU_MADV_UNMERGEABLE);
    if (pass->collapse && !is_hugetlb(block)) {
        collapse_step(addr, size);
    }
    return (!pass->populate || populate_step(block, addr, size, errp)) &&
           (!pass->lock || lock_step(block, addr, size, errp));
}

static bool host_block_pass(const HostPass *pass, const HostBlock *block,
                           Error **errp)
{
    uint64_t step = QEMU_ALIGN_UP(STEP_BYTES_PER_THREAD * block->threads,
                                  block->page_size);
    uint64_t done;

    for (done = 0; done < block->size && !qatomic_read(&host_cancelled);
         done += step) {
        uint64_t size = MIN(step, block->size - done);

        if (!host_step(pass, block, block->host + done, size, errp)) {
            return false;
        }
    }
    return !pass->pin ||
           kvm_prefault_pin_block(&block->backend->mr, block->host,
                                  block->size, &host_cancelled, errp);
}

/* Backends that have been unplugged, once nobody works on them any more */
void kvm_prefault_host_release(void)
{
    if (!running) {
        kvm_prefault_pin_release(is_tracked);
    }
}

static void host_join(void)
{
    if (running && running->threaded) {
        pthread_join(host_thread, NULL);
    }
    running = NULL;
}

static void host_done_bh(void *opaque)
{
    HostPass *pass = opaque;
    bool cancelled = pass != running;
    unsigned i;

    /* the thread of a pass that was cancelled has been joined then */
    if (!cancelled) {
        host_join();
    }
    /* before memory regions go with their backends */
    kvm_prefault_host_release();
    for (i = 0; i < pass->blocks->len; i++) {
        object_unref(OBJECT(g_array_index(pass->blocks, HostBlock,
                                          i).backend));
    }
    g_array_free(pass->blocks, true);
    if (cancelled) {
        error_free(pass->err);
    } else {
        kvm_prefault_host_done(pass->err);
    }
    g_free(pass);
}

static void *host_thread_fn(void *opaque)
{
    HostPass *pass = opaque;
    unsigned i;

    for (i = 0; i < pass->blocks->len && !pass->err; i++) {
        HostBlock *block = &g_array_index(pass->blocks, HostBlock, i);

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

bool kvm_prefault_host_placed(void)
{
    g_autoptr(GArray) blocks = host_blocks();
    unsigned i;

    for (i = 0; i < blocks->len; i++) {
        if (g_array_index(blocks, HostBlock, i).backend->prealloc_context) {
            return true;
        }
    }
    return false;
}

void kvm_prefault_host_start(bool populate, bool lock)
{
    HostPass *pass = g_new0(HostPass, 1);
    unsigned i;
    int ret;

    if (!shutdown_notifier.node.le_prev) {
        qemu_register_shutdown_notifier(&shutdown_notifier);
        qemu_add_exit_notifier(&exit_notifier);
    }
    pass->blocks = host_blocks();
    pass->populate = populate;
    pass->collapse = populate && kvm_prefault.split;
    kvm_prefault.split &= !populate;
    pass->lock = lock;
    pass->pin = lock && kvm_prefault.pin == KVM_PIN_RAM_LONGTERM;
    for (i = 0; i < pass->blocks->len; i++) {
        object_ref(OBJECT(g_array_index(pass->blocks, HostBlock, i).backend));
    }
    if (populate) {
        qatomic_set(&host_populated, 0);
    }
    if (lock) {
        qatomic_set(&host_pinned, 0);
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
    *populated = qatomic_read(&host_populated);
    *pinned = kvm_prefault.pin == KVM_PIN_RAM_LONGTERM ?
              kvm_prefault_pin_bytes() : qatomic_read(&host_pinned);
}
