/*
 * KVM pre-fault: monitor commands and the event
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/kvm.h>
#include "qapi/error.h"
#include "qapi/qapi-commands-kvm-prefault.h"
#include "qapi/qapi-events-kvm-prefault.h"
#include "qobject/qdict.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "monitor/hmp.h"
#include "monitor/monitor.h"
#include "kvm-prefault.h"
#include "kvm-prefault-discard.h"
#include "kvm-prefault-host.h"
#include "kvm-prefault-migration.h"

static const char *first_reason(void)
{
    KVMPrefault *p = &kvm_prefault;

    if (p->pass_reasons->len) {
        return g_ptr_array_index(p->pass_reasons, 0);
    }
    return p->host_reasons->len ? g_ptr_array_index(p->host_reasons, 0) : NULL;
}

void kvm_prefault_event(void)
{
    KVMPrefault *p = &kvm_prefault;
    bool bad = p->state == KVM_PREFAULT_STATE_PARTIAL ||
               p->state == KVM_PREFAULT_STATE_FAILED;
    uint64_t total, populated;

    total = kvm_prefault_ranges_count(&p->ranges, &populated);
    p->last_event_ms = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
    qapi_event_send_kvm_prefault_status(p->state, populated, total,
                                        bad ? first_reason() : NULL);
}

static KvmPrefaultRangeList *query_ranges(void)
{
    KvmPrefaultRangeList *list = NULL, **tail = &list;
    KVMPrefaultRange *range;

    QTAILQ_FOREACH(range, &kvm_prefault.ranges.ranges, next) {
        KvmPrefaultRange *r = g_new0(KvmPrefaultRange, 1);

        r->as_id = range->as_id;
        r->gpa = range->gpa;
        r->size = range->size;
        r->populated = range->populated;
        r->ram = range->ram;
        r->name = g_strdup(range->name);
        QAPI_LIST_APPEND(tail, r);
    }
    return list;
}

static KvmPrefaultHost *query_host(void)
{
    KVMPrefault *p = &kvm_prefault;
    KvmPrefaultHost *host = g_new0(KvmPrefaultHost, 1);

    host->pre_fault_memory = p->has_ioctl;
    host->slot_zap = p->has_slot_zap;
    host->always_writable = p->has_always_writable;
    host->mtrr_zap = p->mtrr_zap_support;
    host->nx_huge_pages = p->has_nx_huge_pages;
    host->address_spaces = p->nr_as;
    host->statistics = p->has_stats;
    host->has_memlock_limit = kvm_prefault_memlock_limit(&host->memlock_limit);
    return host;
}

static KvmPrefaultCauses *query_causes(void)
{
    KvmPrefaultCauses *causes = g_new0(KvmPrefaultCauses, 1);
    const uint64_t *count = kvm_prefault.causes;

    causes->start = count[KVM_PREFAULT_CAUSE_START];
    causes->reset = count[KVM_PREFAULT_CAUSE_RESET];
    causes->wakeup = count[KVM_PREFAULT_CAUSE_WAKEUP];
    causes->slots = count[KVM_PREFAULT_CAUSE_SLOTS];
    causes->zap_all = count[KVM_PREFAULT_CAUSE_ZAP_ALL];
    causes->dirty_log = count[KVM_PREFAULT_CAUSE_DIRTY_LOG];
    causes->command = count[KVM_PREFAULT_CAUSE_COMMAND];
    causes->mtrr = count[KVM_PREFAULT_CAUSE_MTRR];
    causes->lost = count[KVM_PREFAULT_CAUSE_LOST];
    causes->incoming = count[KVM_PREFAULT_CAUSE_INCOMING];
    return causes;
}

/*
 * pf_emulate are MMIO accesses and writes to ROM; what is left of pf_taken
 * are the faults on memory slots, retried ones included
 * (Linux, kvm_mmu_page_fault()).
 */
