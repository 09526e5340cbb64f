/*
 * KVM pre-fault: vCPUs that are kept out of the guest
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef ACCEL_KVM_PREFAULT_PAUSE_H
#define ACCEL_KVM_PREFAULT_PAUSE_H

/**
 * kvm_prefault_pause_init: make timers
 */
void kvm_prefault_pause_init(void);

/**
 * kvm_prefault_hold: keep all vCPUs out of the guest until they are released
 *
 * A guest that has run is let go of after 'prefault-max-hold'.
 */
void kvm_prefault_hold(void);

/**
 * kvm_prefault_hold_before_start: the same, however long it takes
 *
 * For a guest that begins with its firmware: nothing runs that could notice.
 */
void kvm_prefault_hold_before_start(void);

/**
 * kvm_prefault_hold_counts: a guest that is held is about to run
 *
 * What follows is time that it misses, so the limit holds from now on.
 */
void kvm_prefault_hold_counts(void);

/**
 * kvm_prefault_hold_pauses: a guest that is held misses no time from now on
 *
 * It has been stopped, or starts anew.
 */
void kvm_prefault_hold_pauses(void);

/**
 * kvm_prefault_hold_end: let go of the guest, the pass goes on beside it
 */
void kvm_prefault_hold_end(void);

/**
 * kvm_prefault_release: let waiting vCPUs enter the guest
 *
 * As soon as no vCPU is borrowed any more.
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

#endif
