/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What is done to VMs of our own: a burst, random MTRRs, all at once. */

#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "mtrr.h"

#define MSR_DEFTYPE     0x2ff
#define TOGGLE_CD       0
/* Of the stress: what a vCPU touches in each turn */
#define STRESS_MEMORY   (4 << 20)

static struct vm vm;

static double seconds_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

/*
 * As firmware and operating systems program MTRRs: with CR0.CD set, MTRRs
 * disabled, all of them, MTRRs enabled, CD clear.  After reset CD is set.
 */
static void program_mtrrs(struct vcpu *vcpu, bool cd_is_set)
{
    struct mtrr_ranges_state state;

    state_firmware(&state, vcpu->vm->address_bits);
    block_clear_ops(vcpu);
    if (!cd_is_set) {
        block_op(vcpu, TOGGLE_CD, 0);
    }
    block_op(vcpu, MSR_DEFTYPE, 0);
    state_write(vcpu, &state, false);
    block_op(vcpu, TOGGLE_CD, 0);
}

/* The last vCPU touches memory all the time, the others do not. */
static void one_pass(unsigned writers, bool cd_is_set)
{
    for (unsigned i = 0; i < writers; i++) {
        program_mtrrs(&vm.vcpu[i], cd_is_set);
    }
    for (unsigned i = 0; i < writers; i++) {
        vcpu_go(&vm.vcpu[i]);
    }
    for (unsigned i = 0; i < writers; i++) {
        vcpu_wait(&vm.vcpu[i]);
    }
}

/* Two vCPUs, because the lab has two CPUs at most. */
static void map_all(struct vcpu *one, struct vcpu *other)
{
    uint64_t middle = TOUCH_START + (vm.size - TOUCH_START) / PAGE / 2 * PAGE;

    block_touch(one, TOUCH_START, middle);
    block_touch(other, middle, vm.size);
    vcpu_go(one);
    vcpu_go(other);
    vcpu_wait(one);
    vcpu_wait(other);
    block_touch(one, 0, 0);
    block_touch(other, TOUCH_START, vm.size);
}

/*
 * All memory is mapped when the burst begins; another vCPU, which keeps CR0.CD
 * set and so takes part in no zap, maps again what zaps unmap.
 */
int command_burst(const char *mode, unsigned vcpus, unsigned mib,
                  unsigned passes)
{
    struct vcpu *toucher;
    double start;

    vm_create(&vm, mode, vcpus + 1, mib);
    toucher = &vm.vcpu[vcpus];
    map_all(&vm.vcpu[0], toucher);
    printf("{\"before\": {");
    vm_print_stats(&vm);
    lab_reset(vm.lab);
    printf("\"mib\": %u}, ", mib);
    start = seconds_now();
    toucher->block->forever = 1;
    vcpu_go(toucher);
    for (unsigned i = 0; i < passes; i++) {
        one_pass(vcpus, !i);
    }
    printf("\"burst_ms\": %.1f, ", (seconds_now() - start) * 1e3);
    __atomic_store_n(&toucher->block->forever, 0, __ATOMIC_SEQ_CST);
    vcpu_wait(toucher);
    lab_print_counts(vm.lab);
    vm_print_stats(&vm);
    printf("\"passes\": %u}\n", passes);
    return 0;
}

/*
 * A random state by way of another one, with CR0.CD set now and then; at the end
 * the vCPU has the state and CD clear.
 */
static void random_walk_to(struct vcpu *vcpu, bool cd_is_set,
                           const struct mtrr_ranges_state *state)
{
    struct mtrr_ranges_state other;
    bool cd = cd_is_set;

    state_random(&other, vm.size, vm.address_bits);
    block_clear_ops(vcpu);
    for (int i = 0; i < 2; i++) {
        if (random_below(2)) {
            block_op(vcpu, TOGGLE_CD, 0);
            cd = !cd;
        }
        state_write(vcpu, i ? state : &other, true);
    }
    if (cd) {
        block_op(vcpu, TOGGLE_CD, 0);
    }
}

static void check_now(const struct mtrr_ranges_state *state, bool ignore_mtrrs,
                      struct leaf_check *check)
{
    check_leaves(vm.lab, vm.fd, state, ignore_mtrrs, check);
}

/* What both commands end with; "left": { is open. */
static void print_rest(const struct leaf_check *left,
                       const struct leaf_check *again)
{
    print_check(left);
    printf("}, \"again\": {");
    print_check(again);
    printf("}, ");
    lab_print_counts(vm.lab);
    vm_print_stats(&vm);
    printf("\"vcpus\": %u}\n", vm.nr);
}

