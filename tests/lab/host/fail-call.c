/*
 * LD_PRELOAD: one kind of call fails, as a plan says, while the plan is armed
 *
 * FAIL_PLAN names the file with the plan (fail-call.h), FAIL_FUNCTIONS one with
 * "START END NAME" (hexadecimal offsets) of each function of ours: a call is ours
 * if one of them is on the stack.  QEMU makes most of the calls as well, and what
 * becomes of it then is not the question.
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <unwind.h>

#include "fail-call.h"
#include "fail-nested.h"
#include "kvm-uapi.h"

#define POPULATE_WRITE 23
#define MAX_FUNCTIONS  2048
#define PAGE           4096ULL

static const struct {
    uint32_t request;
    const char *name;
} ioctls[] = {
    { PRE_FAULT_MEMORY, "KVM_PRE_FAULT_MEMORY" },
    { KVM_SET_USER_MEMORY_REGION, "KVM_SET_USER_MEMORY_REGION" },
    { SET_USER_MEMORY_REGION2, "KVM_SET_USER_MEMORY_REGION" },
    { KVM_ENABLE_CAP, "KVM_ENABLE_CAP" },
    { KVM_CHECK_EXTENSION, "KVM_CHECK_EXTENSION" },
    { KVM_GET_STATS_FD, "KVM_GET_STATS_FD" },
    { KVM_GET_MP_STATE, "KVM_GET_MP_STATE" },
    { KVM_SET_MP_STATE, "KVM_SET_MP_STATE" },
    { KVM_GET_VCPU_EVENTS, "KVM_GET_VCPU_EVENTS" },
    { KVM_SET_VCPU_EVENTS, "KVM_SET_VCPU_EVENTS" },
    { KVM_GET_REGS, "KVM_GET_REGS" },
    { KVM_SET_REGS, "KVM_SET_REGS" },
    { KVM_GET_SREGS2, "KVM_GET_SREGS2" },
    { KVM_SET_SREGS2, "KVM_SET_SREGS2" },
    { KVM_GET_DEBUGREGS, "KVM_GET_DEBUGREGS" },
    { KVM_SET_DEBUGREGS, "KVM_SET_DEBUGREGS" },
    { KVM_GET_LAPIC, "KVM_GET_LAPIC" },
    { KVM_SET_LAPIC, "KVM_SET_LAPIC" },
    { KVM_GET_NESTED_STATE, "KVM_GET_NESTED_STATE" },
    { KVM_RUN, "KVM_RUN" },
};

static struct plan *plan;
static struct {
    uintptr_t start, end;
    char name[40];
} functions[MAX_FUNCTIONS];
static unsigned nr_functions;

/* Set in a thread that is looking at its stack, which may call mmap() */
static __thread int looking;

static int program_base(struct dl_phdr_info *info, size_t size, void *base)
{
    /* the program comes first */
    *(uintptr_t *)base = info->dlpi_addr;
    return 1;
}

static void read_functions(const char *path)
{
    FILE *file = path ? fopen(path, "r") : NULL;
    uintptr_t base = 0;
    unsigned long start, end;

    if (!file) {
        return;
    }
    dl_iterate_phdr(program_base, &base);
    while (nr_functions < MAX_FUNCTIONS &&
           fscanf(file, "%lx %lx %39s", &start, &end,
                  functions[nr_functions].name) == 3) {
        functions[nr_functions].start = base + start;
        functions[nr_functions++].end = base + end;
    }
    fclose(file);
}

