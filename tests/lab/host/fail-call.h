/*
 * What is to fail: shared by fail-call.c and the agent (agent/faultplan.py)
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef LAB_FAIL_CALL_H
#define LAB_FAIL_CALL_H

#include <stdatomic.h>
#include <stdint.h>

/*
 * No errnos: the calls succeed, but later; KVM_GET_NESTED_STATE tells of a vCPU
 * in VMX operation, or in a nested guest (fail-nested.h)
 */
#define LATE          (-1)
#define VMX_OPERATION (-2)
#define NESTED_GUEST  (-3)

/* A file that both sides map; little endian, no padding */
struct plan {
    /* 0: nothing fails.  The agent writes it last. */
    atomic_uint armed;
    /* errno; 0: the call succeeds, but does only half of what it was asked */
    int32_t error;
    /* the first call that fails, from 1, and how many do */
    uint32_t first;
    uint32_t count;
    /* 0: only calls made by code of ours count */
    uint32_t anyone;
    /* what has come by and what has failed since it was armed */
    atomic_uint calls;
    atomic_uint failed;
    /* CPUs that sysconf() tells of, 0: those that there are */
    uint32_t cpus;
    /*
     * KVM_PRE_FAULT_MEMORY: guest-physical address below which it works;
     * if one_page is set: where in the first range that fails the page is,
     * which must be larger than that
     */
    uint64_t from;
    /* name of the call, and of a function that must be on the stack, or "" */
    char call[40];
    char within[40];
    /* milliseconds that a call takes before it fails, or is made if it is LATE */
    uint64_t late;
    /* MADV_POPULATE_WRITE: only ranges with one page fail, and its address */
    uint32_t one_page;
    uint32_t unused;
    _Atomic uint64_t page;
    /* changes of SMM by ours while KVM is said to know of nested virtualization */
    atomic_uint visits;
    /* ... after which a vCPU ran on without what it has lost by them */
    atomic_uint violations;
};

_Static_assert(sizeof(struct plan) == 152, "agent/faultplan.py knows it so");

#endif
