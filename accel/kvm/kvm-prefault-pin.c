/*
 * KVM pre-fault: guest RAM that cannot be moved ('pin-ram=longterm')
 *
 * The kernel pins memory for good (FOLL_LONGTERM) for whoever registers it
 * as fixed buffers of an io_uring.  Each memory backend gets a ring of its
 * own on which no I/O is ever done; closing it is all that it takes to let
 * go.
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/kvm.h>
#include "qemu/error-report.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "exec/ramblock.h"
#include "system/hostmem.h"
#include "kvm-prefault.h"
#include "kvm-prefault-chores.h"
#include "kvm-prefault-host.h"
#include "kvm-prefault-pin.h"
#include "trace.h"

#define PIN_LONGTERM "'" PROP_PIN_RAM "=longterm'"

#ifdef CONFIG_LINUX_IO_URING

#include <liburing.h>
#include <linux/magic.h>
#include <sys/vfs.h>

/* The kernel's limits (io_sqe_buffer_register(), IORING_MAX_REG_BUFFERS) */
#define BUFFER_BYTES (1 * GiB)
#define BUFFERS_MAX 16384

/* Unpinned at once, some milliseconds */
#define CLOSE_NOW_MAX (256 * MiB)

/* One memory backend; changed without the BQL by the thread that pins */
typedef struct PinnedBlock {
    KVMPrefaultChore chore;
    MemoryRegion *mr;
    char *name;
    char *host;
    uint64_t size;
    uint64_t pinned;
    bool closed;
    struct io_uring ring;
} PinnedBlock;

/*
 * Used by the thread that works on host pages while there is one, else by the
 * main thread, which has to join it first: no lock is needed.
 */
static GPtrArray *blocks;

static uint64_t pinned_total;

static void append_longterm_hint(Error **errp)
{
    error_append_hint(errp, "Use " PROP_PIN_RAM "=mlock to have RAM locked, "
                      "but not pinned.\n");
}

/* @name is a path below /proc/sys; -1 if it is not there */
static int sysctl_value(const char *name)
{
    g_autofree char *path = g_strdup_printf("/proc/sys/%s", name);
    g_autofree char *text = NULL;

    return g_file_get_contents(path, &text, NULL, NULL) ? atoi(text) : -1;
}

static void no_io_uring(int err, Error **errp)
{
    int disabled = sysctl_value("kernel/io_uring_disabled");

    if (err == EPERM && disabled > 0) {
        error_setg(errp, PIN_LONGTERM " needs io_uring, which sysctl "
                   "kernel.io_uring_disabled=%d forbids", disabled);
        error_append_hint(errp, "Set it to 0%s.\n", disabled == 1 ?
                          ", or have QEMU run in the group of sysctl "
                          "kernel.io_uring_group" : "");
    } else if (err == EPERM || err == EACCES || err == ENOSYS) {
        error_setg_errno(errp, err, PIN_LONGTERM " needs io_uring, but %s",
                         err == ENOSYS ? "this kernel has none, or a seccomp "
                         "filter hides it" : "a security policy (seccomp "
                         "filter, SELinux) forbids it");
        error_append_hint(errp, "Let the filter that QEMU is started under "
                          "(container, systemd SystemCallFilter=) pass "
                          "io_uring_setup and io_uring_register; QEMU's own "
                          "-sandbox does.\n");
    } else {
        error_setg_errno(errp, err, PIN_LONGTERM " could not make an "
                         "io_uring");
    }
    append_longterm_hint(errp);
}

/* A ring with room for @buffers, none of which is there yet */
bool kvm_prefault_ring_open(struct io_uring *ring, unsigned buffers,
                            Error **errp)
{
    int ret = io_uring_queue_init(1, ring, 0);

    if (ret < 0) {
        no_io_uring(-ret, errp);
        return false;
    }
    ret = io_uring_register_buffers_sparse(ring, buffers);
    if (ret == 0) {
        return true;
    }
    io_uring_queue_exit(ring);
    if (ret != -EINVAL) {
        no_io_uring(-ret, errp);
        return false;
    }
    error_setg(errp, PIN_LONGTERM " needs an io_uring whose buffers can be "
               "registered one by one, which this kernel does not have");
    error_append_hint(errp, "It takes Linux 5.19 or later.\n");
    append_longterm_hint(errp);
    return false;
}

/* Closing alone lets go as well, but at some time later */
void kvm_prefault_ring_close(struct io_uring *ring)
{
    io_uring_unregister_buffers(ring);
    io_uring_queue_exit(ring);
}

bool kvm_prefault_pin_probe(Error **errp)
{
    struct io_uring ring;

    if (!kvm_prefault_ring_open(&ring, 1, errp)) {
        return false;
    }
    kvm_prefault_ring_close(&ring);
    return true;
}