static void __attribute__((constructor)) open_plan(void)
{
    const char *path = getenv("FAIL_PLAN");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *map;

    if (fd < 0) {
        return;
    }
    map = (void *)syscall(SYS_mmap, NULL, sizeof(*plan),
                          PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (map != MAP_FAILED) {
        read_functions(getenv("FAIL_FUNCTIONS"));
        plan = map;
    }
}

static _Unwind_Reason_Code look_at_frame(struct _Unwind_Context *context,
                                         void *found)
{
    /* return addresses: those behind a function's last call may be beyond it */
    uintptr_t at = _Unwind_GetIP(context) - 1;
    unsigned i;

    for (i = 0; i < nr_functions; i++) {
        if (at >= functions[i].start && at < functions[i].end &&
            (!plan->within[0] ||
             strcmp(plan->within, functions[i].name) == 0)) {
            *(int *)found = 1;
            return _URC_END_OF_STACK;
        }
    }
    return _URC_NO_REASON;
}

static int called_by_us(void)
{
    int found = 0;

    looking = 1;
    _Unwind_Backtrace(look_at_frame, &found);
    looking = 0;
    return found;
}

/*
 * A signal ends the wait of a call that it would end in KVM as well: QEMU's
 * handler has asked for an immediate exit by then, which the call is made to see.
 */
static void wait_late(int ends_by_signal)
{
    struct timespec left = { plan->late / 1000, plan->late % 1000 * 1000000 };

    while (nanosleep(&left, &left) && errno == EINTR && !ends_by_signal) {
    }
}

/*
 * Whether the call of this name that is being made is one that fails; one that
 * is to be late has been waited for and succeeds.
 */
static int must_fail(const char *name)
{
    unsigned number;

    if (!plan || looking || !atomic_load(&plan->armed) ||
        strcmp(plan->call, name) != 0 ||
        !(plan->anyone || called_by_us())) {
        return 0;
    }
    number = atomic_fetch_add(&plan->calls, 1) + 1;
    if (number < plan->first || number - plan->first >= plan->count) {
        return 0;
    }
    atomic_fetch_add(&plan->failed, 1);
    if (plan->error != LATE) {
        return 1;
    }
    wait_late(strcmp(name, "KVM_RUN") == 0 ||
              strcmp(name, "KVM_PRE_FAULT_MEMORY") == 0);
    return 0;
}

static int fails(void)
{
    wait_late(0);
    errno = plan->error;
    return -1;
}

/* What is left of the range is in @range->size, as KVM leaves it */
static int pre_fault_some(int fd, struct pre_fault *range)
{
    uint64_t end = range->gpa + range->size;
    uint64_t stop = range->gpa + range->size / 2 / PAGE * PAGE;
    int ret;

    if (plan->error) {
        stop = plan->from < end ? plan->from : end;
    }
    if (plan->error && range->gpa >= stop) {
        return fails();
    }
    if (stop == range->gpa) {
        /* there is no half of a page */
        stop = end;
    }
    range->size -= end - stop;
    ret = syscall(SYS_ioctl, fd, PRE_FAULT_MEMORY, range);
    range->size += end - stop;
    return ret;
}

static int is_nested(int32_t error)
{
    return error == VMX_OPERATION || error == NESTED_GUEST;
}

/* What becomes of a call that must fail */
static int fail_ioctl(int fd, uint32_t request, void *arg)
{
    if (request == PRE_FAULT_MEMORY) {
        return pre_fault_some(fd, arg);
    }
    if (request == KVM_GET_NESTED_STATE && is_nested(plan->error)) {
        return nested_tell(fd, arg, plan->error == NESTED_GUEST);
    }
    return fails();
}

/* Returns: whether KVM must not get this call */
static int account_nested(int fd, uint32_t request, void *arg)
{
    int pretends = plan && atomic_load(&plan->armed) && is_nested(plan->error);

    if (request == KVM_SET_NESTED_STATE) {
        return nested_settle(fd, arg);
    }
    if (request == KVM_GET_NESTED_STATE) {
        nested_told(fd, 0);
    }
    if (request == KVM_SET_VCPU_EVENTS && pretends && called_by_us()) {
        nested_events(plan, fd, arg);
    } else if (request == KVM_RUN && !called_by_us()) {
        if (nested_owes(fd)) {
            nested_violated(plan, fd, pretends);
        }
        nested_runs(fd, pretends);
    }
    return 0;
}

int ioctl(int fd, unsigned long request, ...)
{
    unsigned i;
    va_list ap;
    void *arg;

    va_start(ap, request);
    arg = va_arg(ap, void *);
    va_end(ap);
    for (i = 0; i < sizeof(ioctls) / sizeof(ioctls[0]); i++) {
        if ((uint32_t)request == ioctls[i].request &&
            must_fail(ioctls[i].name)) {
            return fail_ioctl(fd, request, arg);
        }
    }
    return account_nested(fd, request, arg)
           ? 0 : syscall(SYS_ioctl, fd, request, arg);
}

static const char *madvise_name(int advice)
{
    return advice == POPULATE_WRITE ? "MADV_POPULATE_WRITE" :
           advice == MADV_DONTNEED ? "MADV_DONTNEED" : "madvise";
}

/*
 * Whether the range has not got the one page that is bad, or is too small to
 * be the first one that has
 */
static int is_spared(uintptr_t addr, size_t length)
{
    uint64_t page;

    if (!plan || !plan->one_page) {
        return 0;
    }
    page = atomic_load(&plan->page);
    return page ? page < addr || page >= addr + length : length <= plan->from;
}

static void choose_page(uintptr_t addr)
{
    uint64_t none = 0;

    atomic_compare_exchange_strong(&plan->page, &none, addr + plan->from);
}

int madvise(void *addr, size_t length, int advice)
{
    if (!is_spared((uintptr_t)addr, length) &&
        must_fail(madvise_name(advice))) {
        choose_page((uintptr_t)addr);
        return fails();
    }
    return syscall(SYS_madvise, addr, length, advice);
}

int mlock(const void *addr, size_t length)
{
    return must_fail("mlock") ? fails() : syscall(SYS_mlock, addr, length);
}

void *mmap(void *addr, size_t length, int prot, int flags, int fd, off_t at)
{
    if (must_fail("mmap")) {
        fails();
        return MAP_FAILED;
    }
    return (void *)syscall(SYS_mmap, addr, length, prot, flags, fd, at);
}

void *mmap64(void *addr, size_t length, int prot, int flags, int fd, off64_t at)
    __attribute__((alias("mmap")));

long mbind(void *addr, unsigned long length, int mode,
           const unsigned long *nodes, unsigned long max, unsigned flags)
{
    return must_fail("mbind") ? fails() : syscall(SYS_mbind, addr, length, mode,
                                                  nodes, max, flags);
}

ssize_t pread(int fd, void *buf, size_t size, off_t offset)
{
    if (must_fail("pread")) {
        if (plan->error) {
            return fails();
        }
        size /= 2;
    }
    return syscall(SYS_pread64, fd, buf, size, offset);
}

ssize_t pread64(int fd, void *buf, size_t size, off64_t offset)
    __attribute__((alias("pread")));

/* Emulated hosts have one CPU, where threads of ours would need several */
long sysconf(int name)
{
    long (*next)(int) = dlsym(RTLD_NEXT, __func__);

    return name == _SC_NPROCESSORS_ONLN && plan && plan->cpus ? plan->cpus
                                                              : next(name);
}

/* Returns its error, as liburing's functions return theirs, negative */
int pthread_create(pthread_t *thread, const pthread_attr_t *attr,
                   void *(*start)(void *), void *arg)
{
    int (*next)(pthread_t *, const pthread_attr_t *, void *(*)(void *),
                void *) = dlsym(RTLD_NEXT, __func__);

    return must_fail(__func__) ? plan->error : next(thread, attr, start, arg);
}

int io_uring_queue_init(unsigned entries, void *ring, unsigned flags)
{
    int (*next)(unsigned, void *, unsigned) = dlsym(RTLD_NEXT, __func__);

    return must_fail(__func__) ? -plan->error : next(entries, ring, flags);
}

int io_uring_register_buffers_sparse(void *ring, unsigned count)
{
    int (*next)(void *, unsigned) = dlsym(RTLD_NEXT, __func__);

    return must_fail(__func__) ? -plan->error : next(ring, count);
}

int io_uring_register_buffers_update_tag(void *ring, unsigned offset,
                                         const void *iovecs, const void *tags,
                                         unsigned count)
{
    int (*next)(void *, unsigned, const void *, const void *, unsigned) =
        dlsym(RTLD_NEXT, __func__);

    return must_fail(__func__) ? -plan->error
                               : next(ring, offset, iovecs, tags, count);
}
