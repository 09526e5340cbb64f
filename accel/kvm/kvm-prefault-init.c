/*
 * KVM pre-fault: what was asked for, what the host can do, what is done
 *
 * Everything that can be refused is refused here, before guest RAM is
 * touched.
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/kvm.h>
#include <sched.h>
#include "qemu/error-report.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "exec/memory.h"
#include "hw/boards.h"
#include "system/kvm_int.h"
#include "system/system.h"
#include "kvm-prefault.h"
#include "kvm-prefault-abi.h"
#include "kvm-prefault-discard.h"
#include "kvm-prefault-host.h"
#include "kvm-prefault-method.h"
#include "kvm-prefault-migration.h"
#include "kvm-prefault-refine.h"

/* Asked for and impossible: refuse.  Best effort: say why and go on. */
static void impossible(bool refuse, Error *err)
{
    KVMPrefault *p = &kvm_prefault;

    if (refuse) {
        error_report_err(err);
        exit(EXIT_FAILURE);
    }
    kvm_prefault_reason(p->host_reasons, "%s", error_get_pretty(err));
    warn_report_err(err);
}

/* The host cannot do what was asked for, found out before RAM is touched */
static void give_up(Error *err)
{
    KVMPrefault *p = &kvm_prefault;

    impossible(p->config.mode == ON_OFF_AUTO_ON || p->config.pin_set, err);
    p->tdp_on = false;
    p->pin = KVM_PIN_RAM_OFF;
    p->state = KVM_PREFAULT_STATE_FAILED;
    /*
     * A host that is short of memory needs the balloon, and the zero page for
     * what is only read.  What else has been switched on stays, because KVM
     * knows no way back and it costs nothing: slots are zapped one by one,
     * guest MTRRs zap nothing.
     */
    kvm_prefault_discard_allow();
    if (p->always_writable) {
        p->always_writable = false;
        kvm_prefault_renew_slots();
    }
}

static void machine_done(Notifier *notifier, void *data)
{
    KVMPrefault *p = &kvm_prefault;
    Error *err = NULL;

    if (!kvm_prefault_discard_forbid(&err)) {
        give_up(err);
        return;
    }
    if (!kvm_prefault_check_memory(&err) ||
        (p->tdp_on && !kvm_prefault_method_start(&err))) {
        give_up(err);
        return;
    }
    if ((p->pin == KVM_PIN_RAM_LONGTERM && !kvm_prefault_check_pin(&err)) ||
        (p->pin != KVM_PIN_RAM_OFF && !kvm_prefault_check_memlock(&err))) {
        impossible(p->config.mode == ON_OFF_AUTO_ON || p->config.pin_set,
                   err);
        p->pin = KVM_PIN_RAM_OFF;
    }
    p->machine_ready = true;
}

static Notifier machine_done_notifier = { .notify = machine_done };

static unsigned host_cpus_available(void)
{
    cpu_set_t set;

    if (sched_getaffinity(0, sizeof(set), &set) == 0) {
        return CPU_COUNT(&set);
    }
    return g_get_num_processors();
}

static void init_threads(MachineState *ms)
{
    KVMPrefault *p = &kvm_prefault;

    p->nr_vcpus = ms->smp.max_cpus;
    p->vcpus = g_new0(KVMPrefaultVCPU, p->nr_vcpus);
    if (p->config.threads > ms->smp.max_cpus) {
        error_report("'%s' is %" PRIu32 ", but must be 0 (automatic) to %u, "
                     "the number of vCPUs: each thread needs a vCPU of its "
                     "own", PROP_PREFAULT_THREADS, p->config.threads,
                     ms->smp.max_cpus);
        exit(EXIT_FAILURE);
    }
    p->threads = kvm_prefault_pick_threads(p->config.threads,
                                           ms->smp.max_cpus,
                                           host_cpus_available());
}

static void init_tdp(KVMState *s, MachineState *ms)
{
    KVMPrefault *p = &kvm_prefault;
    Error *err = NULL;

    if (p->config.mode == ON_OFF_AUTO_OFF) {
        return;
    }
    if (ms->cgs) {
        error_setg(&err, "'%s=%s' is not possible for confidential guests",
                   PROP_PREFAULT, OnOffAuto_str(p->config.mode));
    } else {
        kvm_prefault_method_choose(s, &err);
    }
    if (err) {
        impossible(p->config.mode == ON_OFF_AUTO_ON, err);
        p->state = KVM_PREFAULT_STATE_FAILED;
        return;
    }
    p->tdp_on = true;
    kvm_prefault_refine_slots();
}

