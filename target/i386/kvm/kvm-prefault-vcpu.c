/*
 * KVM pre-fault: have a vCPU touch guest memory, and put it back as it was
 *
 * The vCPU's state is read and written by KVM's own ioctls, not through QEMU's
 * CPUX86State: only what the stub (kvm-prefault-stub.c) needs is changed, and
 * nothing that KVM can tell us is converted on the way.
 *
 * No other vCPU may be in the guest meanwhile (kvm-prefault-pause.c): an INIT
 * or SMI that it sends would be acted upon in the stub's state.
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/kvm.h>
#include "cpu.h"
#include "system/kvm_int.h"
#include "accel/kvm/kvm-prefault.h"
#include "kvm-prefault-nested.h"
#include "kvm-prefault-stub.h"
#include "trace.h"

struct KVMPrefaultSaved {
    struct kvm_mp_state mp_state;
    struct kvm_vcpu_events events;
    struct kvm_regs regs;
    struct kvm_sregs2 sregs;
    struct kvm_debugregs debugregs;
    uint64_t pmu_global_ctrl;
    int window;
    int as_id;
    /* VMX operation, which KVM ends when SMM changes; NULL if there is none */
    struct kvm_nested_state *nested;
    /* KVM has reset the vCPU (triple fault), or let it leave the stub */
    bool left_stub;
    struct kvm_lapic_state lapic;
    /* struct kvm_run: exits of the guest's that the stub has met */
    GPtrArray *exits;
};

/*
 * Reading MP_STATE comes first: it makes KVM act upon an INIT or SIPI that has
 * arrived, which changes everything else.
 */
static int read_state(CPUState *cpu, KVMPrefaultSaved *s)
{
    const struct {
        unsigned long request;
        void *data;
    } reads[] = {
        { KVM_GET_MP_STATE, &s->mp_state },
        { KVM_GET_VCPU_EVENTS, &s->events },
        { KVM_GET_REGS, &s->regs },
        { KVM_GET_SREGS2, &s->sregs },
        { KVM_GET_DEBUGREGS, &s->debugregs },
        { KVM_GET_LAPIC, &s->lapic },
    };
    int i, ret = 0;

    for (i = 0; i < ARRAY_SIZE(reads) && ret >= 0; i++) {
        ret = kvm_vcpu_ioctl(cpu, reads[i].request, reads[i].data);
    }
    return MIN(ret, 0);
}

/* One MSR that not every CPU has.  Returns: false if this one has not. */
static bool access_msr(CPUState *cpu, unsigned long request, uint32_t index,
                       uint64_t *value)
{
    struct {
        struct kvm_msrs header;
        struct kvm_msr_entry entry;
    } msr = {
        .header.nmsrs = 1,
        .entry = { .index = index, .data = *value },
    };
    int ret = kvm_vcpu_ioctl(cpu, request, &msr);

    *value = msr.entry.data;
    return ret == 1;
}

/* The guest's performance counters must not count the stub's instructions */
static void stop_counters(CPUState *cpu, KVMPrefaultSaved *s)
{
    uint64_t zero = 0;

    s->pmu_global_ctrl = 0;
    if (X86_CPU(cpu)->enable_pmu &&
        access_msr(cpu, KVM_GET_MSRS, MSR_CORE_PERF_GLOBAL_CTRL,
                   &s->pmu_global_ctrl) && s->pmu_global_ctrl) {
        access_msr(cpu, KVM_SET_MSRS, MSR_CORE_PERF_GLOBAL_CTRL, &zero);
    }
}

static void restart_counters(CPUState *cpu, KVMPrefaultSaved *s)
{
    if (s->pmu_global_ctrl) {
        access_msr(cpu, KVM_SET_MSRS, MSR_CORE_PERF_GLOBAL_CTRL,
                   &s->pmu_global_ctrl);
    }
}