/*
 * In each round all vCPUs touch memory, then go to the same random state on ways
 * of their own.  Leaves are looked at then, and when memory was touched again.
 */
int command_verify(const char *mode, unsigned vcpus, unsigned mib,
                   unsigned rounds, uint64_t seed)
{
    bool none = !strcmp(mode, "none");
    struct leaf_check left = { 0 }, again = { 0 };
    struct mtrr_ranges_state state;

    random_seed(seed);
    vm_create(&vm, mode, vcpus, mib);
    lab_reset(vm.lab);
    for (unsigned round = 0; round < rounds; round++) {
        state_random(&state, vm.size, vm.address_bits);
        for (unsigned i = 0; i < vcpus; i++) {
            block_touch(&vm.vcpu[i], TOUCH_START, vm.size);
            random_walk_to(&vm.vcpu[i], !round, &state);
        }
        vm_run_all(&vm);
        check_now(&state, none, &left);
        for (unsigned i = 0; i < vcpus; i++) {
            block_clear_ops(&vm.vcpu[i]);
        }
        vm_run_all(&vm);
        check_now(&state, none, &again);
    }
    printf("{\"rounds\": %u, \"left\": {", rounds);
    print_rest(&left, &again);
    return 0;
}

/* A vCPU's word of each page is how often the vCPU has been there. */
static unsigned lost_writes(uint64_t end)
{
    unsigned lost = 0;

    for (uint64_t at = TOUCH_START; at < end; at += PAGE) {
        const uint32_t *words = (const uint32_t *)(vm.mem + at);

        for (unsigned i = 0; i < vm.nr; i++) {
            lost += words[i] != vm.vcpu[i].block->loops;
        }
    }
    return lost;
}

/* Non-coherent DMA stops and starts once a second; false: KVM refused. */
static bool flip_dma(unsigned seconds)
{
    for (unsigned i = 0; i < seconds; i++) {
        usleep(900000);
        if (ioctl(vm.lab, MTRR_LAB_DMA_STOP, vm.fd)) {
            return false;
        }
        usleep(100000);
        if (ioctl(vm.lab, MTRR_LAB_DMA_START, vm.fd)) {
            return false;
        }
    }
    return true;
}

static void stress_for(unsigned seconds)
{
    for (unsigned i = 0; i < vm.nr; i++) {
        vm.vcpu[i].block->forever = 1;
        vcpu_go(&vm.vcpu[i]);
    }
    if (!flip_dma(seconds)) {
        die("start and stop of DMA");
    }
    for (unsigned i = 0; i < vm.nr; i++) {
        __atomic_store_n(&vm.vcpu[i].block->forever, 0, __ATOMIC_SEQ_CST);
    }
    for (unsigned i = 0; i < vm.nr; i++) {
        vcpu_wait(&vm.vcpu[i]);
    }
}

/*
 * All vCPUs touch memory and change MTRRs and CR0.CD without pause, each on its
 * own way to a state that is the same for all.
 */
int command_stress(const char *mode, unsigned vcpus, unsigned mib,
                   unsigned seconds, uint64_t seed)
{
    struct mtrr_ranges_state state;
    struct leaf_check left = { 0 }, again = { 0 };
    uint64_t end = TOUCH_START + STRESS_MEMORY, loops = 0;
    bool none = !strcmp(mode, "none");

    random_seed(seed);
    vm_create(&vm, mode, vcpus, mib);
    end = end < vm.size ? end : vm.size;
    state_random(&state, vm.size, vm.address_bits);
    for (unsigned i = 0; i < vcpus; i++) {
        block_touch(&vm.vcpu[i], TOUCH_START, end);
        random_walk_to(&vm.vcpu[i], true, &state);
    }
    /* The first turn leaves CD clear, and so must each of the others. */
    vm_run_all(&vm);
    for (unsigned i = 0; i < vcpus; i++) {
        random_walk_to(&vm.vcpu[i], false, &state);
    }
    lab_reset(vm.lab);
    stress_for(seconds);
    for (unsigned i = 0; i < vcpus; i++) {
        loops += vm.vcpu[i].block->loops;
        block_clear_ops(&vm.vcpu[i]);
    }
    check_now(&state, none, &left);
    vm_run_all(&vm);
    check_now(&state, none, &again);
    printf("{\"loops\": %llu, \"lost_writes\": %u, \"left\": {",
           (unsigned long long)loops, lost_writes(end));
    print_rest(&left, &again);
    return 0;
}
