/*
 * KVM pre-fault: allocate host pages in several threads, or in fewer
 *
 * QEMU's own threads abort() when they cannot be created, which is no way to
 * treat a guest that may run for months and then meets a limit of processes.
 * Ours are fewer in that case.
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
#include "kvm-prefault-populate.h"

/* As qemu_prealloc_mem() has it: more threads get in each other's way */
#define THREADS_MAX 16
#define BYTES_PER_THREAD_MIN (64 * MiB)

/* Interrupted calls that are repeated; nobody sends signals to this thread */
#define RETRIES 100

typedef struct Part {
    pthread_t thread;
    bool threaded;
    char *addr;
    uint64_t size;
    int ret;
} Part;

/* Returns: 0 or -errno.  What an interrupted call has done is done. */
static int populate_write(char *addr, uint64_t size)
{
    int tries = 0;

    while (qemu_madvise(addr, size, QEMU_MADV_POPULATE_WRITE) < 0) {
        if ((errno != EINTR && errno != EAGAIN) || ++tries >= RETRIES) {
            return -errno;
        }
    }
    return 0;
}

static void *part_fn(void *opaque)
{
    Part *part = opaque;

    part->ret = populate_write(part->addr, part->size);
    return NULL;
}

int kvm_prefault_thread_create(pthread_t *thread, const char *name,
                               void *(*fn)(void *), void *opaque)
{
    sigset_t set, oldset;
    int ret;

    /* leave signals to the main loop, as qemu_thread_create() does */
    sigfillset(&set);
    sigdelset(&set, SIGSEGV);
    sigdelset(&set, SIGFPE);
    sigdelset(&set, SIGILL);
    pthread_sigmask(SIG_SETMASK, &set, &oldset);
    ret = pthread_create(thread, NULL, fn, opaque);
    pthread_sigmask(SIG_SETMASK, &oldset, NULL);
    if (ret == 0) {
        pthread_setname_np(*thread, name);
    }
    return -ret;
}

static unsigned pick_threads(uint64_t size, unsigned threads_max)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    unsigned threads = MIN(threads_max, THREADS_MAX);

    threads = MIN(threads, cpus > 0 ? cpus : 1);
    return MAX(1, MIN(threads, size / BYTES_PER_THREAD_MIN));
}

/* The last part is for the calling thread, and what has no thread */
static int run_parts(Part *parts, unsigned count)
{
    unsigned i;
    int ret = 0;

    for (i = 0; i < count - 1; i++) {
        parts[i].threaded = kvm_prefault_thread_create(&parts[i].thread,
                                                       "kvm-prefault",
                                                       part_fn,
                                                       &parts[i]) == 0;
    }
    for (i = 0; i < count; i++) {
        if (!parts[i].threaded) {
            part_fn(&parts[i]);
        }
    }
    for (i = 0; i < count; i++) {
        if (parts[i].threaded) {
            pthread_join(parts[i].thread, NULL);
        }
        ret = ret ?: parts[i].ret;
    }
    return ret;
}

/* The kernel, or this kind of memory, does not have MADV_POPULATE_WRITE */
static bool must_touch(char *addr, uint64_t page_size)
{
    return qemu_madvise(addr, page_size, QEMU_MADV_POPULATE_WRITE) < 0 &&
           errno == EINVAL;
}

bool kvm_prefault_populate(const KVMPrefaultMemory *m, Error **errp)
{
    unsigned count = pick_threads(m->size, m->threads), i;
    uint64_t each = QEMU_ALIGN_UP(m->size / count, m->page_size), at = 0;
    g_autofree Part *parts = NULL;
    int ret;

    if (m->context || must_touch(m->addr, m->page_size)) {
        return qemu_prealloc_mem(m->fd, m->addr, m->size, m->threads,
                                 m->context, false, errp);
    }
    parts = g_new0(Part, count);
    for (i = 0; i < count; i++) {
        parts[i].addr = m->addr + at;
        parts[i].size = i < count - 1 ? each : m->size - at;
        at += each;
    }
    ret = run_parts(parts, count);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "allocating 0x%" PRIx64 " bytes of host "
                         "memory failed", m->size);
    }
    return ret == 0;
}
