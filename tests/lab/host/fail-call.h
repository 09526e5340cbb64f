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
    /* KVM_PRE_FAULT_MEMORY: guest-physical address below which it works */
    uint64_t from;
    /* name of the call, and of a function that must be on the stack, or "" */
    char call[40];
    char within[40];
    /* milliseconds that a call takes before it fails */
    uint64_t late;
};

_Static_assert(sizeof(struct plan) == 128, "agent/faultplan.py knows it so");

#endif
