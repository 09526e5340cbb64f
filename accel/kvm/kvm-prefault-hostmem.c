/*
 * KVM pre-fault: how much memory the host has, may be locked, and stays put
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/capability.h>
#include <linux/kvm.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include "qemu/units.h"
#include "qapi/error.h"
#include "kvm-prefault.h"
#include "kvm-prefault-blocks.h"
#include "kvm-prefault-host.h"
#include "kvm-prefault-pin.h"
#include "trace.h"
#ifdef CONFIG_NUMA
#include <numaif.h>
#endif

/* mincore() wants a byte per page: look at this much at a time */
#define RESIDENT_STEP (1 * GiB)

static uint64_t resident_bytes(char *addr, uint64_t size)
{
    size_t page_size = qemu_real_host_page_size();
    g_autofree unsigned char *vec = g_malloc(RESIDENT_STEP / page_size);
    uint64_t resident = 0, done, i;

    for (done = 0; done < size; done += RESIDENT_STEP) {
        uint64_t step = MIN(RESIDENT_STEP, size - done);

        if (mincore(addr + done, step, vec) < 0) {
            break;
        }
        for (i = 0; i < step / page_size; i++) {
            resident += (vec[i] & 1) * page_size;
        }
    }
    return resident;
}

/* The number behind "@name:" in a file like /proc/meminfo */
static bool read_field(const char *path, const char *name, int base,
                       uint64_t *value)
{
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;
    size_t len = strlen(name);
    int i;

    if (!g_file_get_contents(path, &text, NULL, NULL)) {
        return false;
    }
    lines = g_strsplit(text, "\n", -1);
    for (i = 0; lines[i]; i++) {
        if (!strncmp(lines[i], name, len) && lines[i][len] == ':') {
            *value = g_ascii_strtoull(lines[i] + len + 1, NULL, base);
            return true;
        }
    }
    return false;
}

static bool huge_pages_free(uint64_t page_size, uint64_t *bytes)
{
    g_autofree char *path = NULL;
    g_autofree char *text = NULL;

    path = g_strdup_printf("/sys/kernel/mm/hugepages/hugepages-%" PRIu64
                           "kB/free_hugepages", page_size / KiB);
    if (!g_file_get_contents(path, &text, NULL, NULL)) {
        return false;
    }
    *bytes = g_ascii_strtoull(text, NULL, 10) * page_size;
    return true;
}

static bool memory_free(uint64_t page_size, uint64_t *bytes)
{
    if (page_size > qemu_real_host_page_size()) {
        return huge_pages_free(page_size, bytes);
    }
    if (!read_field("/proc/meminfo", "MemAvailable", 10, bytes)) {
        return false;
    }
    *bytes *= KiB;
    return true;
}

static bool memory_available(uint64_t page_size, uint64_t need,
                                   Error **errp)
{
    bool huge = page_size > qemu_real_host_page_size();
    uint64_t bytes;

    /* where the host does not tell, population itself will */
    if (!memory_free(page_size, &bytes) || need <= bytes) {
        return true;
    }
    error_setg(errp, "'%s=%s': guest RAM needs %" PRIu64 " MiB more of host "
               "memory in pages of %" PRIu64 " KiB, but only %" PRIu64
               " MiB are free",
               kvm_prefault.tdp_on ? PROP_PREFAULT : PROP_PIN_RAM,
               kvm_prefault.tdp_on ? OnOffAuto_str(kvm_prefault.config.mode)
                                   : KvmPinRam_str(kvm_prefault.pin),
               need / MiB, page_size / KiB, bytes / MiB);
    error_append_hint(errp, huge ?
                      "Raise nr_hugepages for this page size, or give the "
                      "guest less memory.\n" :
                      "Free memory on the host, or give the guest less.\n");
    return false;
}

/*
 * NUMA balancing looks at private memory that has no policy of its own.
 * "Local" is what happens without one.
 */
void kvm_prefault_no_numa_balancing(MemoryRegion *mr)
{
#ifdef CONFIG_NUMA
    if (mbind(memory_region_get_ram_ptr(mr), memory_region_size(mr),
              MPOL_LOCAL, NULL, 0, 0) < 0) {
        /* a kernel without NUMA does not balance either */
        trace_kvm_prefault_pin_policy(memory_region_name(mr), errno);
    }
#endif
}

static bool may_lock_anything(void)
{
    uint64_t caps;

    return read_field("/proc/self/status", "CapEff", 16, &caps) &&
           caps & (1ULL << CAP_IPC_LOCK);
}

bool kvm_prefault_memlock_limit(uint64_t *limit)
{
    struct rlimit rlim;

    if (may_lock_anything() || getrlimit(RLIMIT_MEMLOCK, &rlim) < 0 ||
        rlim.rlim_cur == RLIM_INFINITY) {
        return false;
    }
    *limit = rlim.rlim_cur;
    return true;
}