static void query_faults(KvmPrefaultInfo *info)
{
    const KVMPrefaultCounts *since = &kvm_prefault.ready_counts;
    KVMPrefaultCounts now;
    KvmPrefaultFaults *faults;

    if (!kvm_prefault.have_ready_counts || !kvm_prefault_counts(&now)) {
        return;
    }
    faults = g_new0(KvmPrefaultFaults, 1);
    faults->total = (now.taken - now.emulated) -
                    (since->taken - since->emulated);
    faults->fixed = now.fixed - since->fixed;
    faults->spurious = now.spurious - since->spurious;
    faults->fast = now.fast - since->fast;
    info->faults = faults;
    info->has_faults_since_ready = true;
    info->faults_since_ready = faults->total;
}

static KvmPrefaultPauses *query_pauses(void)
{
    const KVMPrefaultPauses *taken = &kvm_prefault.pauses;
    KvmPrefaultPauses *pauses = g_new0(KvmPrefaultPauses, 1);

    pauses->count = taken->count;
    pauses->total_us = taken->total_us;
    pauses->max_us = taken->max_us;
    return pauses;
}

static strList *query_reasons(void)
{
    g_autoptr(GPtrArray) devices = g_ptr_array_new_with_free_func(g_free);
    GPtrArray *lists[] = { kvm_prefault.host_reasons,
                           kvm_prefault.pass_reasons, devices };
    strList *list = NULL, **tail = &list;
    unsigned i, j;

    kvm_prefault_discard_reasons(devices);
    for (i = 0; i < ARRAY_SIZE(lists); i++) {
        for (j = 0; j < lists[i]->len; j++) {
            QAPI_LIST_APPEND(tail, g_strdup(g_ptr_array_index(lists[i], j)));
        }
    }
    return list;
}

/* What there is to say with KVM in use */
static void query_kvm(KvmPrefaultInfo *info)
{
    KVMPrefault *p = &kvm_prefault;
    KvmPrefaultMapped mapped;

    info->state = p->state;
    info->method = p->tdp_on ? p->method : KVM_PREFAULT_METHOD_NONE;
    info->threads = p->tdp_on ? p->threads : 0;
    info->pin_ram = p->pin;
    info->slot_zap = p->slot_zap;
    info->always_writable = p->always_writable;
    info->mtrr_zap = p->mtrr_zap;
    info->total_bytes = kvm_prefault_ranges_count(&p->ranges,
                                                  &info->populated_bytes);
    kvm_prefault_host_progress(&info->host_bytes, &info->pinned_bytes);
    info->duration_us = p->duration_us;
    info->passes = p->passes_done;
    query_faults(info);
    info->incoming = kvm_prefault_query_incoming();
    if (kvm_prefault_mapped(&mapped)) {
        info->mapped = g_memdup2(&mapped, sizeof(mapped));
    }
    info->ranges = query_ranges();
    info->host = query_host();
    info->reasons = query_reasons();
}

KvmPrefaultInfo *qmp_query_kvm_prefault(Error **errp)
{
    KvmPrefaultInfo *info = g_new0(KvmPrefaultInfo, 1);

    info->mode = kvm_prefault.config.mode;
    info->wait = kvm_prefault.config.wait;
    info->max_hold_ms = kvm_prefault.config.max_hold_ms;
    info->slot_zap = KVM_SLOT_ZAP_ALL;
    info->mtrr_zap = KVM_MTRR_ZAP_FULL;
    info->repopulations = query_causes();
    info->pauses = query_pauses();
    if (kvm_enabled()) {
        query_kvm(info);
    }
    return info;
}

void qmp_kvm_prefault(Error **errp)
{
    KVMPrefault *p = &kvm_prefault;

    if (!kvm_enabled() || !p->tdp_on) {
        error_setg(errp, "guest RAM is not pre-faulted: '%s' is '%s'%s",
                   PROP_PREFAULT, OnOffAuto_str(p->config.mode),
                   p->state == KVM_PREFAULT_STATE_FAILED ?
                   " and this host cannot do it" : "");
        return;
    }
    if (p->suspended) {
        error_setg(errp, "guest RAM cannot be pre-faulted while dirty logging "
                   "(migration) or a background snapshot is on");
        return;
    }
    kvm_prefault_request(KVM_PREFAULT_CAUSE_COMMAND);
}

