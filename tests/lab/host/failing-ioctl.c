/*
 * LD_PRELOAD: KVM_PRE_FAULT_MEMORY fails half-way, on demand
 *
 * While the file named by FAIL_PRE_FAULT exists, the ioctl ends with EIO at
 * FAIL_FROM: what lies below it is mapped, so that a pass fails in the middle,
 * as it does when KVM runs out of memory.  Every other ioctl passes through.
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FAIL_FROM (128ULL << 20)

/* Linux 6.11's uapi; the build host's headers may be older */
struct pre_fault {
    uint64_t gpa, size, flags, padding[5];
};
#define PRE_FAULT_MEMORY _IOWR(0xae, 0xd5, struct pre_fault)

static int failing(void)
{
    const char *path = getenv("FAIL_PRE_FAULT");

    return path && access(path, F_OK) == 0;
}

/* Returns what the ioctl does; range->size is what remains, as KVM leaves it */
static int pre_fault_below(int fd, struct pre_fault *range)
{
    uint64_t end = range->gpa + range->size;
    uint64_t beyond = end > FAIL_FROM ? end - FAIL_FROM : 0;
    int ret;

    if (range->gpa >= FAIL_FROM) {
        errno = EIO;
        return -1;
    }
    range->size -= beyond;
    ret = syscall(SYS_ioctl, fd, PRE_FAULT_MEMORY, range);
    range->size += beyond;
    return ret;
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list ap;
    void *arg;

    va_start(ap, request);
    arg = va_arg(ap, void *);
    va_end(ap);
    if ((uint32_t)request == PRE_FAULT_MEMORY && failing()) {
        return pre_fault_below(fd, arg);
    }
    return syscall(SYS_ioctl, fd, request, arg);
}