static bool memlock_allows(const char *field, uint64_t need,
                                 Error **errp)
{
    uint64_t limit, locked = 0;

    if (!kvm_prefault_memlock_limit(&limit)) {
        return true;
    }
    if (read_field("/proc/self/status", field, 10, &locked)) {
        locked *= KiB;
    }
    if (locked + need <= limit) {
        return true;
    }
    error_setg(errp, "'%s=%s' needs %" PRIu64 " bytes of locked memory (%s), "
               "but only %" PRIu64 " are allowed", PROP_PIN_RAM,
               KvmPinRam_str(kvm_prefault.pin), locked + need, field, limit);
    error_append_hint(errp, "Raise the limit (ulimit -l %" PRIu64 ", systemd "
                      "LimitMEMLOCK=, libvirt <memoryBacking><locked/> or "
                      "<memtune><hard_limit>), give CAP_IPC_LOCK, or use "
                      "%s=off.\n", DIV_ROUND_UP(locked + need, KiB),
                      PROP_PIN_RAM);
    return false;
}

/* Bytes still to be allocated, by host page size */
static void add_need(GHashTable *needs, const KVMPrefaultBlock *block)
{
    uint64_t need = block->size -
                    resident_bytes(block->host, block->size);
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
    g_autoptr(GArray) blocks = kvm_prefault_blocks();
    g_autoptr(GHashTable) needs = g_hash_table_new_full(g_int64_hash,
                                                        g_int64_equal,
                                                        g_free, g_free);
    GHashTableIter iter;
    gpointer page_size, need;
    unsigned i;

    for (i = 0; i < blocks->len; i++) {
        add_need(needs, &g_array_index(blocks, KVMPrefaultBlock, i));
    }
    g_hash_table_iter_init(&iter, needs);
    while (g_hash_table_iter_next(&iter, &page_size, &need)) {
        if (!memory_available(*(uint64_t *)page_size,
                                           *(uint64_t *)need, errp)) {
            return false;
        }
    }
    return true;
}

bool kvm_prefault_check_memlock(Error **errp)
{
    g_autoptr(GArray) blocks = kvm_prefault_blocks();
    bool pin = kvm_prefault.pin == KVM_PIN_RAM_LONGTERM;
    uint64_t lock_bytes = 0, pin_bytes = 0;
    unsigned i;

    for (i = 0; i < blocks->len; i++) {
        KVMPrefaultBlock *block = &g_array_index(blocks, KVMPrefaultBlock,
                                                 i);

        /* mlock(), not io_uring, leaves huge pages of hugetlbfs out */
        lock_bytes += kvm_prefault_block_is_hugetlb(block) ? 0 : block->size;
        pin_bytes += pin ? block->size : 0;
    }
    return memlock_allows("VmLck", lock_bytes, errp) &&
           memlock_allows("VmPin", pin_bytes, errp);
}

bool kvm_prefault_check_pin(Error **errp)
{
    g_autoptr(GArray) blocks = kvm_prefault_blocks();
    unsigned i;

    for (i = 0; i < blocks->len; i++) {
        KVMPrefaultBlock *block = &g_array_index(blocks, KVMPrefaultBlock,
                                                 i);

        if (!kvm_prefault_pin_possible(&block->backend->mr,
                                       block->unit, errp)) {
            return false;
        }
    }
    if (!kvm_prefault_pin_probe(errp)) {
        return false;
    }
    for (i = 0; i < blocks->len; i++) {
        KVMPrefaultBlock *block = &g_array_index(blocks, KVMPrefaultBlock,
                                                 i);

        kvm_prefault_pin_advise(&block->backend->mr);
    }
    return true;
}

bool kvm_prefault_host_placed(void)
{
    g_autoptr(GArray) blocks = kvm_prefault_blocks();
    unsigned i;

    for (i = 0; i < blocks->len; i++) {
        if (g_array_index(blocks, KVMPrefaultBlock,
                          i).backend->prealloc_context) {
            return true;
        }
    }
    /* KVM would allocate what is unplugged as well */
    return kvm_prefault_blocks_managed();
}

bool kvm_prefault_host_admits(MemoryRegion *mr, uint64_t offset,
                              uint64_t size, Error **errp)
{
    KVMPrefaultBlock block = kvm_prefault_block(mr, offset, size);
    bool lock = kvm_prefault.pin != KVM_PIN_RAM_OFF &&
                !kvm_prefault_block_is_hugetlb(&block);

    bool pin = kvm_prefault.pin == KVM_PIN_RAM_LONGTERM;

    return memory_available(block.page_size, size, errp) &&
           (!lock || memlock_allows("VmLck", size, errp)) &&
           (!pin || (kvm_prefault_pin_possible(mr, block.unit, errp) &&
                     memlock_allows("VmPin", size, errp)));
}
