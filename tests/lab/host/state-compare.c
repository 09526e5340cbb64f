/*
 * LD_PRELOAD: does prefault-method=vcpu give each vCPU back as it was?
 *
 * Method "vcpu" begins with KVM_GET_MP_STATE; its instructions lie in 32 KiB
 * below 0xff000000.  So the last state seen there before a KVM_RUN of those
 * instructions, and the one at the next KVM_RUN of anything else, must be
 * equal: all that KVM tells about the vCPU, and a checksum of all memory slots.
 * No other vCPU may run in between.  What time changes is compared as such.
 *
 * Lines go to the file named by STATE_COMPARE:
 *   compared vcpu=N rip=X mp=N smm=N        one vCPU came back
 *   compared ram sum=X                      all of them have
 *   difference vcpu=N|ram WHAT ...
 *
 * The processor must not write to the stub's page directory pointers.  QEMU's
 * TCG did, KVM then refused to read them, and a vCPU that shared them had a
 * triple fault.  So they are written to here, as TCG did, while their vCPU is
 * out of the stub: no other one may depend on them.
 *
 * With STATE_COMPARE_SPOIL a register and a byte of RAM are changed in between,
 * so that a test can see that differences are found.
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "state-compare-ram.h"

#define MAX_MSRS   600

#define MSR_TSC               0x10
#define MSR_TSC_DEADLINE      0x6e0
#define MSR_HV_VP_RUNTIME     0x40000010
#define MSR_HV_TIME_REF_COUNT 0x40000020
#define MSR_KVM_SYSTEM_TIME   0x4b564d01
#define MSR_KVM_STEAL_TIME    0x4b564d03

#define XSTATE_BV             (512 / 4)
#define X87_AND_SSE           3

#define APIC_IRR_FIRST        0x200
#define APIC_IRR_LAST         0x270
#define APIC_TIMER_COUNT      0x390

/* Linux 5.14's uapi; the build host's headers may be older */
struct sregs2 {
    struct kvm_segment segments[8];
    struct kvm_dtable gdt, idt;
    uint64_t cr0, cr2, cr3, cr4, cr8, efer, apic_base, flags, pdptrs[4];
};
#define GET_SREGS2 _IOR(0xae, 0xcc, struct sregs2)

/* Begins like KVM_SET_USER_MEMORY_REGION's argument */
#define SET_USER_MEMORY_REGION2 0x49

struct snapshot {
    struct kvm_regs regs;
    struct sregs2 sregs;
    struct kvm_vcpu_events events;
    struct kvm_mp_state mp_state;
    struct kvm_debugregs debugregs;
    struct kvm_xsave xsave;
    struct kvm_xcrs xcrs;
    struct kvm_lapic_state lapic;
    uint64_t msrs[MAX_MSRS];
};

struct vcpu {
    int fd;
    bool in_stub;
    struct snapshot before;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct vcpu vcpus[MAX_VCPUS];
static struct { struct kvm_msr_list head; uint32_t more[MAX_MSRS]; } msr_list;
static int nr_vcpus, in_guest;
static bool stub_has_run;
static uint64_t sum_before;

static long call(int fd, unsigned long request, void *arg)
{
    return syscall(SYS_ioctl, fd, request, arg);
}

static void say(const char *fmt, ...)
{
    const char *path = getenv("STATE_COMPARE");
    char line[256];
    va_list ap;
    int fd, len;

    va_start(ap, fmt);
    len = vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND, 0666) : -1;
    if (fd < 0 || write(fd, line, len) != len) {
        abort();
    }
    close(fd);
}

static void read_msr_list(void)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

    msr_list.head.nmsrs = MAX_MSRS;
    if (fd < 0 || call(fd, KVM_GET_MSR_INDEX_LIST, &msr_list) < 0) {
        abort();
    }
    close(fd);
}

/* 0 if this vCPU does not have it */
static uint64_t read_msr(int fd, uint32_t index)
{
    struct { struct kvm_msrs head; struct kvm_msr_entry entry; } one;

    memset(&one, 0, sizeof(one));
    one.head.nmsrs = 1;
    one.entry.index = index;
    return call(fd, KVM_GET_MSRS, &one) == 1 ? one.entry.data : 0;
}

static void read_msrs(int fd, uint64_t *values)
{
    unsigned i;

    if (!msr_list.head.nmsrs) {
        read_msr_list();
    }
    for (i = 0; i < msr_list.head.nmsrs; i++) {
        values[i] = read_msr(fd, msr_list.head.indices[i]);
    }
}