static void report_nx_huge_pages(void)
{
    Error *err = NULL;

    if (!kvm_prefault.tdp_on || !kvm_prefault.has_nx_huge_pages) {
        return;
    }
    error_setg(&err, "'%s=%s': the guest's first instruction fetch from each "
               "huge page will fault: KVM has nx_huge_pages on", PROP_PREFAULT,
               OnOffAuto_str(kvm_prefault.config.mode));
    error_append_hint(&err, "Boot the host with kvm.nx_huge_pages=off if its "
                      "CPU does not have the iTLB multihit erratum or the "
                      "guest is trusted.\n");
    impossible(false, err);
}

static void init_slot_zap(KVMState *s)
{
    KVMPrefault *p = &kvm_prefault;
    KvmSlotZap asked = p->config.slot_zap;
    Error *err = NULL;
    int ret;

    if (!p->config.slot_zap_set) {
        asked = p->tdp_on ? KVM_SLOT_ZAP_AUTO : KVM_SLOT_ZAP_ALL;
    }
    p->slot_zap = KVM_SLOT_ZAP_ALL;
    if (asked == KVM_SLOT_ZAP_ALL) {
        return;
    }
    ret = p->has_slot_zap ? kvm_arch_prefault_set_slot_zap(s) : -EOPNOTSUPP;
    if (ret < 0) {
        error_setg_errno(&err, -ret, "'%s=%s': KVM cannot limit zaps to the "
                         "deleted memory slot (KVM_X86_QUIRK_SLOT_ZAP_ALL)",
                         PROP_SLOT_ZAP, KvmSlotZap_str(asked));
        error_append_hint(&err, "It takes Linux 6.12 or later; use %s=all.\n",
                          PROP_SLOT_ZAP);
        impossible(asked == KVM_SLOT_ZAP_SLOT, err);
        return;
    }
    p->slot_zap = KVM_SLOT_ZAP_SLOT;
}

static void init_always_writable(void)
{
    KVMPrefault *p = &kvm_prefault;
    OnOffAuto asked = p->config.always_writable;
    Error *err = NULL;

    if (!p->config.always_writable_set) {
        asked = p->tdp_on ? ON_OFF_AUTO_AUTO : ON_OFF_AUTO_OFF;
    }
    if (asked == ON_OFF_AUTO_OFF || p->has_always_writable) {
        p->always_writable = asked != ON_OFF_AUTO_OFF;
        return;
    }
    if (asked == ON_OFF_AUTO_AUTO && !p->config.always_writable_set) {
        /* an improvement that nobody asked for: the query shows it */
        return;
    }
    error_setg(&err, "'%s=%s' needs KVM_MEM_ALWAYS_WRITABLE, which this "
               "host's KVM does not have", PROP_ALWAYS_WRITABLE,
               OnOffAuto_str(asked));
    error_append_hint(&err, "It takes the project's KVM modules "
                      "(make kvm-modules); use %s=off.\n",
                      PROP_ALWAYS_WRITABLE);
    impossible(asked == ON_OFF_AUTO_ON, err);
}

static int set_mtrr_zap(KVMState *s, KvmMtrrZap zap)
{
    KVMPrefault *p = &kvm_prefault;
    int ret = p->mtrr_zap_support == KVM_MTRR_ZAP_SUPPORT_SELECTABLE ?
              kvm_arch_prefault_set_mtrr_zap(s, zap) : -ENOTTY;

    if (ret == 0) {
        p->mtrr_zap = zap;
    }
    return ret;
}

static void mtrr_zap_impossible(KvmMtrrZap asked, int ret)
{
    Error *err = NULL;

    error_setg(&err, "'%s=%s' needs %s, which this host does not have",
               PROP_MTRR_ZAP, KvmMtrrZap_str(asked),
               ret == -EOPNOTSUPP ? "a CPU with self-snoop"
                                  : "KVM_CAP_MTRR_ZAP or Linux 6.11");
    error_append_hint(&err, "%s; use %s=full.\n", ret == -EOPNOTSUPP ?
                      PROP_MTRR_ZAP "=range works on all CPUs" :
                      "It takes the project's KVM modules (make kvm-modules)",
                      PROP_MTRR_ZAP);
    impossible(asked != KVM_MTRR_ZAP_AUTO, err);
}

