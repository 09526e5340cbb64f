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
#include "kvm-prefault-arch.h"
#include "kvm-prefault-ranges.h"

#define PROP_PREFAULT          "prefault"
#define PROP_PREFAULT_METHOD   "prefault-method"
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
    KVM_PREFAULT_CAUSE_ZAP_ALL,
    KVM_PREFAULT_CAUSE_DIRTY_LOG,
    KVM_PREFAULT_CAUSE_COMMAND,
    KVM_PREFAULT_CAUSE_MTRR,
    KVM_PREFAULT_CAUSE_LOST,
    KVM_PREFAULT_CAUSE_INCOMING,
    KVM_PREFAULT_CAUSE__MAX,
} KVMPrefaultCause;

/* What keeps us from touching the tables, one bit each */
typedef enum KVMPrefaultSuspend {
    KVM_PREFAULT_SUSPEND_LOG = 1,       /* dirty logging */
    KVM_PREFAULT_SUSPEND_SNAPSHOT = 2,  /* a background snapshot */
} KVMPrefaultSuspend;

/* What the user asked for */
typedef struct KVMPrefaultConfig {
    OnOffAuto mode;
    KvmPrefaultMethod method;   /* "none": automatic */
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
    uint64_t nested;            /* times that a nested guest was entered */
} KVMPrefaultCounts;

/* KVM's counters of the whole VM */
typedef struct KVMPrefaultVMCounts {
    uint64_t mapped;            /* bytes mapped now, in all address spaces */
    bool has_mtrr;              /* the next one exists */
    uint64_t mtrr_zapped;       /* mappings dropped because of guest MTRRs */
} KVMPrefaultVMCounts;

/* What a vCPU does for us, indexed by cpu_index */
typedef struct KVMPrefaultVCPU {
    /* the pass for which @unable is valid */
    uint64_t pass;
    /* bit n: cannot populate address space n */
    unsigned unable;
    /* start of the ioctl in progress in microseconds, 0 if none */
    int64_t ioctl_start_us;
    /* ioctls that were interrupted and mapped nothing: time spent, number */
    int64_t stalled_us;
    unsigned stalled_calls;
    /* ... in the pass that was first requested then */
    int64_t stalled_pass_us;
    /* kicked for a turn of work beside the guest, and has not come yet */
    bool turn_asked;
    /* queued for work while it is stopped, see kvm_prefault_early() */
    bool early_queued;
    /* may execute the guest's instructions at any time */
    bool in_guest;
    /* as last read: KVM's are out of reach once the vCPU is unplugged */
    KVMPrefaultCounts counts;
} KVMPrefaultVCPU;

/* How long the running guest was held for passes */
typedef struct KVMPrefaultPauses {
    uint64_t count;
    int64_t total_us;
    int64_t max_us;
} KVMPrefaultPauses;

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
    KvmPrefaultMethod method;
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
    bool pausing;               /* ... but for a part of it only */
    bool settling;              /* the pass waits for slots to settle */
    bool background;            /* the pass repairs what was lost, slowly */
    int64_t turn_us;            /* longest turn since turns were asked for */
    int64_t hold_start_us;      /* since when the guest is kept waiting, or 0 */
    KVMPrefaultPauses pauses;
    unsigned sessions;          /* vCPUs whose state is that of method vcpu */
    unsigned suspended;         /* KVMPrefaultSuspend */
    bool host_stale;            /* host pages are to be populated */
    bool host_all;              /* ... all of them, not only what is new */
    bool lock_stale;            /* ... and locked */
    bool split;                 /* ... but huge ones put together before */
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
     * Incremented with the BQL held, decremented without it, both under
     * the lock.  Who has the BQL only may see one that has just ended.
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
 * kvm_prefault_state_set: enter @state, and tell about it if it is another one
 */
void kvm_prefault_state_set(KvmPrefaultState state);

/**
 * kvm_prefault_lost: mappings have been lost, the state is partial now
 * @reason: told by the query and the event
 */
void kvm_prefault_lost(const char *reason);

/**
 * kvm_prefault_host_done: the host pages of all backends are populated
 * @err: NULL, or why not; freed
 */
void kvm_prefault_host_done(Error *err);

/**
 * kvm_prefault_advance: do the next step of the pass
 *
 * Context: main loop.
 */
void kvm_prefault_advance(void);

/**
 * kvm_prefault_work_done: no work is left, or none that can be done
 *
 * Context: any thread with the BQL held.
 */
void kvm_prefault_work_done(void);

/**
 * kvm_prefault_abandon: give up all work that is left; a reason has been given
 *
 * Context: any thread with the BQL held.
 */
void kvm_prefault_abandon(void);

