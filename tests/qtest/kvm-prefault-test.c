/*
 * KVM pre-fault: properties, refusals and the query, without a guest
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include "libqtest.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "qobject/qstring.h"
#include "accel/kvm/kvm-prefault-abi.h"

#ifndef KVM_CAP_PRE_FAULT_MEMORY
#define KVM_CAP_PRE_FAULT_MEMORY 236
#endif

/* A start that is refused must be refused at once */
#define REFUSAL_SECONDS 20

static bool have_kvm(void)
{
    int fd = open("/dev/kvm", O_RDWR);

    if (fd >= 0) {
        close(fd);
    }
    return fd >= 0;
}

static int kvm_capability(int capability)
{
    int fd = open("/dev/kvm", O_RDWR);
    int ret = fd >= 0 ? ioctl(fd, KVM_CHECK_EXTENSION, capability) : 0;

    if (fd >= 0) {
        close(fd);
    }
    return ret;
}

static bool kvm_can_prefault(void)
{
    return kvm_capability(KVM_CAP_PRE_FAULT_MEMORY) > 0;
}

/* Run QEMU with @args and return its exit status; *output is its stderr */
static int run_qemu(const char *args, char **output)
{
    g_autofree char *command =
        g_strdup_printf("timeout %d %s -display none -nodefaults %s",
                        REFUSAL_SECONDS, g_getenv("QTEST_QEMU_BINARY"), args);
    g_autoptr(GError) err = NULL;
    int status;

    g_spawn_command_line_sync(command, NULL, output, &status, &err);
    g_assert_no_error(err);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void assert_contains(const char *text, const char *part)
{
    if (!strstr(text, part)) {
        g_test_message("expected \"%s\" in: %s", part, text);
        g_test_fail();
    }
}

/* @args must be refused with a message that has all of @parts in it */
static void assert_refused(const char *args, const char *const *parts)
{
    g_autofree char *output = NULL;

    g_assert_cmpint(run_qemu(args, &output), ==, 1);
    for (; *parts; parts++) {
        assert_contains(output, *parts);
    }
}

#define ASSERT_REFUSED(args, ...) \
    assert_refused(args, (const char *const[]) { __VA_ARGS__, NULL })

static void test_unknown_values(void)
{
    ASSERT_REFUSED("-M none -accel kvm,prefault=maybe",
                   "'prefault' cannot be 'maybe'", "auto, on, off");
    ASSERT_REFUSED("-M none -accel kvm,prefault-method=none",
                   "'prefault-method' cannot be 'none'", "auto, ioctl, vcpu");
    ASSERT_REFUSED("-M none -accel kvm,prefault-wait=1",
                   "'prefault-wait' cannot be '1'", "off, on");
    ASSERT_REFUSED("-M none -accel kvm,pin-ram=yes",
                   "'pin-ram' cannot be 'yes'", "off, mlock, longterm");
    ASSERT_REFUSED("-M none -accel kvm,slot-zap=none",
                   "'slot-zap' cannot be 'none'", "auto, all, slot");
    ASSERT_REFUSED("-M none -accel kvm,always-writable=yes",
                   "'always-writable' cannot be 'yes'", "auto, on, off");
    ASSERT_REFUSED("-M none -accel kvm,mtrr-zap=slot",
                   "'mtrr-zap' cannot be 'slot'", "auto, full, range, none");
    ASSERT_REFUSED("-M none -accel kvm,prefault-threads=-1",
                   "'prefault-threads' must be a number");
    ASSERT_REFUSED("-M none -accel kvm,prefault-max-hold=long",
                   "'prefault-max-hold' must be a number of milliseconds");
    ASSERT_REFUSED("-M none -accel kvm,prefault-max-hold=3600001",
                   "'prefault-max-hold' must be", "3600000", "no limit");
}

static void test_threads_out_of_range(void)
{
    if (!have_kvm()) {
        g_test_skip("no /dev/kvm");
        return;
    }
    ASSERT_REFUSED("-M none -accel kvm,prefault-threads=2",
                   "'prefault-threads' is 2", "0 (automatic) to 1",
                   "number of vCPUs");
}

static bool parameter_is_set(const char *path)
{
    g_autofree char *value = NULL;

    return g_file_get_contents(path, &value, NULL, NULL) &&
           (value[0] == 'Y' || value[0] == '1');
}

static bool tdp_in_use(void)
{
    return parameter_is_set("/sys/module/kvm_intel/parameters/ept") ||
           parameter_is_set("/sys/module/kvm_amd/parameters/npt");
}

static void test_on_needs_capability(void)
{
    if (!have_kvm() || kvm_can_prefault() || tdp_in_use()) {
        g_test_skip("needs a KVM without EPT and NPT");
        return;
    }
    ASSERT_REFUSED("-M none -accel kvm,prefault=on",
                   "'prefault=on' needs KVM_PRE_FAULT_MEMORY",
                   "Linux 6.11", "prefault=auto");
    ASSERT_REFUSED("-M none,prefault=on -accel kvm -accel tcg",
                   "'prefault=on' needs KVM_PRE_FAULT_MEMORY");
}

/* Each method says what it is that the host does not have */
static void test_method_needs_host(void)
{
    if (!have_kvm() || kvm_can_prefault()) {
        g_test_skip("needs a KVM without KVM_PRE_FAULT_MEMORY");
        return;
    }
    ASSERT_REFUSED("-M none -accel kvm,prefault=on,prefault-method=ioctl",
                   "'prefault-method=ioctl' needs KVM_PRE_FAULT_MEMORY");
    if (tdp_in_use()) {
        return;
    }
    ASSERT_REFUSED("-M none,prefault-method=vcpu -accel kvm,prefault=on",
                   "'prefault-method=vcpu' needs EPT or NPT", "kvm_intel.ept=1",
                   "prefault=auto");
    ASSERT_REFUSED("-M none -accel kvm,prefault=on",
                   "'prefault=on' needs KVM_PRE_FAULT_MEMORY",
                   "'prefault-method=vcpu' needs EPT or NPT");
}

static void test_always_writable_needs_capability(void)
{
    if (!have_kvm() || kvm_capability(KVM_CAP_MEM_ALWAYS_WRITABLE) ==
                       KVM_MEM_ALWAYS_WRITABLE_MAGIC) {
        g_test_skip("needs a KVM without KVM_MEM_ALWAYS_WRITABLE");
        return;
    }
    ASSERT_REFUSED("-M none -accel kvm,always-writable=on",
                   "'always-writable=on' needs KVM_MEM_ALWAYS_WRITABLE",
                   "make kvm-modules", "always-writable=off");
}

static void test_machine_option_needs_kvm(void)
{
    ASSERT_REFUSED("-M none,prefault=on -accel tcg",
                   "'prefault=on' needs the kvm accelerator", "tcg",
                   "prefault=auto");
}

static void test_machine_option_is_validated(void)
{
    if (!have_kvm()) {
        g_test_skip("no /dev/kvm");
        return;
    }
    ASSERT_REFUSED("-M none,pin-ram=maybe -accel kvm",
                   "'pin-ram' cannot be 'maybe'");
}

/* Start with @args, and return what query-kvm-prefault says */
static QDict *query(const char *args)
{
    QTestState *qts = qtest_init(args);
    QDict *response, *info;

    response = qtest_qmp(qts, "{'execute': 'query-kvm-prefault'}");
    info = qdict_get_qdict(response, "return");
    g_assert_nonnull(info);
    qobject_ref(info);
    qobject_unref(response);
    qtest_quit(qts);
    return info;
}

static void assert_off(const char *args)
{
    QDict *info = query(args);

    g_assert_cmpstr(qdict_get_str(info, "state"), ==, "off");
    g_assert_cmpstr(qdict_get_str(info, "method"), ==, "none");
    g_assert_cmpstr(qdict_get_str(info, "slot-zap"), ==, "all");
    g_assert_cmpstr(qdict_get_str(info, "pin-ram"), ==, "off");
    g_assert_cmpint(qdict_get_int(info, "total-bytes"), ==, 0);
    g_assert_true(qlist_empty(qdict_get_qlist(info, "ranges")));
    g_assert_true(qlist_empty(qdict_get_qlist(info, "reasons")));
    g_assert_false(qdict_haskey(info, "faults-since-ready"));
    g_assert_cmpint(qdict_get_int(qdict_get_qdict(info, "pauses"), "count"),
                    ==, 0);
    qobject_unref(info);
}

static void test_query_without_kvm(void)
{
    assert_off("-M none");
    assert_off("-M pc");
    assert_off("-M q35,prefault=off");
    assert_off("-M none -accel tcg");
}

static void test_auto_without_kvm(void)
{
    g_autofree char *output = NULL;

    /* the device that does not exist ends QEMU after the warning */
    run_qemu("-M none,prefault=auto -accel tcg -device no-such-device",
             &output);
    assert_contains(output, "'prefault=auto' has no effect");
    assert_contains(output, "tcg");
}

static void test_dropped_accel(void)
{
    g_autofree char *output = NULL;

    run_qemu("-M none -accel tcg -accel kvm,pin-ram=mlock "
             "-device no-such-device", &output);
    assert_contains(output, "'pin-ram' on a second '-accel kvm' has no effect");
    assert_contains(output, "-machine pin-ram=");
}

static void test_auto_says_why(void)
{
    const QListEntry *reason;
    QDict *info;

    if (!have_kvm() || kvm_can_prefault() || tdp_in_use()) {
        g_test_skip("needs a KVM without EPT and NPT");
        return;
    }
    info = query("-M none -accel kvm,prefault=auto");
    g_assert_cmpstr(qdict_get_str(info, "state"), ==, "failed");
    g_assert_cmpstr(qdict_get_str(info, "mode"), ==, "auto");
    reason = qlist_first(qdict_get_qlist(info, "reasons"));
    g_assert_nonnull(reason);
    assert_contains(qstring_get_str(qobject_to(QString, reason->value)),
                    "KVM_PRE_FAULT_MEMORY");
    qobject_unref(info);
}

static void test_command_without_kvm(void)
{
    QTestState *qts = qtest_init("-M none");
    QDict *response = qtest_qmp(qts, "{'execute': 'kvm-prefault'}");
    QDict *error = qdict_get_qdict(response, "error");

    g_assert_nonnull(error);
    assert_contains(qdict_get_str(error, "desc"), "'prefault' is 'off'");
    qobject_unref(response);
    qtest_quit(qts);
}

static void test_hmp(void)
{
    QTestState *qts = qtest_init("-M none");
    g_autofree char *text = qtest_hmp(qts, "info kvm_prefault");

    assert_contains(text, "state:            off (prefault=off)");
    qtest_quit(qts);
}

static int compare_strings(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/*
 * All flat views before the machine's first instruction; their order, and so
 * their number, is that of a hash table
 */
static GStrv flat_views(const char *machine, const char *mode)
{
    QTestState *qts = qtest_initf("-M %s -accel kvm,prefault=%s -m 64 -S",
                                  machine, mode);
    g_autofree char *text = qtest_hmp(qts, "info mtree -f");
    GStrv views = g_strsplit(text, "FlatView #", -1);
    unsigned i;

    assert_contains(text, "ram): pc.ram KVM");
    for (i = 0; views[i]; i++) {
        unsigned digits = strspn(views[i], "0123456789");

        memmove(views[i], views[i] + digits, strlen(views[i] + digits) + 1);
    }
    qsort(views, i, sizeof(*views), compare_strings);
    qtest_quit(qts);
    return views;
}

/* With prefault in force where KVM has second-level tables */
static void test_flat_view_is_upstream(gconstpointer machine)
{
    bool in_force = tdp_in_use() && kvm_can_prefault();
    g_auto(GStrv) off = NULL, on = NULL;
    unsigned i;

    if (!have_kvm() || !qtest_has_machine(machine)) {
        g_test_skip("needs KVM, and the machine type to be built");
        return;
    }
    off = flat_views(machine, "off");
    on = flat_views(machine, in_force ? "on" : "auto");
    for (i = 0; off[i] && on[i]; i++) {
        g_assert_cmpstr(off[i], ==, on[i]);
    }
    g_assert_true(!off[i] && !on[i]);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qtest_add_func("/kvm-prefault/unknown-values", test_unknown_values);
    qtest_add_func("/kvm-prefault/threads-out-of-range",
                   test_threads_out_of_range);
    qtest_add_func("/kvm-prefault/on-needs-capability",
                   test_on_needs_capability);
    qtest_add_func("/kvm-prefault/method-needs-host", test_method_needs_host);
    qtest_add_func("/kvm-prefault/always-writable-needs-capability",
                   test_always_writable_needs_capability);
    qtest_add_func("/kvm-prefault/machine-option-needs-kvm",
                   test_machine_option_needs_kvm);
    qtest_add_func("/kvm-prefault/machine-option-is-validated",
                   test_machine_option_is_validated);
    qtest_add_func("/kvm-prefault/query-without-kvm", test_query_without_kvm);
    qtest_add_func("/kvm-prefault/auto-without-kvm", test_auto_without_kvm);
    qtest_add_func("/kvm-prefault/dropped-accel", test_dropped_accel);
    qtest_add_func("/kvm-prefault/auto-says-why", test_auto_says_why);
    qtest_add_func("/kvm-prefault/command-without-kvm",
                   test_command_without_kvm);
    qtest_add_func("/kvm-prefault/hmp", test_hmp);
    qtest_add_data_func("/kvm-prefault/flat-view-is-upstream/pc", "pc",
                        test_flat_view_is_upstream);
    qtest_add_data_func("/kvm-prefault/flat-view-is-upstream/q35", "q35",
                        test_flat_view_is_upstream);
    qtest_add_data_func("/kvm-prefault/flat-view-is-upstream/microvm",
                        "microvm", test_flat_view_is_upstream);
    qtest_add_data_func("/kvm-prefault/flat-view-is-upstream/isapc", "isapc",
                        test_flat_view_is_upstream);
    return g_test_run();
}
