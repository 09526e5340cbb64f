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
#include <sched.h>
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

/* What a thread takes at a time: none waits long for one that is slower */
#define CHUNK_BYTES (4 * MiB)

typedef struct Work {
    char *addr;
    uint64_t size;
    uint64_t chunk;
    /* where the next chunk begins; atomic */
    uint64_t next;
    /* of the first chunk that failed; atomic */
    int ret;
} Work;

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

static void *work_fn(void *opaque)
{
    Work *work = opaque;
    uint64_t at;
    int ret;

    while (!qatomic_read(&work->ret) &&
           (at = qatomic_fetch_add(&work->next, work->chunk)) < work->size) {
        ret = populate_write(work->addr + at,
                             MIN(work->chunk, work->size - at));
        if (ret < 0) {
            qatomic_cmpxchg(&work->ret, 0, ret);
        }
    }
    return NULL;
}

/*
 * The caller may be a vCPU's thread (a guest that ejects a DIMM, a nested event
 * loop), whose CPU the work would then share.
 */
static void use_main_threads_cpus(pthread_attr_t *attr)
{
    cpu_set_t set;

    if (sched_getaffinity(getpid(), sizeof(set), &set) == 0) {
        pthread_attr_setaffinity_np(attr, sizeof(set), &set);
    }
}

int kvm_prefault_thread_create(pthread_t *thread, const char *name,
                               void *(*fn)(void *), void *opaque)
{
    sigset_t set, oldset;
    pthread_attr_t attr;
    int ret;

    pthread_attr_init(&attr);
    use_main_threads_cpus(&attr);
    /* leave signals to the main loop, as qemu_thread_create() does */
    sigfillset(&set);
    sigdelset(&set, SIGSEGV);
    sigdelset(&set, SIGFPE);
    sigdelset(&set, SIGILL);
    pthread_sigmask(SIG_SETMASK, &set, &oldset);
    ret = pthread_create(thread, &attr, fn, opaque);
    if (ret == EPERM || ret == EINVAL) {
        /* CPUs that may not be chosen: -sandbox resourcecontrol=deny */
        ret = pthread_create(thread, NULL, fn, opaque);
    }
    pthread_sigmask(SIG_SETMASK, &oldset, NULL);
    pthread_attr_destroy(&attr);
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

/* The calling thread is one of them, and all there is where none can be had */
static int run_threads(Work *work, unsigned count)
{
    pthread_t threads[THREADS_MAX];
    unsigned started = 0, i;

    while (started + 1 < count &&
           kvm_prefault_thread_create(&threads[started], "kvm-prefault",
                                      work_fn, work) == 0) {
        started++;
    }
    work_fn(work);
    for (i = 0; i < started; i++) {
        pthread_join(threads[i], NULL);
    }
    return work->ret;
}

/* The kernel, or this kind of memory, does not have MADV_POPULATE_WRITE */
static bool must_touch(char *addr, uint64_t page_size)
{
    return qemu_madvise(addr, page_size, QEMU_MADV_POPULATE_WRITE) < 0 &&
           errno == EINVAL;
}

/*
 * Half by half, until what is left is a page that cannot be had.  Pages that
 * are there cost little.  Returns: 0 or -errno.
 */
static int populate_around(const KVMPrefaultMemory *m, char *addr,
                           uint64_t size)
{
    int ret = populate_write(addr, size);
    uint64_t half;

    if (ret != -EHWPOISON) {
        return ret;
    }
    if (size <= m->page_size) {
        m->poisoned(addr, size, m->opaque);
        return 0;
    }
    half = QEMU_ALIGN_UP(size / 2, m->page_size);
    return populate_around(m, addr, half) ?:
           populate_around(m, addr + half, size - half);
}

static bool populate_all(const KVMPrefaultMemory *m, Error **errp)
{
    Work work = {
        .addr = m->addr,
        .size = m->size,
        .chunk = MAX(CHUNK_BYTES, m->page_size),
    };
    int ret;

    if (m->context || must_touch(m->addr, m->page_size)) {
        return qemu_prealloc_mem(m->fd, m->addr, m->size, m->threads,
                                 m->context, false, errp);
    }
    ret = run_threads(&work, pick_threads(m->size, m->threads));
    if (ret < 0) {
        error_setg_errno(errp, -ret, "allocating 0x%" PRIx64 " bytes of host "
                         "memory failed", m->size);
    }
    return ret == 0;
}

bool kvm_prefault_populate(const KVMPrefaultMemory *m, Error **errp)
{
    Error *err = NULL;

    if (populate_all(m, &err)) {
        return true;
    }
    /* threads of QEMU's do not tell what it was: see whether it is that */
    if (populate_around(m, m->addr, m->size) == 0) {
        error_free(err);
        return true;
    }
    error_propagate(errp, err);
    return false;
}