static void take(int fd, struct snapshot *s)
{
    memset(s, 0, sizeof(*s));
    if (call(fd, KVM_GET_REGS, &s->regs) || call(fd, GET_SREGS2, &s->sregs) ||
        call(fd, KVM_GET_VCPU_EVENTS, &s->events) ||
        call(fd, KVM_GET_MP_STATE, &s->mp_state) ||
        call(fd, KVM_GET_DEBUGREGS, &s->debugregs) ||
        call(fd, KVM_GET_XSAVE, &s->xsave) ||
        call(fd, KVM_GET_XCRS, &s->xcrs) ||
        call(fd, KVM_GET_LAPIC, &s->lapic)) {
        abort();
    }
    read_msrs(fd, s->msrs);
}

/* No vCPU is in KVM_RUN now, so that all can be asked */
static uint64_t first_checksum(void)
{
    int i;

    for (i = 0; i < nr_vcpus; i++) {
        uint64_t time = read_msr(vcpus[i].fd, MSR_KVM_SYSTEM_TIME);
        uint64_t steal = read_msr(vcpus[i].fd, MSR_KVM_STEAL_TIME);

        clocks[2 * i] = (struct range) { time & ~7ULL, time & 1 ? 32 : 0 };
        clocks[2 * i + 1] = (struct range) { steal & ~63ULL,
                                             steal & 1 ? 64 : 0 };
    }
    return checksum();
}

static int differ(int vcpu, const char *what, const void *a, const void *b,
                  size_t size)
{
    const uint8_t *x = a, *y = b;
    size_t i;

    for (i = 0; i < size; i++) {
        if (x[i] != y[i]) {
            say("difference vcpu=%d %s at byte %zu: %02x, then %02x\n", vcpu,
                what, i, x[i], y[i]);
            return 1;
        }
    }
    return 0;
}

/* Time goes on, and must not go back; a timer may have expired */
static bool msr_is_right(uint32_t index, uint64_t a, uint64_t b)
{
    switch (index) {
    case MSR_TSC:
    case MSR_HV_VP_RUNTIME:
    case MSR_HV_TIME_REF_COUNT:
        return b >= a;
    case MSR_TSC_DEADLINE:
        return b == a || b == 0;
    default:
        return a == b;
    }
}

static void compare_msrs(int vcpu, const uint64_t *a, const uint64_t *b)
{
    unsigned i;

    for (i = 0; i < msr_list.head.nmsrs; i++) {
        uint32_t index = msr_list.head.indices[i];

        if (!msr_is_right(index, a[i], b[i])) {
            say("difference vcpu=%d msr 0x%x: 0x%llx, then 0x%llx\n", vcpu,
                index, (unsigned long long)a[i], (unsigned long long)b[i]);
        }
    }
}

/* Interrupts may arrive and must not get lost */
static void compare_lapic(int vcpu, struct kvm_lapic_state *a,
                          struct kvm_lapic_state *b)
{
    unsigned reg;

    for (reg = 0; reg < sizeof(a->regs); reg += 16) {
        uint32_t *x = (uint32_t *)(a->regs + reg);
        uint32_t *y = (uint32_t *)(b->regs + reg);

        if (reg >= APIC_IRR_FIRST && reg <= APIC_IRR_LAST) {
            *y &= *x;
        }
        if (reg != APIC_TIMER_COUNT && *x != *y) {
            say("difference vcpu=%d lapic 0x%x: 0x%x, then 0x%x\n", vcpu, reg,
                *x, *y);
        }
    }
}

static void compare(int vcpu, struct snapshot *a, struct snapshot *b)
{
    b->events.nmi.pending &= a->events.nmi.pending;
    /* what is in its initial state may be said to be so, or not */
    a->xsave.region[XSTATE_BV] |= X87_AND_SSE;
    b->xsave.region[XSTATE_BV] |= X87_AND_SSE;
    differ(vcpu, "regs", &a->regs, &b->regs, sizeof(a->regs));
    differ(vcpu, "sregs", &a->sregs, &b->sregs, sizeof(a->sregs));
    differ(vcpu, "events", &a->events, &b->events, sizeof(a->events));
    differ(vcpu, "mp_state", &a->mp_state, &b->mp_state, sizeof(a->mp_state));
    differ(vcpu, "debugregs", &a->debugregs, &b->debugregs,
           sizeof(a->debugregs));
    differ(vcpu, "xsave", &a->xsave, &b->xsave, sizeof(a->xsave));
    differ(vcpu, "xcrs", &a->xcrs, &b->xcrs, sizeof(a->xcrs));
    compare_msrs(vcpu, a->msrs, b->msrs);
    compare_lapic(vcpu, &a->lapic, &b->lapic);
    say("compared vcpu=%d rip=0x%llx mp=%u smm=%u\n", vcpu,
        (unsigned long long)b->regs.rip, b->mp_state.mp_state,
        b->events.smi.smm);
}

