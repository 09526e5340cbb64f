/*
 * LD_PRELOAD: what one would try first, KVM_PRE_FAULT_MEMORY on each slot
 *
 * With NAIVE_PREFAULT=1 the first KVM_RUN is preceded by the ioctl for every
 * memory slot that exists then, and that is all: nothing for the slots that
 * firmware makes later, nothing about pages that the host has not populated, no
 * quirk disabled.
 *
 * FIRST_RUN names a file that is told how that went, and at what time of
 * CLOCK_MONOTONIC the guest gets its first instruction; without NAIVE_PREFAULT
 * only the latter.
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "kvm-uapi.h"

#define MAX_SLOTS 512
#define ID_MASK   0xffff

static struct {
    uint64_t gpa, size;
} slots[MAX_SLOTS];

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool has_run;

static double now_us(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1e6 + ts.tv_nsec / 1e3;
}

/* The start of both structs is the same; size 0 deletes the slot. */
static void remember(const struct kvm_userspace_memory_region *region)
{
    uint32_t id = region->slot & ID_MASK;

    /* The other address space, SMM's, can only be populated in SMM */
    if (region->slot == id && id < MAX_SLOTS) {
        slots[id].gpa = region->guest_phys_addr;
        slots[id].size = region->memory_size;
    }
}

static int pre_fault_slot(int vcpu, uint64_t gpa, uint64_t size)
{
    struct pre_fault range = { .gpa = gpa, .size = size };
    long ret;

    do {
        ret = syscall(SYS_ioctl, vcpu, PRE_FAULT_MEMORY, &range);
    } while (range.size && (ret == 0 || errno == EINTR || errno == EAGAIN));
    return ret ? errno : 0;
}

static void pre_fault_all(int vcpu, FILE *report)
{
    double start = now_us();
    uint64_t bytes = 0;
    unsigned i, count = 0;

    for (i = 0; i < MAX_SLOTS; i++) {
        int error = slots[i].size ? pre_fault_slot(vcpu, slots[i].gpa,
                                                   slots[i].size) : 0;

        if (error) {
            fprintf(report, "failed slot=%u error=%d\n", i, error);
        } else if (slots[i].size) {
            count++;
            bytes += slots[i].size;
        }
    }
    fprintf(report, "prefaulted slots=%u bytes=%llu us=%.0f\n", count,
            (unsigned long long)bytes, now_us() - start);
}

static void before_first_run(int vcpu)
{
    const char *path = getenv("FIRST_RUN"), *naive = getenv("NAIVE_PREFAULT");
    FILE *report = path ? fopen(path, "w") : NULL;

    if (!report) {
        fprintf(stderr, "naive-prefault: FIRST_RUN must name a file\n");
        abort();
    }
    if (naive && !strcmp(naive, "1")) {
        pre_fault_all(vcpu, report);
    }
    fprintf(report, "first-run us=%.0f\n", now_us());
    fclose(report);
}

/* vCPUs that come meanwhile wait. */
static void about_to_run(int vcpu)
{
    pthread_mutex_lock(&lock);
    if (!has_run) {
        before_first_run(vcpu);
    }
    __atomic_store_n(&has_run, true, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&lock);
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list ap;
    void *arg;
    int ret;

    va_start(ap, request);
    arg = va_arg(ap, void *);
    va_end(ap);
    if (request == KVM_RUN && !__atomic_load_n(&has_run, __ATOMIC_ACQUIRE)) {
        about_to_run(fd);
    }
    ret = syscall(SYS_ioctl, fd, request, arg);
    if (ret == 0 && ((uint32_t)request == KVM_SET_USER_MEMORY_REGION ||
                     (uint32_t)request == SET_USER_MEMORY_REGION2)) {
        remember(arg);
    }
    return ret;
}