/**
 * kvm_prefault_inline_done: a vCPU has done work outside of a pass
 *
 * What it has failed to do makes the state partial.
 */
void kvm_prefault_inline_done(void);

/**
 * kvm_prefault_reason: remember why something was not done
 */
void kvm_prefault_reason(GPtrArray *reasons, const char *fmt, ...)
    G_GNUC_PRINTF(2, 3);

/**
 * kvm_prefault_vcpu: our data on @cpu
 */
KVMPrefaultVCPU *kvm_prefault_vcpu(CPUState *cpu);

/* kvm-prefault-request.c */

/**
 * kvm_prefault_request: ask for a pass
 * @cause: counted in the query; other than for slots, everything is redone
 */
void kvm_prefault_request(KVMPrefaultCause cause);

/**
 * kvm_prefault_request_devices: ask for a pass over ROM, flash and device RAM
 *
 * They may have lost mappings; RAM has not.  Done beside the running guest.
 * Context: state "ready".
 */
void kvm_prefault_request_devices(void);

/**
 * kvm_prefault_suspend: do not touch the tables
 */
void kvm_prefault_suspend(KVMPrefaultSuspend why);

/**
 * kvm_prefault_resume: that reason has gone; if it was the last, populate
 */
void kvm_prefault_resume(KVMPrefaultSuspend why);

/* kvm-prefault-inflight.c */

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
 * kvm_prefault_ioctl_begin: a long ioctl of ours begins on @v's vCPU
 *
 * Context: vCPU thread, BQL held; it is dropped.
 */
void kvm_prefault_ioctl_begin(KVMPrefaultVCPU *v);

/**
 * kvm_prefault_ioctl_end: the ioctl has ended
 *
 * Takes the BQL.  Returns: how long it took in microseconds.
 */
int64_t kvm_prefault_ioctl_end(KVMPrefaultVCPU *v);

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

/* kvm-prefault-worker.c */

/**
 * kvm_prefault_vcpu_early: do @cpu's share of a pass while it is stopped
 *
 * Context: the vCPU's own thread, as queued work, BQL held.
 * Returns: false if it was interrupted and had better be asked again.
 */
bool kvm_prefault_vcpu_early(CPUState *cpu);

/**
 * kvm_prefault_inline: do all work now, on the calling vCPU's thread
 */
void kvm_prefault_inline(CPUState *cpu);

/* kvm-prefault-giveback.c */

/**
 * kvm_prefault_set_state: a KVM_SET_* ioctl, repeated if it is interrupted
 *
 * Returns: 0 or -errno.
 */
int kvm_prefault_set_state(CPUState *cpu, unsigned long request, void *state);

/**
 * kvm_prefault_vcpu_lost: @cpu could not be given its own state back
 * @ret: -errno of KVM
 *
 * Stops the guest, which has to be reset, and ends the pass.
 * Context: the vCPU's own thread, BQL held.
 */
void kvm_prefault_vcpu_lost(CPUState *cpu, int ret);

/* kvm-prefault-method.c */

/* What has been done to a vCPU to have it fill tables */
typedef struct KVMPrefaultSession {
    KVMPrefaultVCPUMode mode;
    KVMPrefaultSaved *saved;
    KVMPrefaultCounts counts;
} KVMPrefaultSession;

/**
 * kvm_prefault_method_choose: decide how tables are filled
 *
 * Returns: false with @errp set if the host offers no way, or not the one
 * that was asked for.
 */
bool kvm_prefault_method_choose(KVMState *s, Error **errp);

/**
 * kvm_prefault_method_start: make ready what the method needs
 *
 * Context: the machine exists, the guest has not run.
 * Returns: false with @errp set if this guest's CPUs cannot do it.
 */
bool kvm_prefault_method_start(Error **errp);

/**
 * kvm_prefault_method_enter: prepare @cpu for work in @as_id
 * @session: filled in for kvm_prefault_method_leave()
 *
 * Context: the vCPU's own thread, BQL held until the matching leave except
 * around kvm_prefault_method_map().
 *
 * Returns: 0; -EBUSY if the vCPU is in a state that must not be disturbed,
 * other -errno from KVM.
 */
int kvm_prefault_method_enter(CPUState *cpu, int as_id,
                              KVMPrefaultSession *session);

/**
 * kvm_prefault_method_leave: undo kvm_prefault_method_enter()
 */
void kvm_prefault_method_leave(CPUState *cpu, KVMPrefaultSession *session);

/**
 * kvm_prefault_method_map: have KVM map @chunk
 * @done: set to the bytes mapped, from its start, in any case
 *
 * Returns: 0 if all is mapped, -EINTR or -EAGAIN if the rest is to be tried
 * again, other -errno if it cannot be mapped.
 */
