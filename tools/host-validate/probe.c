/*
 * prefault-host-validate: what only system calls tell
 *
 * The answers are kept by name in a key file, group "probes", so that they
 * can be recorded beside /proc and /sys:
 *
 *   kvm-open, kvm-create-vm, io-uring-setup, io-uring-buffers
 *       errno, 0 for success; those that build on one that failed are absent
 *   kvm-cap-NAME
 *       what KVM_CHECK_EXTENSION has returned
 *   memlock-limit, cap-ipc-lock
 *       bytes that this user may lock (-1: no limit), and whether by a
 *       capability
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/io_uring.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "host-validate.h"
#include "kvm-prefault-abi.h"

#define GROUP "probes"
#define FILE_NAME "probes"

/* Newer than the headers of Debian 12 */
#ifndef KVM_CAP_PRE_FAULT_MEMORY
#define KVM_CAP_PRE_FAULT_MEMORY 236
#endif
#ifndef KVM_CAP_X86_APIC_BUS_CYCLES_NS
#define KVM_CAP_X86_APIC_BUS_CYCLES_NS 237
#endif
#ifndef KVM_X86_QUIRK_SLOT_ZAP_ALL
#define KVM_X86_QUIRK_SLOT_ZAP_ALL (1 << 7)
#endif

/* Asked where the fork asks: of the VM, or of KVM as a whole */
static const struct {
    const char *name;
    unsigned long number;
    bool of_vm;
} capabilities[] = {
    { "kvm-cap-pre-fault-memory", KVM_CAP_PRE_FAULT_MEMORY, true },
    { "kvm-cap-disable-quirks2", KVM_CAP_DISABLE_QUIRKS2, true },
    { "kvm-cap-multi-address-space", KVM_CAP_MULTI_ADDRESS_SPACE, true },
    { "kvm-cap-binary-stats-fd", KVM_CAP_BINARY_STATS_FD, false },
    { "kvm-cap-sregs2", KVM_CAP_SREGS2, false },
    { "kvm-cap-apic-bus-cycles-ns", KVM_CAP_X86_APIC_BUS_CYCLES_NS, false },
    { "kvm-cap-mem-always-writable", KVM_CAP_MEM_ALWAYS_WRITABLE, false },
    { "kvm-cap-mtrr-zap", KVM_CAP_MTRR_ZAP, false },
};

static void set(HvHost *host, const char *name, int64_t value)
{
    g_key_file_set_int64(host->probes, GROUP, name, value);
}

/* Keeps errno of what has just failed, or 0 */
static bool set_result(HvHost *host, const char *name, int ret)
{
    set(host, name, ret < 0 ? errno : 0);
    return ret >= 0;
}

static void probe_capabilities(HvHost *host, int kvm, int vm)
{
    unsigned i;

    for (i = 0; i < G_N_ELEMENTS(capabilities); i++) {
        int fd = capabilities[i].of_vm ? vm : kvm;
        int ret = fd < 0 ? -1 : ioctl(fd, KVM_CHECK_EXTENSION,
                                      capabilities[i].number);

        if (ret >= 0) {
            set(host, capabilities[i].name, ret);
        }
    }
}

static void probe_kvm(HvHost *host)
{
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    int vm;

    if (!set_result(host, "kvm-open", kvm)) {
        return;
    }
    vm = ioctl(kvm, KVM_CREATE_VM, 0UL);
    set_result(host, "kvm-create-vm", vm);
    probe_capabilities(host, kvm, vm);
    if (vm >= 0) {
        close(vm);
    }
    close(kvm);
}

/* What 'pin-ram=longterm' needs: a ring with room for one buffer more */
static void probe_io_uring(HvHost *host)
{
    struct io_uring_params params = { 0 };
    struct io_uring_rsrc_register buffers = {
        .nr = 1,
        .flags = IORING_RSRC_REGISTER_SPARSE,
    };
    int ring = syscall(__NR_io_uring_setup, 1, &params);

    if (set_result(host, "io-uring-setup", ring)) {
        set_result(host, "io-uring-buffers",
                   syscall(__NR_io_uring_register, ring,
                           IORING_REGISTER_BUFFERS2, &buffers,
                           sizeof(buffers)));
        close(ring);
    }
}

