/*
 * KVM pre-fault: try out what KVM_PRE_FAULT_MEMORY does
 *
 * A VM with one vCPU and one slot, and a program of three instructions.  What
 * KVM does to a page shows in its count of faults.
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include "qemu/madvise.h"
#include "qemu/units.h"
#include "system/kvm_int.h"
#include "accel/kvm/kvm-prefault.h"
#include "kvm-prefault-x86.h"
#include "trace.h"

/*
 * All in one huge page, if the host gives one.  No guest has RAM there, so that
 * nobody who counts faults by their address counts these.
 */
#define SLOT_AT   0xfe000000
#define SLOT_SIZE (2 * MiB)
#define CODE_AT   0x1000
#define DATA_AT   0x8000
#define PORT      0x80

/* Where KVM has what it needs on CPUs that cannot run real mode in a guest */
#define TSS_AT          0xfffbd000
#define IDENTITY_MAP_AT 0xfffbc000

#define RUNS_MAX 100

/* 16-bit code; DATA_AT is written to once per exit to us */
static const uint8_t code[] = {
    0xc6, 0x06, DATA_AT & 0xff, DATA_AT >> 8, 0x01,  /* 1: movb $1, DATA_AT */
    0xe6, PORT,                                      /*    out  %al, $PORT  */
    0xeb, 0xf7,                                      /*    jmp  1b          */
};

typedef struct Probe {
    char *area;                 /* twice as large, to be aligned */
    char *memory;
    int vm, vcpu, stats;
    size_t run_size;
    struct kvm_run *run;
} Probe;

static int set_slot(const Probe *p, uint32_t flags)
{
    struct kvm_userspace_memory_region slot = {
        .flags = flags,
        .guest_phys_addr = SLOT_AT,
        .memory_size = SLOT_SIZE,
        .userspace_addr = (uintptr_t)p->memory,
    };

    return ioctl(p->vm, KVM_SET_USER_MEMORY_REGION, &slot);
}

static bool make_memory(Probe *p)
{
    p->area = mmap(NULL, 2 * SLOT_SIZE, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p->area == MAP_FAILED) {
        return false;
    }
    p->memory = (char *)QEMU_ALIGN_UP((uintptr_t)p->area, SLOT_SIZE);
    qemu_madvise(p->memory, SLOT_SIZE, QEMU_MADV_HUGEPAGE);
    memset(p->memory, 0, SLOT_SIZE);
    memcpy(p->memory + CODE_AT, code, sizeof(code));
    return true;
}

static bool make_vm(KVMState *s, Probe *p)
{
    uint64_t identity_map = IDENTITY_MAP_AT;

    p->vm = ioctl(s->fd, KVM_CREATE_VM, 0);
    return p->vm >= 0 && ioctl(p->vm, KVM_SET_TSS_ADDR, TSS_AT) == 0 &&
           ioctl(p->vm, KVM_SET_IDENTITY_MAP_ADDR, &identity_map) == 0 &&
           set_slot(p, 0) == 0;
}

static bool make_vcpu(KVMState *s, Probe *p)
{
    int size = ioctl(s->fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    void *run;

    p->vcpu = ioctl(p->vm, KVM_CREATE_VCPU, 0);
    if (p->vcpu < 0 || size < 0) {
        return false;
    }
    run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, p->vcpu, 0);
    if (run == MAP_FAILED) {
        return false;
    }
    p->run = run;
    p->run_size = size;
    p->stats = ioctl(p->vcpu, KVM_GET_STATS_FD, NULL);
    return p->stats >= 0;
}

static bool set_registers(const Probe *p)
{
    struct kvm_regs regs = { .rip = CODE_AT, .rflags = 0x2 };
    struct kvm_sregs sregs;

    if (ioctl(p->vcpu, KVM_GET_SREGS, &sregs) < 0) {
        return false;
    }
    sregs.cs.selector = 0;
    sregs.cs.base = sregs.ds.base = SLOT_AT;
    return ioctl(p->vcpu, KVM_SET_SREGS, &sregs) == 0 &&
           ioctl(p->vcpu, KVM_SET_REGS, &regs) == 0;
}

static bool pre_fault(const Probe *p)
{
    struct kvm_pre_fault_memory range = {
        .gpa = SLOT_AT,
        .size = SLOT_SIZE,
    };
    int tries;

    for (tries = 0; range.size && tries < RUNS_MAX; tries++) {
        if (ioctl(p->vcpu, KVM_PRE_FAULT_MEMORY, &range) < 0 &&
            errno != EINTR && errno != EAGAIN) {
            return false;
        }
    }
    return !range.size;
}

static bool run(const Probe *p)
{
    int tries;

    for (tries = 0; tries < RUNS_MAX; tries++) {
        if (ioctl(p->vcpu, KVM_RUN, 0) == 0) {
            return p->run->exit_reason == KVM_EXIT_IO &&
                   p->run->io.port == PORT;
        }
        if (errno != EINTR && errno != EAGAIN) {
            return false;
        }
    }
    return false;
}

/* Faults that one write takes, or -1 */
static int64_t faults_of_write(const Probe *p)
{
    KVMPrefaultCounts before = { 0 }, after = { 0 };

    if (!kvm_prefault_counts_read(p->stats, &before) || !run(p) ||
        !kvm_prefault_counts_read(p->stats, &after)) {
        return -1;
    }
    return after.taken - before.taken;
}

static bool log_and_stop(const Probe *p)
{
    return set_slot(p, KVM_MEM_LOG_DIRTY_PAGES) == 0 && set_slot(p, 0) == 0;
}

/*
 * The write while logging is on has to fault.  Else the CPU logs it (PML), and
 * pages stay writable; but huge ones do not, unless KVM splits them first.
 */
static bool is_conclusive(int64_t faults_logged)
{
    return faults_logged > 0 ||
           kvm_prefault_module_parameter("/sys/module/kvm/parameters/"
                                         "eager_page_split");
}

static bool lifts(const Probe *p)
{
    int64_t logged, after;

    if (!pre_fault(p) || !run(p) ||
        set_slot(p, KVM_MEM_LOG_DIRTY_PAGES) < 0) {
        return false;
    }
    logged = faults_of_write(p);
    if (set_slot(p, 0) < 0 || !log_and_stop(p) || !pre_fault(p)) {
        return false;
    }
    after = faults_of_write(p);
    trace_kvm_prefault_probe(logged, after);
    return after == 0 && is_conclusive(logged);
}

static void clean_up(Probe *p)
{
    int fds[] = { p->stats, p->vcpu, p->vm };
    int i;

    if (p->run) {
        munmap(p->run, p->run_size);
    }
    for (i = 0; i < ARRAY_SIZE(fds); i++) {
        if (fds[i] >= 0) {
            close(fds[i]);
        }
    }
    if (p->area != MAP_FAILED) {
        munmap(p->area, 2 * SLOT_SIZE);
    }
}

bool kvm_arch_prefault_lifts_protection(KVMState *s)
{
    Probe p = { .area = MAP_FAILED, .vm = -1, .vcpu = -1, .stats = -1 };
    bool result = make_memory(&p) && make_vm(s, &p) && make_vcpu(s, &p) &&
                  set_registers(&p) && lifts(&p);

    clean_up(&p);
    return result;
}
