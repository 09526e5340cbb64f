/*
 * A vCPU in VMX operation, or in a nested guest, as far as fail-call.c tells
 *
 * KVM takes a vCPU out of VMX operation if KVM_SET_VCPU_EVENTS puts it into SMM
 * or out of it, also outside of a nested guest (vmx_leave_nested()).  From then
 * on the vCPU owes its nested state: if it runs without getting it back, the
 * guest's next VMX instruction fails.  That is counted, on hosts without VMX too.
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef LAB_FAIL_NESTED_H
#define LAB_FAIL_NESTED_H

#include <errno.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fail-call.h"

#define VMXON_PA  0x1000ULL
#define VMCS12_PA 0x2000ULL
#define MAX_FDS   1024

/* By file descriptor; only the vCPU's own thread looks at it */
static struct {
    int owes;
    /* in a nested guest, as it was last told */
    int in_guest;
    /* has run since it was told so: a visit may have begun before that */
    int counts;
    /* in SMM, before ours came */
    int home;
} nested_vcpus[MAX_FDS];

static void nested_told(int fd, int in_guest)
{
    if (fd < MAX_FDS) {
        nested_vcpus[fd].in_guest = in_guest;
    }
}

/* KVM_GET_NESTED_STATE */
static int nested_tell(int fd, struct kvm_nested_state *state, int in_guest)
{
    uint32_t room = state->size;

    nested_told(fd, in_guest);
    memset(state, 0, sizeof(*state));
    state->size = sizeof(*state);
    state->format = KVM_STATE_NESTED_FORMAT_VMX;
    state->flags = in_guest ? KVM_STATE_NESTED_GUEST_MODE : 0;
    state->hdr.vmx.vmxon_pa = VMXON_PA;
    state->hdr.vmx.vmcs12_pa = in_guest ? VMCS12_PA : -1ULL;
    if (room < sizeof(*state)) {
        errno = E2BIG;
        return -1;
    }
    return 0;
}

static int nested_in_smm(int fd)
{
    struct kvm_vcpu_events events = { 0 };

    syscall(SYS_ioctl, fd, KVM_GET_VCPU_EVENTS, &events);
    return events.smi.smm;
}

/* KVM_SET_VCPU_EVENTS by ours, before it is made */
static void nested_events(struct plan *plan, int fd,
                          const struct kvm_vcpu_events *events)
{
    int smm = nested_in_smm(fd);

    if (fd >= MAX_FDS || !(events->flags & KVM_VCPUEVENT_VALID_SMM) ||
        events->smi.smm == smm || !nested_vcpus[fd].counts) {
        return;
    }
    atomic_fetch_add(&plan->visits, 1);
    if (nested_vcpus[fd].in_guest) {
        /* KVM leaves the nested guest for good */
        atomic_fetch_add(&plan->violations, 1);
    } else if (plan->error == VMX_OPERATION && !nested_vcpus[fd].owes) {
        nested_vcpus[fd].owes = 1;
        nested_vcpus[fd].home = smm;
    }
}

/*
 * KVM_SET_NESTED_STATE.  Returns: whether it is the state that was told, which
 * KVM must not see.  It counts once the vCPU is back where it was.  Any
 * other comes from QEMU, which replaces all of the vCPU's state.
 */
static int nested_settle(int fd, const struct kvm_nested_state *state)
{
    int ours = state->format == KVM_STATE_NESTED_FORMAT_VMX &&
               state->hdr.vmx.vmxon_pa == VMXON_PA;

    if (fd < MAX_FDS &&
        (!ours || nested_in_smm(fd) == nested_vcpus[fd].home)) {
        nested_vcpus[fd].owes = 0;
    }
    return ours;
}

/* KVM_RUN, not by ours */
static void nested_runs(int fd, int pretends)
{
    if (fd < MAX_FDS) {
        nested_vcpus[fd].counts = pretends;
    }
}

/* Whether the vCPU has not got back what it has lost */
static int nested_owes(int fd)
{
    return fd < MAX_FDS && nested_vcpus[fd].owes;
}

/* KVM_RUN of such a vCPU, not by ours */
static void nested_violated(struct plan *plan, int fd, int count)
{
    nested_vcpus[fd].owes = 0;
    if (count) {
        atomic_fetch_add(&plan->violations, 1);
    }
}

#endif
