/*
 * KVM pre-fault: which of QEMU's memory is guest RAM, and which of it is new
 *
 * A pass that takes everything starts from what is there.  When memory is
 * plugged, only that is worked on: looking at the page tables of a terabyte
 * takes seconds.
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/kvm.h>
#include "qemu/units.h"
#include "exec/memory.h"
#include "exec/ramblock.h"
#include "kvm-prefault.h"
#include "kvm-prefault-blocks.h"
#include "kvm-prefault-chores.h"
#include "kvm-prefault-host.h"

/* MemoryRegion of each guest-visible backend -> number of ranges of it */
static GHashTable *backends;

/* KVMPrefaultBlock: what has come since it was last asked for */
static GArray *fresh;

static uint64_t unit_of(MemoryRegion *mr)
{
    RamDiscardManager *rdm = memory_region_get_ram_discard_manager(mr);

    /* the kernel pins at most 1 GiB at a time */
    return rdm ? MIN(ram_discard_manager_get_min_granularity(rdm, mr), 1 * GiB)
               : 0;
}

KVMPrefaultBlock kvm_prefault_block(MemoryRegion *mr, uint64_t offset,
                                    uint64_t size)
{
    HostMemoryBackend *backend = MEMORY_BACKEND(mr->owner);
    unsigned asked = kvm_prefault.background ? 1 :
                     kvm_prefault.config.threads;

    return (KVMPrefaultBlock) {
        .backend = backend,
        .host = (char *)memory_region_get_ram_ptr(mr) + offset,
        .size = size,
        .page_size = qemu_ram_pagesize(mr->ram_block),
        .unit = unit_of(mr),
        .fd = mr->ram_block->fd,
        .threads = asked ? asked : backend->prealloc_threads,
    };
}

bool kvm_prefault_block_is_hugetlb(const KVMPrefaultBlock *block)
{
    return block->page_size > qemu_real_host_page_size();
}

static GArray *array_new(void)
{
    return g_array_new(false, false, sizeof(KVMPrefaultBlock));
}

static void add_fresh(MemoryRegion *mr, uint64_t offset, uint64_t size)
{
    KVMPrefaultBlock block = kvm_prefault_block(mr, offset, size);
    unsigned i;

    fresh = fresh ?: array_new();
    for (i = 0; i < fresh->len; i++) {
        /* once per address space */
        if (!memcmp(&g_array_index(fresh, KVMPrefaultBlock, i), &block,
                    sizeof(block))) {
            return;
        }
    }
    g_array_append_val(fresh, block);
}

static void mark_stale(void)
{
    kvm_prefault.host_stale = true;
    kvm_prefault.lock_stale = kvm_prefault.pin != KVM_PIN_RAM_OFF;
}

void kvm_prefault_host_track(MemoryRegion *mr, bool visible)
{
    bool managed = memory_region_has_ram_discard_manager(mr);
    gpointer count = NULL;

    backends = backends ?: g_hash_table_new(NULL, NULL);
    if (!g_hash_table_lookup_extended(backends, mr, NULL, &count)) {
        /* it may have been here before, and is to stay locked now */
        kvm_prefault_chores_drop(mr);
        if (!managed) {
            add_fresh(mr, 0, memory_region_size(mr));
            mark_stale();
        }
    }
    /* with no range left it stays until kvm_prefault_host_commit() */
    g_hash_table_insert(backends, mr,
                        GUINT_TO_POINTER(GPOINTER_TO_UINT(count) +
                                         (visible ? 1 : -1)));
}

static gboolean take_if_gone(gpointer mr, gpointer count, gpointer gone)
{
    if (!count) {
        g_ptr_array_add(gone, mr);
    }
    return !count;
}

void kvm_prefault_host_commit(void)
{
    g_autoptr(GPtrArray) gone = g_ptr_array_new();
    unsigned i;

    if (backends) {
        g_hash_table_foreach_remove(backends, take_if_gone, gone);
    }
    for (i = 0; i < gone->len; i++) {
        MemoryRegion *mr = g_ptr_array_index(gone, i);

        kvm_prefault_host_forget(mr, 0, memory_region_size(mr));
    }
}

void kvm_prefault_host_plugged(MemoryRegion *mr, uint64_t offset,
                               uint64_t size)
{
    add_fresh(mr, offset, size);
    mark_stale();
}

