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
#include "kvm-prefault-stats.h"

#define PROP_PREFAULT          "prefault"
#define PROP_PREFAULT_METHOD   "prefault-method"
#define PROP_PREFAULT_THREADS  "prefault-threads"
#define PROP_PREFAULT_WAIT     "prefault-wait"
#define PROP_PREFAULT_MAX_HOLD "prefault-max-hold"
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
    uint32_t max_hold_ms;       /* 0: no limit */
    KvmPinRam pin;
    bool pin_set;
    KvmSlotZap slot_zap;
    bool slot_zap_set;
    OnOffAuto always_writable;
    bool always_writable_set;
    KvmMtrrZap mtrr_zap;
    bool mtrr_zap_set;
} KVMPrefaultConfig;

/* What a vCPU does for us, indexed by cpu_index */
typedef struct KVMPrefaultVCPU {
    /* the attempt for which @unable is valid */
    uint64_t attempt;
    /* bit n: cannot populate address space n */
    unsigned unable;
    /* the attempt in which it has got a valid root from us */
    uint64_t renewed;
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
    /* KVM has not taken its state back, so it must not run before a reset */
    bool not_restored;
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
    bool lifts_protection;      /* the ioctl makes present pages writable */
    bool can_borrow;            /* vCPUs can be made to touch memory */
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
    bool guest_suspended;       /* to RAM, by itself */
    bool first_pass_done;
    bool incoming;              /* the guest comes from another host */
    bool guest_has_run;         /* here or elsewhere: it is worth keeping */
    bool write_protected;       /* pages may be, since dirty logging was on */
    bool hold;                  /* vCPUs wait for the pass */
    bool pausing;               /* ... but for a part of it only */
    bool hold_unbounded;        /* ... for its first instruction, however long */
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
    uint64_t attempt;           /* vCPUs that were unable are asked again */
    uint32_t not_now_as;        /* address spaces that some vCPU may do later */
    uint32_t given_up_as;       /* those that nobody has done in this pass */
    bool busy;                  /* no vCPU is able to do some work now */
    bool retry;                 /* ... and it has been dropped because of that */
    int64_t busy_until_us;      /* when to drop it, 0 if none has been unable */
    int64_t busy_next_us;       /* when to ask again */
    bool only_poison;           /* makes the state partial, nothing else does */
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
 * kvm_prefault_in_tables: whether vCPUs may fill second-level tables
 *
 * Not before the host pages are there: KVM would map the zero page.
 */
bool kvm_prefault_in_tables(void);

/**
 * kvm_prefault_borrows: whether vCPUs are borrowed, to touch memory
 *
 * With method vcpu, and after dirty logging where KVM_PRE_FAULT_MEMORY leaves
 * pages that are present write-protected (Linux 6.13 and later).
 */
bool kvm_prefault_borrows(void);

/**
 * kvm_prefault_next_attempt: ask vCPUs again that were unable to do some work
 */
void kvm_prefault_next_attempt(void);

/**
 * kvm_prefault_wait_for_vcpus: no vCPU is able to go on in its present state
 *
 * Work that nobody can do now is kept for a while, and the guest runs, because
 * only that changes a vCPU's state.
 *
 * Context: any thread with the BQL held.
 * Returns: false if it is not worth to wait (any longer).
 */
bool kvm_prefault_wait_for_vcpus(void);

/**
 * kvm_prefault_host_done: the host pages of all backends are populated
 * @err: NULL, or why not; freed
 * @failed: names of the backends with which it failed; none if it did with all
 */
void kvm_prefault_host_done(Error *err, const GPtrArray *failed);

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
 * kvm_prefault_request_rest: ask for a pass over ranges that are incomplete
 *
 * What no vCPU was able to do may be possible by now.  Done beside the running
 * guest.  Context: state "partial".
 */
void kvm_prefault_request_rest(void);

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

/**
 * kvm_prefault_interrupt: get all vCPU threads out of ioctls of ours
 *
 * Unlike a kick it is not lost on a vCPU that has been kicked already.
 */
void kvm_prefault_interrupt(void);

/* kvm-prefault-worker.c */

/**
 * kvm_prefault_vcpu_early: do @cpu's share of a pass while it is stopped
 *
 * Context: the vCPU's own thread, as queued work, BQL held.
 * Returns: false if it was interrupted and had better be asked again.
 */
bool kvm_prefault_vcpu_early(CPUState *cpu);

/**
 * kvm_prefault_can_go_on: whether some vCPU is able to do some of the work
 */
bool kvm_prefault_can_go_on(void);

/**
 * kvm_prefault_inline: do all work now, on the calling vCPU's thread
 *
 * Returns: false if some is left, which others have to do, or this vCPU later.
 */
bool kvm_prefault_inline(CPUState *cpu);

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

/* kvm-prefault-listener.c */

/**
 * kvm_prefault_is_ram: whether @mr is writable RAM of a memory backend
 */
bool kvm_prefault_is_ram(MemoryRegion *mr);

/**
 * kvm_prefault_populate_devices: populate device RAM that came meanwhile
 *
 * A background snapshot has ended, during which that had to wait.
 * Context: BQL held.
 */
void kvm_prefault_populate_devices(void);

/**
 * kvm_prefault_renew_slots: have KVM's slots made anew, with other flags
 *
 * Context: BQL held, no vCPU has run.
 */
void kvm_prefault_renew_slots(void);

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