/* io_uring takes no other files: their pages have to be written back */
static bool is_memory_fs(int fd)
{
    struct statfs fs;

    return fstatfs(fd, &fs) < 0 || fs.f_type == TMPFS_MAGIC ||
           fs.f_type == HUGETLBFS_MAGIC;
}

bool kvm_prefault_pin_possible(MemoryRegion *mr, uint64_t unit,
                               Error **errp)
{
    uint64_t size = memory_region_size(mr);
    uint64_t buffer = unit ? unit : BUFFER_BYTES;

    if (mr->ram_block->fd >= 0 && !is_memory_fs(mr->ram_block->fd)) {
        error_setg(errp, PIN_LONGTERM " cannot pin memory backend '%s': its "
                   "file is neither on tmpfs nor on hugetlbfs",
                   memory_region_name(mr));
        error_append_hint(errp, "Use memory-backend-memfd, or a 'mem-path' "
                          "on one of the two.\n");
        append_longterm_hint(errp);
        return false;
    }
    if (size > BUFFERS_MAX * buffer) {
        error_setg(errp, PIN_LONGTERM " can pin at most %" PRIu64 " GiB (%d "
                   "buffers of %" PRIu64 " MiB) per memory backend, but '%s' "
                   "has %" PRIu64 " GiB", BUFFERS_MAX * buffer / GiB,
                   BUFFERS_MAX, buffer / MiB, memory_region_name(mr),
                   size / GiB);
        error_append_hint(errp, unit ? "Raise 'block-size' of the virtio-mem "
                          "device.\n" : "Use more than one memory backend "
                          "(-numa node,memdev=...).\n");
        return false;
    }
    return true;
}

/*
 * Compaction knows without trying that private pages are pinned.  Others it
 * unmaps first, and maps again when it cannot move them, but it leaves locked
 * memory out if told to.  Huge pages it does not move.
 */
void kvm_prefault_pin_advise(MemoryRegion *mr)
{
    if (mr->ram_block->fd < 0 ||
        qemu_ram_pagesize(mr->ram_block) > qemu_real_host_page_size() ||
        sysctl_value("vm/compact_unevictable_allowed") != 1) {
        return;
    }
    kvm_prefault_reason(kvm_prefault.host_reasons, PIN_LONGTERM ": compaction "
                        "unmaps pages of '%s' all the same, because it is "
                        "shared memory", memory_region_name(mr));
    warn_report(PIN_LONGTERM ": compaction unmaps pages of '%s' all the same, "
                "because it is shared memory (set sysctl "
                "vm.compact_unevictable_allowed=0, or use huge pages)",
                memory_region_name(mr));
}

/* Applied last, the policy decides about no page */
void kvm_prefault_pin_policy(MemoryRegion *mr)
{
    HostMemoryBackend *backend = MEMORY_BACKEND(mr->owner);

    if (mr->ram_block->fd < 0 && backend->policy == HOST_MEM_POLICY_DEFAULT) {
        kvm_prefault_no_numa_balancing(mr);
    }
}

void kvm_prefault_pin_count(int64_t bytes)
{
    qatomic_add(&pinned_total, bytes);
}

void kvm_prefault_pin_trace(MemoryRegion *mr, uint64_t offset, uint64_t size,
                            int ret)
{
    trace_kvm_prefault_pin(memory_region_name(mr), offset, size, ret);
}

static void block_close(PinnedBlock *block)
{
    kvm_prefault_ring_close(&block->ring);
    kvm_prefault_pin_count(-block->pinned);
    trace_kvm_prefault_unpin(block->name, block->pinned);
    block->closed = true;
}

static void block_free(PinnedBlock *block)
{
    if (!block->closed) {
        block_close(block);
    }
    g_free(block->name);
    g_free(block);
}

static bool close_step(KVMPrefaultChore *chore)
{
    block_close(container_of(chore, PinnedBlock, chore));
    return false;
}

static void close_end(KVMPrefaultChore *chore)
{
    block_free(container_of(chore, PinnedBlock, chore));
}

/* Unpinning a large one takes long, and the caller has the BQL */
static void block_free_later(PinnedBlock *block)
{
    block->chore = (KVMPrefaultChore) {
        .step = close_step, .end = close_end, .owner = block->mr,
    };
    kvm_prefault_chore_add(&block->chore);
}

static PinnedBlock *block_new(MemoryRegion *mr, char *host, uint64_t size,
                              Error **errp)
{
    PinnedBlock *block = g_new0(PinnedBlock, 1);

    block->mr = mr;
    block->name = g_strdup(memory_region_name(mr));
    block->host = host;
    block->size = size;
    if (!kvm_prefault_ring_open(&block->ring,
                                DIV_ROUND_UP(block->size, BUFFER_BYTES),
                                errp)) {
        g_free(block->name);
        g_free(block);
        return NULL;
    }
    kvm_prefault_pin_policy(mr);
    g_ptr_array_add(blocks, block);
    return block;
}