uint64_t kvm_prefault_blocks_pending(MemoryRegion *mr, uint64_t offset,
                                     uint64_t size)
{
    KVMPrefaultBlock part = kvm_prefault_block(mr, offset, size);
    uint64_t sum = size;
    unsigned i;

    for (i = 0; fresh && i < fresh->len; i++) {
        const KVMPrefaultBlock *block = &g_array_index(fresh,
                                                       KVMPrefaultBlock, i);

        if (block->host == part.host && block->size == size) {
            sum -= size;
        }
        sum += block->backend == part.backend ? block->size : 0;
    }
    return sum;
}

/* What is new and not within @hole */
static GArray *fresh_but(KVMPrefaultHole hole)
{
    g_autoptr(GArray) holes = g_array_new(false, false, sizeof(hole));
    GArray *rest = array_new();
    unsigned i;

    g_array_append_val(holes, hole);
    for (i = 0; i < fresh->len; i++) {
        KVMPrefaultBlock *block = &g_array_index(fresh, KVMPrefaultBlock, i);
        uint64_t done = 0, size;

        while ((size = kvm_prefault_block_piece(block, holes, &done,
                                                block->size))) {
            KVMPrefaultBlock piece = *block;

            piece.host += done;
            piece.size = size;
            g_array_append_val(rest, piece);
            done += size;
        }
    }
    return rest;
}

void kvm_prefault_blocks_forget(const KVMPrefaultBlock *block)
{
    GArray *rest;

    if (fresh) {
        rest = fresh_but((KVMPrefaultHole) {
            .start = (uintptr_t)block->host,
            .size = block->size,
        });
        g_array_unref(fresh);
        fresh = rest;
    }
}

bool kvm_prefault_blocks_has(MemoryRegion *mr)
{
    return backends && g_hash_table_contains(backends, mr);
}

static int add_section(MemoryRegionSection *section, void *opaque)
{
    KVMPrefaultBlock block =
        kvm_prefault_block(section->mr, section->offset_within_region,
                           int128_get64(section->size));

    g_array_append_val((GArray *)opaque, block);
    return 0;
}

static void add_all_of(GArray *blocks, MemoryRegion *mr)
{
    MemoryRegionSection whole = {
        .mr = mr,
        .size = int128_make64(memory_region_size(mr)),
    };

    if (memory_region_has_ram_discard_manager(mr)) {
        RamDiscardManager *rdm = memory_region_get_ram_discard_manager(mr);

        ram_discard_manager_replay_populated(rdm, &whole, add_section,
                                             blocks);
    } else {
        add_section(&whole, blocks);
    }
}

GArray *kvm_prefault_blocks(void)
{
    GArray *blocks = array_new();
    GHashTableIter iter;
    gpointer mr;

    if (backends) {
        g_hash_table_iter_init(&iter, backends);
        while (g_hash_table_iter_next(&iter, &mr, NULL)) {
            add_all_of(blocks, mr);
        }
    }
    return blocks;
}

GArray *kvm_prefault_blocks_new(bool keep)
{
    GArray *blocks = array_new();

    if (fresh) {
        g_array_append_vals(blocks, fresh->data, fresh->len);
        g_array_set_size(fresh, keep ? fresh->len : 0);
    }
    return blocks;
}

uint64_t kvm_prefault_blocks_bytes(void)
{
    g_autoptr(GArray) blocks = kvm_prefault_blocks();
    uint64_t bytes = 0;
    unsigned i;

    for (i = 0; i < blocks->len; i++) {
        bytes += g_array_index(blocks, KVMPrefaultBlock, i).size;
    }
    return bytes;
}

bool kvm_prefault_blocks_managed(void)
{
    GHashTableIter iter;
    gpointer mr;

    if (backends) {
        g_hash_table_iter_init(&iter, backends);
        while (g_hash_table_iter_next(&iter, &mr, NULL)) {
            if (memory_region_has_ram_discard_manager(mr)) {
                return true;
            }
        }
    }
    return false;
}

uint64_t kvm_prefault_block_piece(const KVMPrefaultBlock *block,
                                  const GArray *holes, uint64_t *done,
                                  uint64_t max)
{
    uint64_t base = (uintptr_t)block->host, at = base + *done;
    uint64_t size = kvm_prefault_next_piece((KVMPrefaultHole *)holes->data,
                                            holes->len, &at,
                                            base + block->size, max);

    *done = at - base;
    return size;
}
