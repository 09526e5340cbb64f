/*
 * KVM pre-fault: host pages that have had a memory error
 *
 * The host takes such a page away from QEMU, and whoever touches it next gets
 * SIGBUS.  It costs the guest that page, and must not cost it the others: the
 * thread that populates host pages finds it (MADV_POPULATE_WRITE: -EHWPOISON)
 * and leaves it out, and so do vCPUs that fill the tables.
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/kvm.h>
#include "qemu/lockable.h"
#include "exec/memory.h"
#include "system/kvm_int.h"
#include "kvm-prefault.h"
#include "kvm-prefault-poison.h"
#include "trace.h"

/* So many are named in the query */
#define NAMED_MAX 8

typedef struct PoisonedPage {
    KVMPrefaultHole hole;
    char *name;
} PoisonedPage;

/* The host thread adds, the BQL's owner looks at them and forgets them */
static QemuMutex lock;
static GArray *pages;

static void __attribute__((constructor)) init_lock(void)
{
    qemu_mutex_init(&lock);
}

static bool is_known(uint64_t start)
{
    unsigned i;

    for (i = 0; pages && i < pages->len; i++) {
        if (g_array_index(pages, PoisonedPage, i).hole.start == start) {
            return true;
        }
    }
    return false;
}

void kvm_prefault_poison_add(char *host, uint64_t size, const char *name)
{
    PoisonedPage page = {
        .hole = { .start = (uintptr_t)host, .size = size },
    };

    QEMU_LOCK_GUARD(&lock);
    if (is_known(page.hole.start)) {
        return;
    }
    trace_kvm_prefault_poison(name, size);
    page.name = g_strdup(name);
    pages = pages ?: g_array_new(false, false, sizeof(page));
    g_array_append_val(pages, page);
}

void kvm_prefault_poison_forget(char *host, uint64_t size)
{
    uint64_t start = (uintptr_t)host;
    unsigned i;

    QEMU_LOCK_GUARD(&lock);
    for (i = pages ? pages->len : 0; i-- > 0; ) {
        PoisonedPage *page = &g_array_index(pages, PoisonedPage, i);

        if (page->hole.start >= start && page->hole.start - start < size) {
            g_free(page->name);
            g_array_remove_index_fast(pages, i);
        }
    }
}

/* Where QEMU has the memory at @gpa, 0 if it has none there */
static uint64_t host_address(int as_id, uint64_t gpa)
{
    hwaddr offset, length = 1;
    MemoryRegion *mr;

    RCU_READ_LOCK_GUARD();
    mr = address_space_translate(kvm_state->as[as_id].as, gpa, &offset,
                                 &length, true, MEMTXATTRS_UNSPECIFIED);
    return memory_region_is_ram(mr) ?
           (uintptr_t)memory_region_get_ram_ptr(mr) + offset : 0;
}

static uint64_t piece(uint64_t host, uint64_t size, bool *poisoned)
{
    unsigned i;

    for (i = 0; i < pages->len; i++) {
        const KVMPrefaultHole *hole = &g_array_index(pages, PoisonedPage,
                                                     i).hole;

        if (host >= hole->start && host < hole->start + hole->size) {
            *poisoned = true;
            return MIN(size, hole->start + hole->size - host);
        }
        if (hole->start > host) {
            size = MIN(size, hole->start - host);
        }
    }
    return size;
}

uint64_t kvm_prefault_poison_host_piece(char *host, uint64_t size,
                                        bool *poisoned)
{
    *poisoned = false;
    QEMU_LOCK_GUARD(&lock);
    return pages ? piece((uintptr_t)host, size, poisoned) : size;
}

uint64_t kvm_prefault_poison_piece(int as_id, uint64_t gpa, uint64_t size,
                                   bool *poisoned)
{
    uint64_t host;

    *poisoned = false;
    QEMU_LOCK_GUARD(&lock);
    if (!pages || !pages->len) {
        return size;
    }
    host = host_address(as_id, gpa);
    return host ? piece(host, size, poisoned) : size;
}

void kvm_prefault_poison_reasons(GPtrArray *reasons)
{
    unsigned i;

    QEMU_LOCK_GUARD(&lock);
    for (i = 0; pages && i < pages->len; i++) {
        const PoisonedPage *page = &g_array_index(pages, PoisonedPage, i);

        if (i == NAMED_MAX) {
            kvm_prefault_reason(reasons, "%u more host pages are poisoned",
                                pages->len - NAMED_MAX);
            return;
        }
        kvm_prefault_reason(reasons, "a host page of memory backend '%s' is "
                            "poisoned (memory error at 0x%" PRIx64 ", 0x%"
                            PRIx64 " bytes) and is left alone until the guest "
                            "is reset", page->name, page->hole.start,
                            page->hole.size);
    }
}