static void init_mtrr_zap(KVMState *s)
{
    KVMPrefault *p = &kvm_prefault;
    KvmMtrrZap asked = p->config.mtrr_zap;
    int ret;

    if (!p->config.mtrr_zap_set) {
        asked = p->tdp_on ? KVM_MTRR_ZAP_AUTO : KVM_MTRR_ZAP_FULL;
    }
    if (p->mtrr_zap_support == KVM_MTRR_ZAP_SUPPORT_OBSOLETE) {
        /* less than any of the values asks for */
        p->mtrr_zap = KVM_MTRR_ZAP_NONE;
        return;
    }
    p->mtrr_zap = KVM_MTRR_ZAP_FULL;
    if (asked == KVM_MTRR_ZAP_FULL) {
        return;
    }
    ret = set_mtrr_zap(s, asked == KVM_MTRR_ZAP_AUTO ? KVM_MTRR_ZAP_NONE
                                                     : asked);
    if (ret < 0 && asked == KVM_MTRR_ZAP_AUTO) {
        ret = set_mtrr_zap(s, KVM_MTRR_ZAP_RANGE);
    }
    if (ret < 0 && p->config.mtrr_zap_set) {
        mtrr_zap_impossible(asked, ret);
    }
}

/*
 * QEMU aligns anonymous memory only.  Where a mapping that has to be split
 * (what is unplugged is unlocked) is not a multiple of the size of huge pages,
 * Linux makes KVM drop all that such a page would cover
 * (split_huge_pmd_if_needed()); and KVM maps huge pages only where addresses
 * in QEMU and in the guest are aligned alike.
 */
size_t kvm_prefault_ram_align(size_t align)
{
    KVMPrefault *p = &kvm_prefault;

    return p->tdp_on || p->pin != KVM_PIN_RAM_OFF ? MAX(align, 2 * MiB)
                                                  : align;
}

uint32_t kvm_prefault_slot_flags(MemoryRegion *mr)
{
    /*
     * KVM refuses the flag for memory that is private to the guest, and with
     * it a read of what has been unplugged would allocate pages.
     */
    return kvm_prefault.always_writable && kvm_prefault_is_ram(mr) &&
           !memory_region_has_guest_memfd(mr) &&
           !memory_region_has_ram_discard_manager(mr) ?
           KVM_MEM_ALWAYS_WRITABLE : 0;
}

static void probe_host(KVMState *s)
{
    KVMPrefault *p = &kvm_prefault;

    p->has_always_writable =
        kvm_check_extension(s, KVM_CAP_MEM_ALWAYS_WRITABLE) ==
        KVM_MEM_ALWAYS_WRITABLE_MAGIC;

    p->has_ioctl = kvm_vm_check_extension(s, KVM_CAP_PRE_FAULT_MEMORY) > 0;
    /* not for nothing: it takes a VM */
    p->lifts_protection = p->has_ioctl &&
                          p->config.mode != ON_OFF_AUTO_OFF &&
                          kvm_arch_prefault_lifts_protection(s);
    p->has_slot_zap = kvm_arch_prefault_has_slot_zap(s);
    p->mtrr_zap_support = kvm_arch_prefault_mtrr_zap_support(s);
    p->has_nx_huge_pages = kvm_arch_prefault_nx_huge_pages();
    p->has_stats = kvm_check_extension(s, KVM_CAP_BINARY_STATS_FD) > 0;
    p->nr_as = s->nr_as;
}

void kvm_prefault_init(KVMState *s, MachineState *ms)
{
    KVMPrefault *p = &kvm_prefault;

    kvm_prefault_core_init();
    probe_host(s);
    init_threads(ms);
    init_tdp(s, ms);
    report_nx_huge_pages();
    init_slot_zap(s);
    init_always_writable();
    init_mtrr_zap(s);
    p->pin = p->config.pin_set ? p->config.pin :
             p->tdp_on ? KVM_PIN_RAM_MLOCK : KVM_PIN_RAM_OFF;
    if (p->tdp_on || p->pin != KVM_PIN_RAM_OFF) {
        kvm_prefault_migration_init();
        qemu_add_machine_init_done_notifier(&machine_done_notifier);
    }
}