static int find_vcpu(int fd)
{
    int i;

    for (i = 0; i < nr_vcpus && vcpus[i].fd != fd; i++) {
    }
    return i < nr_vcpus ? i : -1;
}

static bool at_stub(int fd)
{
    struct kvm_regs regs;

    return call(fd, KVM_GET_REGS, &regs) == 0 && regs.rip >= STUB_START &&
           regs.rip < STUB_END;
}

/* What the test must find: RBX of the vCPU, a byte of its RAM */
static void spoil(int i)
{
    if (getenv("STATE_COMPARE_SPOIL")) {
        vcpus[i].before.regs.rbx ^= 1;
        sum_before ^= 1;
    }
}

static void stub_runs(int i)
{
    if (!vcpus[i].in_stub) {
        spoil(i);
    }
    if (in_guest) {
        say("difference vcpu=%d runs the stub, %d in the guest\n", i, in_guest);
    }
    vcpus[i].in_stub = stub_has_run = true;
}

static void guest_runs(int i)
{
    struct snapshot after;
    uint64_t sum;

    if (stub_has_run) {
        sum = checksum();
        say(sum == sum_before ? "compared ram sum=%llx\n"
                              : "difference ram sum=%llx\n",
            (unsigned long long)sum);
        stub_has_run = false;
    }
    if (vcpus[i].in_stub) {
        take(vcpus[i].fd, &after);
        compare(i, &vcpus[i].before, &after);
        vcpus[i].in_stub = false;
    }
}

static uint64_t *page_directory_pointers(int fd)
{
    struct sregs2 sregs;

    if (call(fd, GET_SREGS2, &sregs)) {
        abort();
    }
    return guest_words(sregs.cr3 & ~31ULL);
}

static long run_stub(int i, int fd, void *arg)
{
    uint64_t *pdpt = page_directory_pointers(fd);
    uint64_t before;
    long ret;

    mark_accessed(pdpt, false);
    /* the one that the instructions are found by */
    before = pdpt[3];
    ret = call(fd, KVM_RUN, arg);
    if (pdpt[3] != before) {
        say("difference vcpu=%d pdpte 0x%llx, then 0x%llx\n", i,
            (unsigned long long)before, (unsigned long long)pdpt[3]);
    }
    mark_accessed(pdpt, true);
    return ret;
}

static long run(int i, int fd, void *arg)
{
    bool stub;
    long ret;

    pthread_mutex_lock(&lock);
    stub = at_stub(fd);
    if (stub) {
        stub_runs(i);
    } else {
        guest_runs(i);
        __atomic_add_fetch(&in_guest, 1, __ATOMIC_SEQ_CST);
    }
    pthread_mutex_unlock(&lock);
    if (stub) {
        return run_stub(i, fd, arg);
    }
    ret = call(fd, KVM_RUN, arg);
    __atomic_sub_fetch(&in_guest, 1, __ATOMIC_SEQ_CST);
    return ret;
}

static void may_begin(int i)
{
    pthread_mutex_lock(&lock);
    if (!vcpus[i].in_stub) {
        take(vcpus[i].fd, &vcpus[i].before);
    }
    if (!stub_has_run && !in_guest) {
        sum_before = first_checksum();
    }
    pthread_mutex_unlock(&lock);
}

static void succeeded(unsigned long request, void *arg, long ret, int i)
{
    if (_IOC_TYPE(request) != KVMIO) {
        return;
    }
    switch (_IOC_NR(request)) {
    case _IOC_NR(KVM_CREATE_VCPU):
        if (nr_vcpus == MAX_VCPUS) {
            abort();
        }
        vcpus[nr_vcpus].fd = ret;
        nr_vcpus++;
        break;
    case _IOC_NR(KVM_SET_USER_MEMORY_REGION):
    case SET_USER_MEMORY_REGION2:
        note_slot(arg);
        break;
    case _IOC_NR(KVM_GET_MP_STATE):
        if (i >= 0) {
            may_begin(i);
        }
        break;
    }
}

int ioctl(int fd, unsigned long request, ...)
{
    int i = find_vcpu(fd);
    va_list ap;
    void *arg;
    long ret;

    va_start(ap, request);
    arg = va_arg(ap, void *);
    va_end(ap);
    if ((uint32_t)request == (uint32_t)KVM_RUN && i >= 0) {
        return run(i, fd, arg);
    }
    ret = call(fd, request, arg);
    if (ret >= 0) {
        succeeded(request, arg, ret, i);
    }
    return ret;
}