int kvm_prefault_method_map(CPUState *cpu, const KVMPrefaultSession *session,
                            const KVMPrefaultChunk *chunk, uint64_t *done);

/* kvm-prefault-pause.c */

/**
 * kvm_prefault_pause_init: make timers
 */
void kvm_prefault_pause_init(void);

/**
 * kvm_prefault_hold: keep all vCPUs out of the guest until they are released
 */
void kvm_prefault_hold(void);

/**
 * kvm_prefault_release: let waiting vCPUs enter the guest
 */
void kvm_prefault_release(void);

/**
 * kvm_prefault_quiescent: whether no vCPU is in the guest
 */
bool kvm_prefault_quiescent(void);

/**
 * kvm_prefault_pause_tick: hold the running guest for a part of the pass
 *
 * Where a pass that the guest does not wait for cannot be done beside it.
 * Context: main loop.
 */
void kvm_prefault_pause_tick(void);

/**
 * kvm_prefault_pause_over: whether the guest has been held for long enough
 */
bool kvm_prefault_pause_over(void);

/**
 * kvm_prefault_pause_end_if_over: end a pause whose time is up and in which no
 * vCPU is borrowed any more
 */
void kvm_prefault_pause_end_if_over(void);

/**
 * kvm_prefault_settle: KVM has forgotten everything, because of a slot
 *
 * Asks for a pass that begins when slots have been left alone for a while:
 * firmware changes them by the dozen.
 */
void kvm_prefault_settle(void);

/**
 * kvm_prefault_settle_cancel: begin the pass at once
 */
void kvm_prefault_settle_cancel(void);

/* kvm-prefault-migration.c */

/**
 * kvm_prefault_migration_init: follow migrations and the state of the VM
 */
void kvm_prefault_migration_init(void);

/**
 * kvm_prefault_early: whether stopped vCPUs populate
 *
 * Returns: true from the start of the destination of a migration until the
 * guest may run there.
 */
bool kvm_prefault_early(void);

/**
 * kvm_prefault_queue_early: have @cpu, which is stopped, look for work
 */
void kvm_prefault_queue_early(CPUState *cpu);

/**
 * kvm_prefault_expect_arrival: the guest that runs next comes from elsewhere
 */
void kvm_prefault_expect_arrival(void);

/**
 * kvm_prefault_arrival_held: the guest that runs next has to wait for a pass
 */
void kvm_prefault_arrival_held(void);

/**
 * kvm_prefault_arrival_entered: the first vCPU is about to enter the guest
 */
void kvm_prefault_arrival_entered(void);

/**
 * kvm_prefault_query_incoming: what the arrival of the guest has cost
 *
 * Returns: NULL if the guest has been started here.
 */
KvmPrefaultIncoming *kvm_prefault_query_incoming(void);

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
 * kvm_prefault_check_pin: check that all RAM may be pinned, but for limits
 *
 * Touches nothing.  Returns: false with @errp set if not.
 */
bool kvm_prefault_check_pin(Error **errp);

/**
 * kvm_prefault_host_release: let go of backends that are not visible any more
 */
void kvm_prefault_host_release(void);

/**
 * kvm_prefault_memlock_limit: bytes that this process may lock
 *
 * Returns: false if there is no limit.
 */
bool kvm_prefault_memlock_limit(uint64_t *limit);

/**
 * kvm_prefault_no_numa_balancing: have the host's NUMA balancing spare @mr
 *
 * Its unmapping of pages is what takes mappings away from KVM.  The memory gets
 * the policy "local" in place of none, which places no page elsewhere
 * (vma_policy_mof() in Linux).  For memory without a policy of the user's.
 * A host that cannot does not balance either, so there is no error.
 */
void kvm_prefault_no_numa_balancing(MemoryRegion *mr);

/**
 * kvm_prefault_host_start: work on host pages in a thread
 * @populate: allocate them for writing; if huge pages were split, put those
 *     together again
 * @lock: lock them, which allocates what is missing, and with
 *     'pin-ram=longterm' pin them
 *
 * Ends with kvm_prefault_host_done() in the main loop.
 */
void kvm_prefault_host_start(bool populate, bool lock);

/**
 * kvm_prefault_host_resume: QEMU lives on after the guest's shutdown
 *
 * With -no-shutdown.  Work that the shutdown has cancelled is not taken up
 * again, but may be asked for.
 */
void kvm_prefault_host_resume(void);

/**
 * kvm_prefault_host_placed: whether it matters who allocates host pages
 *
 * Returns: true if a backend has a 'prealloc-context', whose threads are to
 * allocate its memory.
 */
