/*
 * KVM pre-fault: internal interface between its files
 *
 * Unless a comment says otherwise, everything here is protected by the BQL.
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef ACCEL_KVM_PREFAULT_H
#define ACCEL_KVM_PREFAULT_H

#include "qapi/qapi-types-common.h"
#include "qapi/qapi-types-kvm-prefault.h"
#include "qemu/thread.h"
#include "system/kvm.h"
#include "system/kvm_prefault.h"
#include "kvm-prefault-ranges.h"

#define PROP_PREFAULT          "prefault"
#define PROP_PREFAULT_THREADS  "prefault-threads"
#define PROP_PREFAULT_WAIT     "prefault-wait"
#define PROP_PIN_RAM           "pin-ram"
#define PROP_SLOT_ZAP          "slot-zap"
#define PROP_ALWAYS_WRITABLE   "always-writable"
#define PROP_MTRR_ZAP          "mtrr-zap"

typedef enum KVMPrefaultCause {
    KVM_PREFAULT_CAUSE_START,
    KVM_PREFAULT_CAUSE_RESET,
    KVM_PREFAULT_CAUSE_WAKEUP,
    KVM_PREFAULT_CAUSE_SLOTS,
    KVM_PREFAULT_CAUSE_DIRTY_LOG,
    KVM_PREFAULT_CAUSE_COMMAND,
    KVM_PREFAULT_CAUSE__MAX,
} KVMPrefaultCause;

/* What the user asked for */
typedef struct KVMPrefaultConfig {
    OnOffAuto mode;
    uint32_t threads;
    bool wait;
    KvmPinRam pin;
    bool pin_set;
    KvmSlotZap slot_zap;
    bool slot_zap_set;
    OnOffAuto always_writable;
    bool always_writable_set;
    KvmMtrrZap mtrr_zap;
    bool mtrr_zap_set;
} KVMPrefaultConfig;

/* Sums of KVM's counters over all vCPUs */
typedef struct KVMPrefaultCounts {
    uint64_t taken;
    uint64_t emulated;
    uint64_t fixed;
    uint64_t spurious;
    uint64_t fast;
} KVMPrefaultCounts;

/* What a vCPU does for us, indexed by cpu_index */
typedef struct KVMPrefaultVCPU {
    /* the pass for which @unable is valid */
    uint64_t pass;
    /* bit n: cannot populate address space n */
    unsigned unable;
    /* start of the ioctl in progress in microseconds, 0 if none */
    int64_t ioctl_start_us;
    /* time spent in ioctls that were interrupted and mapped nothing */
    int64_t stalled_us;
    /* kicked for a turn of work beside the guest, and has not come yet */
    bool turn_asked;
} KVMPrefaultVCPU;

typedef struct KVMPrefault {
    KVMPrefaultConfig config;

    /* What the host can do */
    bool has_ioctl;
    bool has_slot_zap;
    bool has_always_writable;
    bool has_nx_huge_pages;
    KvmMtrrZapSupport mtrr_zap_support;
    bool has_stats;
    unsigned nr_as;

    /* What is done */
    bool tdp_on;                /* fill second-level tables */
    KvmPinRam pin;
    KvmSlotZap slot_zap;
    bool always_writable;       /* slots of RAM carry KVM's flag */
    KvmMtrrZap mtrr_zap;
    unsigned threads;

    KVMPrefaultRanges ranges;
    KVMPrefaultVCPU *vcpus;
    unsigned nr_vcpus;

    KvmPrefaultState state;
    bool machine_ready;         /* slots exist, the first reset is next */
    bool first_pass_done;
    bool incoming;              /* the guest comes from another host */
    bool hold;                  /* vCPUs wait for the pass */
    bool dirty_logging;
    bool host_stale;            /* host pages are to be populated */
    bool lock_stale;            /* ... and locked */
    bool host_running;          /* one of the two is being done */
    uint64_t pass;
    uint64_t passes_done;
    int64_t requested_us;
    int64_t duration_us;
    int64_t last_event_ms;
    uint64_t causes[KVM_PREFAULT_CAUSE__MAX];
    KVMPrefaultCounts ready_counts;
    bool have_ready_counts;
    QEMUTimer *timer;

    GPtrArray *host_reasons;    /* found out by probing */
    GPtrArray *pass_reasons;    /* found out by the last pass */
    uint32_t failed_as;         /* address spaces that have such a reason */

    /*
     * Number of KVM_PRE_FAULT_MEMORY ioctls that run without the BQL.
     * Incremented with the BQL held, decremented without it.
     */
    QemuMutex inflight_lock;
    QemuCond inflight_cond;
    unsigned inflight;
} KVMPrefault;