/* What has been pinned of @mr, unless it is another size or place by now */
static PinnedBlock *block_find(MemoryRegion *mr, char *host, uint64_t size)
{
    unsigned i;

    for (i = 0; i < blocks->len; i++) {
        PinnedBlock *block = g_ptr_array_index(blocks, i);

        if (block->mr != mr) {
            continue;
        }
        if (block->host == host && block->size == size) {
            return block;
        }
        g_ptr_array_remove_index_fast(blocks, i);
        block_free(block);
        break;
    }
    return NULL;
}

void kvm_prefault_pin_failed(MemoryRegion *mr, uint64_t offset, int err,
                             Error **errp)
{
    uint64_t limit;

    error_setg_errno(errp, err, PIN_LONGTERM ": pinning memory backend '%s' "
                     "failed at byte 0x%" PRIx64 " of 0x%" PRIx64,
                     memory_region_name(mr), offset, memory_region_size(mr));
    if (err == ENOMEM && kvm_prefault_memlock_limit(&limit)) {
        error_prepend(errp, "the limit of %" PRIu64 " bytes of locked memory "
                      "holds for io_uring buffers of all processes of a user "
                      "together: ", limit);
    }
}

/* Pin the next piece.  Returns: 0 or -errno. */
static int pin_step(PinnedBlock *block)
{
    struct iovec iov = {
        .iov_base = block->host + block->pinned,
        .iov_len = MIN(BUFFER_BYTES, block->size - block->pinned),
    };
    unsigned index = block->pinned / BUFFER_BYTES;
    __u64 tag = 0;
    int ret = io_uring_register_buffers_update_tag(&block->ring, index, &iov,
                                                   &tag, 1);

    trace_kvm_prefault_pin(block->name, block->pinned, iov.iov_len, ret);
    if (ret != 1) {
        return ret < 0 ? ret : -EIO;
    }
    block->pinned += iov.iov_len;
    kvm_prefault_pin_count(iov.iov_len);
    return 0;
}

bool kvm_prefault_pin_block(MemoryRegion *mr, char *host, uint64_t size,
                            const bool *cancelled, Error **errp)
{
    PinnedBlock *block;
    int ret = 0;

    if (!blocks) {
        blocks = g_ptr_array_new();
    }
    block = block_find(mr, host, size) ?: block_new(mr, host, size, errp);
    if (!block) {
        return false;
    }
    while (ret == 0 && block->pinned < block->size &&
           !qatomic_read(cancelled)) {
        ret = pin_step(block);
    }
    if (ret < 0) {
        kvm_prefault_pin_failed(mr, block->pinned, -ret, errp);
        g_ptr_array_remove_fast(blocks, block);
        block_free(block);
    }
    return ret == 0;
}

void kvm_prefault_pin_release(bool (*used)(MemoryRegion *mr))
{
    unsigned i;

    kvm_prefault_pin_parts_release(used);
    for (i = blocks ? blocks->len : 0; i-- > 0; ) {
        PinnedBlock *block = g_ptr_array_index(blocks, i);

        if (used && used(block->mr)) {
            continue;
        }
        g_ptr_array_remove_index_fast(blocks, i);
        if (used && block->pinned > CLOSE_NOW_MAX) {
            block_free_later(block);
        } else {
            block_free(block);
        }
    }
}

uint64_t kvm_prefault_pin_bytes(void)
{
    return qatomic_read(&pinned_total);
}

#else /* !CONFIG_LINUX_IO_URING */

bool kvm_prefault_pin_probe(Error **errp)
{
    error_setg(errp, PIN_LONGTERM " needs io_uring, but this QEMU was built "
               "without it");
    error_append_hint(errp, "Build it with --enable-linux-io-uring, or use "
                      PROP_PIN_RAM "=mlock.\n");
    return false;
}

bool kvm_prefault_pin_possible(MemoryRegion *mr, uint64_t unit,
                               Error **errp)
{
    return kvm_prefault_pin_probe(errp);
}

void kvm_prefault_pin_advise(MemoryRegion *mr)
{
}

bool kvm_prefault_pin_block(MemoryRegion *mr, char *host, uint64_t size,
                            const bool *cancelled, Error **errp)
{
    return kvm_prefault_pin_probe(errp);
}

void kvm_prefault_pin_release(bool (*used)(MemoryRegion *mr))
{
}

uint64_t kvm_prefault_pin_bytes(void)
{
    return 0;
}

#endif