bool kvm_prefault_host_placed(void);

/**
 * kvm_prefault_host_progress: bytes populated and locked
 *
 * Context: BQL held.
 */
void kvm_prefault_host_progress(uint64_t *populated, uint64_t *pinned);

/**
 * kvm_prefault_host_track: a memory backend is (no longer) guest-visible
 * @mr: the backend's memory region
 */
void kvm_prefault_host_track(MemoryRegion *mr, bool visible);

/**
 * kvm_prefault_host_plugged: a part of a backend has got memory
 * @mr: the backend's memory region, which has a RamDiscardManager
 */
void kvm_prefault_host_plugged(MemoryRegion *mr, uint64_t offset,
                               uint64_t size);

/**
 * kvm_prefault_host_forget: memory is about to lose its pages, or to go
 * @mr: the backend's memory region
 *
 * It is unlocked, and not touched any more.  Waits for work that is being
 * done on it, 64 MiB per thread at most.
 */
void kvm_prefault_host_forget(MemoryRegion *mr, uint64_t offset,
                              uint64_t size);

/**
 * kvm_prefault_host_admits: check that the host has memory for a plug
 *
 * Touches nothing.  Returns: false with @errp set if it has not, or if it
 * must not be locked.
 */
bool kvm_prefault_host_admits(MemoryRegion *mr, uint64_t offset,
                              uint64_t size, Error **errp);

/* kvm-prefault-discard.c */

/**
 * kvm_prefault_discard_add: follow what is plugged and unplugged in a slot
 * @section: RAM with a RamDiscardManager; what is plugged becomes work
 */
void kvm_prefault_discard_add(MemoryRegionSection *section, int as_id,
                              bool large);

/**
 * kvm_prefault_discard_del: the slot has gone
 */
void kvm_prefault_discard_del(MemoryRegionSection *section, int as_id);

/**
 * kvm_prefault_discard_forbid: keep devices from discarding guest RAM
 *
 * Devices that tell what they discard (virtio-mem) are let be, others keep
 * quiet (virtio-balloon) or are refused.
 *
 * Returns: false with @errp set if there is a device already that does not go
 * with the properties.
 */
bool kvm_prefault_discard_forbid(Error **errp);

/**
 * kvm_prefault_discard_reasons: which devices do not do what they are for
 * @reasons: they are added to it
 */
void kvm_prefault_discard_reasons(GPtrArray *reasons);

/* kvm-prefault-plug.c */

/**
 * kvm_prefault_plug_all: tell the guest of all memory that has been plugged
 *
 * Context: main loop.
 */
void kvm_prefault_plug_all(void);

/* kvm-prefault-listener.c */

/**
 * kvm_prefault_is_ram: whether @mr is writable RAM of a memory backend
 */
bool kvm_prefault_is_ram(MemoryRegion *mr);

/* kvm-prefault-stats.c */

/**
 * kvm_prefault_counts: read KVM's fault counters, the sum over all vCPUs
 *
 * A vCPU that has been unplugged counts as it did when it was last read, so
 * that sums never fall.
 *
 * Returns: false if there are none.
 */
bool kvm_prefault_counts(KVMPrefaultCounts *counts);

/**
 * kvm_prefault_counts_of: add one vCPU's counters to @counts
 *
 * Returns: false if there are none.
 */
bool kvm_prefault_counts_of(CPUState *cpu, KVMPrefaultCounts *counts);

/**
 * kvm_prefault_mapped: read how much memory is mapped, by page size
 *
 * Returns: false if KVM has no statistics.
 */
bool kvm_prefault_mapped(KvmPrefaultMapped *mapped);

/**
 * kvm_prefault_vm_counts: read KVM's counters of the VM
 *
 * Returns: false if KVM has no statistics.
 */
bool kvm_prefault_vm_counts(KVMPrefaultVMCounts *counts);

/* kvm-prefault-watch.c */

/**
 * kvm_prefault_watch_pass_begin: everything is going to be populated
 * @starting: the guest is going to begin with its firmware
 */
void kvm_prefault_watch_pass_begin(bool starting);

/**
 * kvm_prefault_watch_turn_due: whether vCPUs may be asked for the next turn
 *
 * In a background pass.  If so, it counts as asked for.
 */
bool kvm_prefault_watch_turn_due(void);

/**
 * kvm_prefault_watch_pass_end: a pass has ended, watch what it has mapped
 *
 * Context: before the guest takes the next fault that is to be noticed.
 */
void kvm_prefault_watch_pass_end(void);

/* kvm-prefault-qmp.c */

/**
 * kvm_prefault_event: send KVM_PREFAULT_STATUS
 */
void kvm_prefault_event(void);

#endif