static void print_size(Monitor *mon, const char *label, uint64_t bytes)
{
    if (bytes >= GiB) {
        monitor_printf(mon, "%-18s%.2f GiB\n", label, (double)bytes / GiB);
    } else {
        monitor_printf(mon, "%-18s%.2f MiB\n", label, (double)bytes / MiB);
    }
}

static void print_faults(Monitor *mon, const KvmPrefaultInfo *info)
{
    if (!info->faults) {
        return;
    }
    monitor_printf(mon, "%-18s%" PRIu64 " (fixed %" PRIu64 ", spurious %"
                   PRIu64 ", fast %" PRIu64 ")\n", "faults since:",
                   info->faults->total, info->faults->fixed,
                   info->faults->spurious, info->faults->fast);
}

static void print_incoming(Monitor *mon, const KvmPrefaultIncoming *incoming)
{
    if (incoming) {
        print_size(mon, "before arrival:", incoming->early_bytes);
        print_size(mon, "after arrival:", incoming->late_bytes);
        monitor_printf(mon, "%-18s%.3f ms\n", "downtime:",
                       incoming->downtime_us / 1000.0);
    }
}

static void print_mapped(Monitor *mon, const KvmPrefaultMapped *mapped)
{
    if (mapped) {
        print_size(mon, "mapped by 4 KiB:", mapped->page_4k);
        print_size(mon, "mapped by 2 MiB:", mapped->page_2m);
        print_size(mon, "mapped by 1 GiB:", mapped->page_1g);
    }
}

static void print_ranges(Monitor *mon, const KvmPrefaultRangeList *list)
{
    monitor_printf(mon, "ranges:\n");
    for (; list; list = list->next) {
        const KvmPrefaultRange *r = list->value;

        monitor_printf(mon, "  as %" PRId64 " 0x%016" PRIx64 "-0x%016" PRIx64
                       " %3d%% %s%s\n", r->as_id, r->gpa,
                       r->gpa + r->size - 1,
                       (int)(r->populated * 100 / r->size), r->name,
                       r->ram ? "" : " (not RAM)");
    }
}

static void hmp_info_kvm_prefault(Monitor *mon, const QDict *qdict)
{
    g_autoptr(KvmPrefaultInfo) info = qmp_query_kvm_prefault(&error_abort);
    strList *reason;

    monitor_printf(mon, "%-18s%s (prefault=%s)\n", "state:",
                   KvmPrefaultState_str(info->state),
                   OnOffAuto_str(info->mode));
    monitor_printf(mon, "%-18s%s, %" PRId64 " threads\n", "method:",
                   KvmPrefaultMethod_str(info->method), info->threads);
    monitor_printf(mon, "%-18spin-ram=%s slot-zap=%s always-writable=%s "
                   "mtrr-zap=%s prefault-wait=%s\n", "settings:",
                   KvmPinRam_str(info->pin_ram),
                   KvmSlotZap_str(info->slot_zap),
                   info->always_writable ? "on" : "off",
                   KvmMtrrZap_str(info->mtrr_zap),
                   info->wait ? "on" : "off");
    monitor_printf(mon, "%-18s%" PRIu32 " ms at a time%s\n", "held at most:",
                   info->max_hold_ms, info->max_hold_ms ? "" : " (no limit)");
    print_size(mon, "total:", info->total_bytes);
    print_size(mon, "populated:", info->populated_bytes);
    print_size(mon, "host pages:", info->host_bytes);
    print_size(mon, "pinned:", info->pinned_bytes);
    monitor_printf(mon, "%-18s%.3f ms\n", "duration:",
                   info->duration_us / 1000.0);
    print_faults(mon, info);
    monitor_printf(mon, "%-18s%" PRIu64 ", %.3f ms, longest %.3f ms\n",
                   "pauses:", info->pauses->count,
                   info->pauses->total_us / 1000.0,
                   info->pauses->max_us / 1000.0);
    print_incoming(mon, info->incoming);
    print_mapped(mon, info->mapped);
    print_ranges(mon, info->ranges);
    for (reason = info->reasons; reason; reason = reason->next) {
        monitor_printf(mon, "%-18s%s\n", "reason:", reason->value);
    }
}

static void register_hmp(void)
{
    monitor_register_hmp("kvm_prefault", true, hmp_info_kvm_prefault);
}

type_init(register_hmp)
