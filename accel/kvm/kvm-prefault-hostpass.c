/*
 * KVM pre-fault: one pass over host pages of guest RAM
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
#include <sys/mman.h>
#include "qemu/madvise.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "exec/memory.h"
#include "system/hostmem.h"
#include "kvm-prefault.h"
#include "kvm-prefault-hostpass.h"
#include "kvm-prefault-pin.h"
#include "kvm-prefault-poison.h"
#include "kvm-prefault-populate.h"
#include "trace.h"

/* Linux 6.1; older headers lack it */
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

/* Per thread and step: small enough to be cancelled, or waited for */
#define STEP_BYTES_PER_THREAD (64 * MiB)

/* mlock() gives up at a page that has a memory error, with ENOMEM */
static int lock_sound(char *addr, uint64_t size)
{
    char *end = addr + size;
    bool poisoned;

    for (; addr < end; addr += size) {
        size = kvm_prefault_poison_host_piece(addr, end - addr, &poisoned);
        if (!poisoned && mlock(addr, size) < 0) {
            return -1;
        }
    }
    return 0;
}

static bool lock_step(const KVMPrefaultHostPass *pass,
                      const KVMPrefaultBlock *block, char *addr,
                      uint64_t size, Error **errp)
{
    if (!kvm_prefault_block_is_hugetlb(block) && lock_sound(addr, size) < 0) {
        error_setg_errno(errp, errno, "'%s=%s': locking 0x%" PRIx64
                         " bytes of memory backend '%s' failed (see ulimit "
                         "-l, LimitMEMLOCK=, <memtune><hard_limit>)",
                         PROP_PIN_RAM, KvmPinRam_str(kvm_prefault.pin), size,
                         memory_region_name(&block->backend->mr));
        return false;
    }
    qatomic_set(&pass->progress->pinned, pass->progress->pinned + size);
    return true;
}

/* What is populated of a step: all but pages that have a memory error */
typedef struct Sound {
    const char *name;
    uint64_t bytes;
} Sound;

static void poisoned(char *addr, uint64_t size, void *opaque)
{
    Sound *sound = opaque;

    kvm_prefault_poison_add(addr, size, sound->name);
    sound->bytes -= size;
}

static bool populate_step(const KVMPrefaultHostPass *pass,
                          const KVMPrefaultBlock *block, char *addr,
                          uint64_t size, Error **errp)
{
    Sound sound = {
        .name = memory_region_name(&block->backend->mr),
        .bytes = size,
    };
    KVMPrefaultMemory memory = {
        .fd = block->fd,
        .addr = addr,
        .size = size,
        .page_size = block->page_size,
        .threads = block->threads,
        .context = block->backend->prealloc_context,
        .poisoned = poisoned,
        .opaque = &sound,
    };

    /* those that are still so are found again */
    kvm_prefault_poison_forget(addr, size);
    if (!kvm_prefault_populate(&memory, errp)) {
        error_prepend(errp, "populating memory backend '%s': ", sound.name);
        return false;
    }
    qatomic_set(&pass->progress->populated,
                pass->progress->populated + sound.bytes);
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

static bool host_step(const KVMPrefaultHostPass *pass,
                      const KVMPrefaultBlock *block, char *addr,
                      uint64_t size, Error **errp)
{
    MemoryRegion *mr = &block->backend->mr;
    uint64_t offset = addr - (char *)memory_region_get_ram_ptr(mr);

    if (pass->collapse && !kvm_prefault_block_is_hugetlb(block)) {
        collapse_step(addr, size);
    }
    return (!pass->populate || populate_step(pass, block, addr, size, errp)) &&
           (!pass->lock || lock_step(pass, block, addr, size, errp)) &&
           (!pass->pin || !block->unit ||
            kvm_prefault_pin_part(mr, block->unit, offset, size, errp));
}

/* Find the next piece and let nobody else have it */
static uint64_t step_begin(KVMPrefaultHostPass *pass,
                           const KVMPrefaultBlock *block, uint64_t *done,
                           uint64_t max)
{
    uint64_t size;

    qemu_mutex_lock(&pass->lock_holes);
    size = kvm_prefault_block_piece(block, pass->holes, done, max);
    pass->step.start = (uintptr_t)block->host + *done;
    pass->step.size = size;
    qemu_mutex_unlock(&pass->lock_holes);
    return size;
}

static void step_end(KVMPrefaultHostPass *pass)
{
    qemu_mutex_lock(&pass->lock_holes);
    pass->step.size = 0;
    qemu_cond_signal(&pass->step_done);
    qemu_mutex_unlock(&pass->lock_holes);
}

static bool host_block_pass(KVMPrefaultHostPass *pass,
                            const KVMPrefaultBlock *block, Error **errp)
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
    while (!qatomic_read(pass->cancelled) &&
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
                                  block->size, pass->cancelled, errp);
}

static bool step_overlaps(const KVMPrefaultHostPass *pass,
                          const KVMPrefaultHole *hole)
{
    return pass->step.size && pass->step.start < hole->start + hole->size &&
           hole->start < pass->step.start + pass->step.size;
}

void kvm_prefault_host_pass_avoid(KVMPrefaultHostPass *pass,
                                  KVMPrefaultHole hole)
{
    qemu_mutex_lock(&pass->lock_holes);
    g_array_append_val(pass->holes, hole);
    while (step_overlaps(pass, &hole)) {
        qemu_cond_wait(&pass->step_done, &pass->lock_holes);
    }
    qemu_mutex_unlock(&pass->lock_holes);
}

KVMPrefaultHostPass *kvm_prefault_host_pass_new(GArray *blocks)
{
    KVMPrefaultHostPass *pass = g_new0(KVMPrefaultHostPass, 1);
    unsigned i;

    pass->blocks = blocks;
    pass->failed = g_ptr_array_new_with_free_func(g_free);
    pass->holes = g_array_new(false, false, sizeof(KVMPrefaultHole));
    qemu_mutex_init(&pass->lock_holes);
    qemu_cond_init(&pass->step_done);
    for (i = 0; i < blocks->len; i++) {
        object_ref(OBJECT(g_array_index(blocks, KVMPrefaultBlock,
                                        i).backend));
    }
    return pass;
}

void kvm_prefault_host_pass_free(KVMPrefaultHostPass *pass)
{
    unsigned i;

    for (i = 0; i < pass->blocks->len; i++) {
        object_unref(OBJECT(g_array_index(pass->blocks, KVMPrefaultBlock,
                                          i).backend));
    }
    g_array_free(pass->blocks, true);
    g_ptr_array_unref(pass->failed);
    g_array_free(pass->holes, true);
    qemu_mutex_destroy(&pass->lock_holes);
    qemu_cond_destroy(&pass->step_done);
    g_free(pass);
}

void kvm_prefault_host_pass_run(KVMPrefaultHostPass *pass)
{
    unsigned i;

    for (i = 0; i < pass->blocks->len; i++) {
        KVMPrefaultBlock *block = &g_array_index(pass->blocks,
                                                 KVMPrefaultBlock, i);
        const char *name = memory_region_name(&block->backend->mr);
        Error *err = NULL;
        bool ok = host_block_pass(pass, block, &err);

        trace_kvm_prefault_host(name, block->size, ok ? 0 : -1);
        if (!ok) {
            g_ptr_array_add(pass->failed, g_strdup(name));
            /* the first one is told */
            error_propagate(&pass->err, err);
        }
    }
}