extern KVMPrefault kvm_prefault;

/* kvm-prefault.c */

/**
 * kvm_prefault_core_init: make the state ready for use
 */
void kvm_prefault_core_init(void);

/**
 * kvm_prefault_request: ask for a pass
 * @cause: counted in the query; other than for slots, everything is redone
 */
void kvm_prefault_request(KVMPrefaultCause cause);

/**
 * kvm_prefault_suspend: dirty logging has begun, do not touch the tables
 */
void kvm_prefault_suspend(void);

/**
 * kvm_prefault_host_done: the host pages of all backends are populated
 * @err: NULL, or why not; freed
 */
void kvm_prefault_host_done(Error *err);

/**
 * kvm_prefault_work_done: no work is left, or none that can be done
 *
 * Context: any thread with the BQL held.
 */
void kvm_prefault_work_done(void);

/**
 * kvm_prefault_reason: remember why something was not done
 */
void kvm_prefault_reason(GPtrArray *reasons, const char *fmt, ...)
    G_GNUC_PRINTF(2, 3);

/**
 * kvm_prefault_vcpu: our data on @cpu
 */
KVMPrefaultVCPU *kvm_prefault_vcpu(CPUState *cpu);

/* kvm-prefault-worker.c */

/**
 * kvm_prefault_kick_vcpus: have all vCPUs look for work
 */
void kvm_prefault_kick_vcpus(void);

/**
 * kvm_prefault_ask_for_turns: have all vCPUs do a bounded piece beside the guest
 *
 * A vCPU is kicked once per turn: a second kick would end the ioctl of the
 * turn, on a slow host before it has mapped anything.  A turn that takes
 * longer than 10 ms is ended.
 */
void kvm_prefault_ask_for_turns(void);

/**
 * kvm_prefault_drain: wait until no ioctl of ours runs
 *
 * Context: BQL held, so that none can start.
 */
void kvm_prefault_drain(void);

/**
 * kvm_prefault_watchdog: interrupt ioctls that take suspiciously long
 */
void kvm_prefault_watchdog(void);

/**
 * kvm_prefault_inline: do all work now, on the calling vCPU's thread
 */
void kvm_prefault_inline(CPUState *cpu);

/* kvm-prefault-host.c */

/**
 * kvm_prefault_check_memory: check that the host has memory for all RAM
 *
 * Touches nothing.  Returns: false with @errp set if not.
 */
bool kvm_prefault_check_memory(Error **errp);

/**
 * kvm_prefault_check_memlock: check that all RAM may be locked
 *
 * Touches nothing.  Returns: false with @errp set if not.
 */
bool kvm_prefault_check_memlock(Error **errp);

/**
 * kvm_prefault_memlock_limit: bytes that this process may lock
 *
 * Returns: false if there is no limit.
 */
bool kvm_prefault_memlock_limit(uint64_t *limit);

/**
 * kvm_prefault_host_start: work on host pages in a thread
 * @populate: allocate them for writing
 * @lock: lock them, which allocates what is missing
 *
 * Ends with kvm_prefault_host_done() in the main loop.
 */
void kvm_prefault_host_start(bool populate, bool lock);

/**
 * kvm_prefault_host_placed: whether it matters who allocates host pages
 *
 * Returns: true if a backend has a 'prealloc-context', whose threads are to
 * allocate its memory.
 */
bool kvm_prefault_host_placed(void);

/**
 * kvm_prefault_host_progress: bytes populated and locked by the last pass
 *
 * Context: any.
 */