static bool smm_changes(const KVMPrefaultSaved *s, int as_id)
{
    return s->events.smi.smm != (as_id == KVM_PREFAULT_AS_SMM);
}

/*
 * Nothing is pending or being delivered, and NMIs stay pending: they are not
 * written, only masked.  SMIs and an INIT latched in SMM are written back by
 * restored_events(); none can arrive while no vCPU is in the guest.
 */
static struct kvm_vcpu_events stub_events(const KVMPrefaultSaved *s)
{
    struct kvm_vcpu_events events = {
        .nmi.masked = 1,
        .smi.smm = s->as_id == KVM_PREFAULT_AS_SMM,
        .flags = KVM_VCPUEVENT_VALID_SHADOW |
                 (s->events.flags & (KVM_VCPUEVENT_VALID_PAYLOAD |
                                     KVM_VCPUEVENT_VALID_TRIPLE_FAULT)),
    };

    if (smm_changes(s, s->as_id) || s->events.smi.pending) {
        events.flags |= KVM_VCPUEVENT_VALID_SMM;
    }
    return events;
}

static struct kvm_vcpu_events restored_events(const KVMPrefaultSaved *s)
{
    struct kvm_vcpu_events events = s->events;

    events.flags &= ~KVM_VCPUEVENT_VALID_NMI_PENDING;
    return events;
}

static struct kvm_segment flat_segment(unsigned type, unsigned selector)
{
    return (struct kvm_segment) {
        .limit = 0xffffffff, .selector = selector, .type = type,
        .present = 1, .db = 1, .s = 1, .g = 1,
    };
}

/*
 * 32-bit protected mode with PAE.  What concerns the cache and nested
 * virtualization stays: KVM would drop mappings, or the state of both.
 */
static struct kvm_sregs2 stub_sregs(const KVMPrefaultSaved *s)
{
    /* KVM refuses it in SMM, and has left VMX operation by then */
    uint64_t vmxe = s->as_id == KVM_PREFAULT_AS_SMM ?
                    0 : s->sregs.cr4 & CR4_VMXE_MASK;
    struct kvm_sregs2 sregs = {
        .cs = flat_segment(11, 0x08),
        .ldt = { .unusable = 1 },
        .tr = { .limit = 0x67, .selector = 0x18, .type = 11, .present = 1 },
        .cr0 = CR0_PE_MASK | CR0_MP_MASK | CR0_ET_MASK | CR0_NE_MASK |
               CR0_WP_MASK | CR0_PG_MASK |
               (s->sregs.cr0 & (CR0_NW_MASK | CR0_CD_MASK)),
        .cr2 = s->sregs.cr2,
        .cr3 = kvm_prefault_stub_cr3(s->window),
        .cr4 = CR4_PAE_MASK | vmxe,
        .cr8 = s->sregs.cr8,
        .efer = s->sregs.efer & MSR_EFER_SVME,
        .apic_base = s->sregs.apic_base,
    };

    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss =
        flat_segment(3, 0x10);
    return sregs;
}

typedef struct StateWrite {
    unsigned long request;
    void *data;
} StateWrite;

/* All of them, whatever becomes of one.  Returns: 0 or the first -errno. */
static int write_all(CPUState *cpu, const StateWrite *writes, int count)
{
    int i, result = 0;

    for (i = 0; i < count; i++) {
        int ret = kvm_prefault_set_state(cpu, writes[i].request,
                                         writes[i].data);

        result = result ?: ret;
    }
    return result;
}

