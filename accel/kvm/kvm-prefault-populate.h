/*
 * KVM pre-fault: allocate host pages in several threads, or in fewer
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef ACCEL_KVM_PREFAULT_POPULATE_H
#define ACCEL_KVM_PREFAULT_POPULATE_H

#include "qemu/thread-context.h"

/* A piece of a memory backend */
typedef struct KVMPrefaultMemory {
    int fd;                     /* -1: anonymous */
    char *addr;
    uint64_t size;
    uint64_t page_size;
    unsigned threads;
    ThreadContext *context;     /* whose threads have to do it, or NULL */
    /* told of each page that has a memory error, and is left out */
    void (*poisoned)(char *addr, uint64_t size, void *opaque);
    void *opaque;
} KVMPrefaultMemory;

/**
 * kvm_prefault_populate: allocate the pages of @m for writing
 *
 * In up to @m->threads threads; in fewer where the host allows no more.
 * Context: any thread.
 *
 * Returns: false with @errp set if some could not be allocated, other than those
 * that have a memory error.
 */
bool kvm_prefault_populate(const KVMPrefaultMemory *m, Error **errp);

/**
 * kvm_prefault_thread_create: as qemu_thread_create(), but it may fail
 * @thread: to be joined by pthread_join()
 *
 * Returns: 0 or -errno.
 */
int kvm_prefault_thread_create(pthread_t *thread, const char *name,
                               void *(*fn)(void *), void *opaque);

#endif