void kvm_prefault_host_progress(uint64_t *populated, uint64_t *pinned);

/**
 * kvm_prefault_host_track: a memory backend is (no longer) guest-visible
 * @mr: the backend's memory region
 */
void kvm_prefault_host_track(MemoryRegion *mr, bool visible);

/* kvm-prefault-listener.c */

/**
 * kvm_prefault_is_ram: whether @mr is writable RAM of a memory backend
 */
bool kvm_prefault_is_ram(MemoryRegion *mr);

/* kvm-prefault-stats.c */

/**
 * kvm_prefault_counts: read KVM's fault counters
 *
 * Returns: false if there are none.
 */
bool kvm_prefault_counts(KVMPrefaultCounts *counts);

/**
 * kvm_prefault_mapped: read how much memory is mapped, by page size
 *
 * Returns: false if KVM has no statistics.
 */
bool kvm_prefault_mapped(KvmPrefaultMapped *mapped);

/* kvm-prefault-qmp.c */

/**
 * kvm_prefault_event: send KVM_PREFAULT_STATUS
 */
void kvm_prefault_event(void);

/* target/i386/kvm/kvm-prefault-x86.c */

/* The mode that a vCPU was in before it was made to use another root */
typedef struct KVMPrefaultVCPUMode {
    bool changed;
    struct kvm_vcpu_events events;
} KVMPrefaultVCPUMode;

/**
 * kvm_arch_prefault_has_slot_zap: whether zaps can be limited to a slot
 */
bool kvm_arch_prefault_has_slot_zap(KVMState *s);

/**
 * kvm_arch_prefault_set_slot_zap: limit zaps to the deleted slot
 *
 * Cannot be undone.  Returns: 0 or -errno.
 */
int kvm_arch_prefault_set_slot_zap(KVMState *s);

/**
 * kvm_arch_prefault_mtrr_zap_support: what KVM does about guest MTRRs
 */
KvmMtrrZapSupport kvm_arch_prefault_mtrr_zap_support(KVMState *s);

/**
 * kvm_arch_prefault_set_mtrr_zap: choose what guest MTRRs zap
 * @zap: not KVM_MTRR_ZAP_AUTO
 *
 * Context: before the first vCPU exists.
 * Returns: 0 or -errno; -EOPNOTSUPP for KVM_MTRR_ZAP_NONE if the CPU has no
 * self-snoop.
 */
int kvm_arch_prefault_set_mtrr_zap(KVMState *s, KvmMtrrZap zap);

/**
 * kvm_arch_prefault_nx_huge_pages: whether the first instruction fetch from a
 * huge page faults, whatever is mapped (KVM's nx_huge_pages, against the iTLB
 * multihit erratum; arch/x86/kvm/mmu/mmu.c)
 */
bool kvm_arch_prefault_nx_huge_pages(void);

/**
 * kvm_arch_prefault_enter_as: make @cpu's current root the one of @as_id
 * @mode: filled in for kvm_arch_prefault_leave_as()
 *
 * Context: the vCPU's own thread, BQL held.
 *
 * Returns: 0; -EBUSY if the vCPU is in a state that must not be disturbed
 * (runs a nested guest), other -errno from KVM.
 */
int kvm_arch_prefault_enter_as(CPUState *cpu, int as_id,
                               KVMPrefaultVCPUMode *mode);

/**
 * kvm_arch_prefault_leave_as: undo kvm_arch_prefault_enter_as()
 */
void kvm_arch_prefault_leave_as(CPUState *cpu,
                                const KVMPrefaultVCPUMode *mode);

/**
 * kvm_arch_prefault_renew_root: have @cpu load a valid root next time
 *
 * KVM_PRE_FAULT_MEMORY up to Linux 6.14 does not notice that a slot deletion
 * has made the root obsolete, and retries for ever (upstream fix:
 * 20a6cff3b283 "KVM: x86/mmu: Check and free obsolete roots in
 * kvm_mmu_reload()").
 */
void kvm_arch_prefault_renew_root(CPUState *cpu);

#endif