static int put_stub_state(CPUState *cpu, const KVMPrefaultSaved *s)
{
    struct kvm_mp_state mp_state = { .mp_state = KVM_MP_STATE_RUNNABLE };
    struct kvm_vcpu_events events = stub_events(s);
    struct kvm_sregs2 sregs = stub_sregs(s);
    struct kvm_debugregs debugregs = { .dr6 = DR6_FIXED_1,
                                       .dr7 = DR7_FIXED_1 };
    const StateWrite writes[] = {
        /* KVM refuses SMM to a vCPU that waits for SIPI */
        { KVM_SET_MP_STATE, &mp_state },
        { KVM_SET_VCPU_EVENTS, &events },
        { KVM_SET_SREGS2, &sregs },
        { KVM_SET_DEBUGREGS, &debugregs },
    };

    return write_all(cpu, writes, ARRAY_SIZE(writes));
}

/*
 * The order matters: KVM_SET_REGS forgets pending exceptions, leaving SMM
 * forgets page directory pointers, and KVM_SET_SREGS2 may make a vCPU runnable.
 * Nested state is checked against SMM and control registers.
 */
static void restore_state(CPUState *cpu, KVMPrefaultSaved *s)
{
    struct kvm_vcpu_events events = restored_events(s);
    const StateWrite writes[] = {
        { KVM_SET_REGS, &s->regs },
        { KVM_SET_VCPU_EVENTS, &events },
        { KVM_SET_SREGS2, &s->sregs },
        { KVM_SET_DEBUGREGS, &s->debugregs },
    };
    int ret = write_all(cpu, writes, ARRAY_SIZE(writes));

    int nested, last;

    if (s->left_stub) {
        ret = ret ?: kvm_prefault_set_state(cpu, KVM_SET_LAPIC, &s->lapic);
    }
    nested = kvm_prefault_nested_restore(cpu, g_steal_pointer(&s->nested));
    last = kvm_prefault_set_state(cpu, KVM_SET_MP_STATE, &s->mp_state);
    ret = ret ?: nested ?: last;
    if (ret < 0) {
        kvm_prefault_vcpu_lost(cpu, ret);
    }
    restart_counters(cpu, s);
}

static void saved_free(KVMPrefaultSaved *s)
{
    g_free(s->nested);
    g_ptr_array_unref(s->exits);
    g_free(s);
}

/* The stub's state in place of the guest's, or an error and nothing changed */
static int replace_state(CPUState *cpu, KVMPrefaultSaved *s)
{
    int ret = kvm_prefault_nested_save(cpu, smm_changes(s, s->as_id),
                                       &s->nested);

    if (ret < 0) {
        return ret;
    }
    s->window = kvm_prefault_stub_get();
    if (s->window < 0) {
        return s->window;
    }
    stop_counters(cpu, s);
    ret = put_stub_state(cpu, s);
    if (ret < 0) {
        restore_state(cpu, s);
        kvm_prefault_stub_put(s->window);
    }
    return ret;
}

int kvm_arch_prefault_vcpu_enter(CPUState *cpu, int as_id,
                                 KVMPrefaultSaved **saved)
{
    KVMPrefaultSaved *s = g_new0(KVMPrefaultSaved, 1);
    int ret = read_state(cpu, s);

    s->exits = g_ptr_array_new_with_free_func(g_free);
    s->as_id = as_id;
    if (ret == 0) {
        ret = replace_state(cpu, s);
    }
    if (ret < 0) {
        saved_free(s);
        return ret;
    }
    *saved = s;
    return 0;
}

/* KVM completes the instruction that made it exit when it is called again */
static void complete_exit(CPUState *cpu)
{
    qatomic_set(&cpu->kvm_run->immediate_exit, 1);
    kvm_vcpu_ioctl(cpu, KVM_RUN, 0);
    qatomic_set(&cpu->kvm_run->immediate_exit, 0);
}

void kvm_arch_prefault_vcpu_leave(CPUState *cpu, KVMPrefaultSaved *s)
{
    unsigned i;

    complete_exit(cpu);
    restore_state(cpu, s);
    kvm_prefault_stub_put(s->window);
    for (i = 0; i < s->exits->len; i++) {
        kvm_arch_handle_exit(cpu, g_ptr_array_index(s->exits, i));
    }
    saved_free(s);
}