static bool may_lock_anything(void)
{
    g_autofree char *status = NULL;
    const char *caps;

    if (!g_file_get_contents("/proc/self/status", &status, NULL, NULL)) {
        return false;
    }
    caps = strstr(status, "\nCapEff:");
    return caps && g_ascii_strtoull(caps + strlen("\nCapEff:"), NULL, 16) &
                   (1ULL << CAP_IPC_LOCK);
}

static void probe_memlock(HvHost *host)
{
    bool capable = may_lock_anything();
    struct rlimit limit;

    if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0) {
        set(host, "memlock-limit", limit.rlim_cur == RLIM_INFINITY ||
            limit.rlim_cur > G_MAXINT64 ? -1 : (int64_t)limit.rlim_cur);
        set(host, "cap-ipc-lock", capable);
    }
}

static char *file_in(const char *directory)
{
    return g_build_filename(directory, FILE_NAME, NULL);
}

static bool load_recorded(HvHost *host, GError **error)
{
    g_autofree char *path = file_in(host->root);

    if (!g_file_test(path, G_FILE_TEST_EXISTS)) {
        return true;
    }
    if (!g_key_file_load_from_file(host->probes, path, G_KEY_FILE_NONE,
                                   error)) {
        g_prefix_error(error, "%s: ", path);
        return false;
    }
    return true;
}

bool hv_probe_load(HvHost *host, GError **error)
{
    host->probes = g_key_file_new();
    if (host->root) {
        return load_recorded(host, error);
    }
    probe_kvm(host);
    probe_io_uring(host);
    probe_memlock(host);
    return true;
}

bool hv_probe_save(const HvHost *host, GError **error)
{
    g_autofree char *path = file_in(host->record);

    return g_key_file_save_to_file(host->probes, path, error);
}

bool hv_probe(const HvHost *host, const char *name, int64_t *value)
{
    g_autoptr(GError) error = NULL;
    int64_t found = g_key_file_get_int64(host->probes, GROUP, name, &error);

    if (error) {
        return false;
    }
    *value = found;
    return true;
}

static int64_t answer(const HvHost *host, const char *name)
{
    int64_t value = 0;

    hv_probe(host, name, &value);
    return value;
}

static HvMtrrZap mtrr_zap(const HvHost *host)
{
    if (answer(host, "kvm-cap-mtrr-zap") == KVM_MTRR_ZAP_MAGIC) {
        return HV_MTRR_ZAP_SELECTABLE;
    }
    return answer(host, "kvm-cap-apic-bus-cycles-ns") > 0 ?
           HV_MTRR_ZAP_OBSOLETE : HV_MTRR_ZAP_FIXED;
}

static void offer_memlock(const HvHost *host, HvOffer *offer)
{
    offer->memlock_known = hv_probe(host, "memlock-limit",
                                    &offer->memlock_limit);
    if (answer(host, "cap-ipc-lock")) {
        offer->memlock_limit = -1;
    }
}

HvOffer hv_offer(const HvHost *host)
{
    g_autofree char *nx = hv_read(host,
                                  "/sys/module/kvm/parameters/nx_huge_pages");
    int64_t failed = 0;
    HvOffer offer = {
        .known = hv_probe(host, "kvm-open", &failed) && !failed &&
                 hv_probe(host, "kvm-create-vm", &failed) && !failed,
        .pre_fault_memory = answer(host, "kvm-cap-pre-fault-memory") > 0,
        .slot_zap = answer(host, "kvm-cap-disable-quirks2") &
                    KVM_X86_QUIRK_SLOT_ZAP_ALL,
        .always_writable = answer(host, "kvm-cap-mem-always-writable") ==
                           KVM_MEM_ALWAYS_WRITABLE_MAGIC,
        .mtrr_zap = mtrr_zap(host),
        .nx_huge_pages = nx && nx[0] == 'Y',
        .address_spaces = MAX(answer(host, "kvm-cap-multi-address-space"), 1),
        .statistics = answer(host, "kvm-cap-binary-stats-fd") > 0,
        .sregs2 = answer(host, "kvm-cap-sregs2") > 0,
    };

    offer_memlock(host, &offer);
    return offer;
}

const char *hv_mtrr_zap_str(HvMtrrZap zap)
{
    static const char *const names[] = { "fixed", "selectable", "obsolete" };

    return names[zap];
}