/*
 * Returns: 0 if the stub has run to its end, else -errno
 *
 * KVM may have an exit in store that the guest has caused, if a signal came
 * first (KVM_REQ_IOAPIC_EOI_EXIT, KVM_REQ_HV_EXIT): QEMU gets it later, or an
 * interrupt would never come again.  Reports of accesses to TPR, which want the
 * guest's registers, come again by themselves.
 */
static int run_result(CPUState *cpu, KVMPrefaultSaved *s, int ret)
{
    struct kvm_run *run = cpu->kvm_run;

    if (ret < 0) {
        return ret;
    }
    switch (run->exit_reason) {
    case KVM_EXIT_IO:
        return run->io.port == KVM_PREFAULT_STUB_PORT ? 0 : -EIO;
    case KVM_EXIT_INTR:
        return -EINTR;
    case KVM_EXIT_IOAPIC_EOI:
    case KVM_EXIT_HYPERV:
        g_ptr_array_add(s->exits, g_memdup2(run, sizeof(*run)));
        return -EAGAIN;
    case KVM_EXIT_DIRTY_RING_FULL:
    case KVM_EXIT_TPR_ACCESS:
        return -EAGAIN;
    case KVM_EXIT_MMIO:
        /* no memory slot */
        return -ENOENT;
    default:
        return -EIO;
    }
}

/* Touch [@start, @end), linear addresses.  *@at: where the stub got to. */
static int run_stub(CPUState *cpu, KVMPrefaultSaved *s, bool write,
                    uint32_t start, uint32_t end, uint32_t stride,
                    uint32_t *at)
{
    struct kvm_regs regs = {
        .rip = kvm_prefault_stub_entry(write),
        .rflags = 0x2,
        .rdi = start,
        .rsi = end,
        .rdx = stride,
    };
    int ret = kvm_vcpu_ioctl(cpu, KVM_SET_REGS, &regs);
    uint32_t reason;

    *at = start;
    if (ret < 0) {
        return ret;
    }
    ret = run_result(cpu, s, kvm_vcpu_ioctl(cpu, KVM_RUN, 0));
    reason = cpu->kvm_run->exit_reason;
    if (ret < 0 && ret != -EINTR) {
        /* KVM must not complete an instruction in the state of the next run */
        complete_exit(cpu);
    }
    /* a kick has set it; what the kick was for is looked at by our caller */
    qatomic_set(&cpu->kvm_run->immediate_exit, 0);
    if (ret == 0) {
        *at = end;
        return 0;
    }
    if (kvm_vcpu_ioctl(cpu, KVM_GET_REGS, &regs) < 0 ||
        !kvm_prefault_stub_contains(regs.rip) ||
        regs.rdi < start || regs.rdi > end) {
        /* the work is for others to do */
        ret = -EOPNOTSUPP;
    } else {
        *at = regs.rdi;
    }
    trace_kvm_prefault_stub(cpu->cpu_index, ret, reason, regs.rip);
    return ret;
}

int kvm_arch_prefault_vcpu_touch(CPUState *cpu, KVMPrefaultSaved *s,
                                 const KVMPrefaultTouch *t, uint64_t *done)
{
    uint32_t base = kvm_prefault_stub_aim(s->window, t->gpa);
    uint64_t length, stride;
    uint32_t at;
    int ret = 0;

    assert(t->gpa / KVM_PREFAULT_STUB_WINDOW_SIZE ==
           (t->gpa + t->size - 1) / KVM_PREFAULT_STUB_WINDOW_SIZE);
    *done = 0;
    while (*done < t->size && ret == 0) {
        length = kvm_prefault_touch_step(t, *done, &stride);
        ret = run_stub(cpu, s, t->write, base + *done, base + *done + length,
                       stride, &at);
        *done = at - base;
    }
    s->left_stub |= ret == -EOPNOTSUPP;
    return ret;
}
