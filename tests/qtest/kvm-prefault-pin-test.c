/*
 * KVM pre-fault: pin-ram=longterm pins, lets go, and says what it lacks
 *
 * Needs /dev/kvm, but neither EPT nor NPT.  What a guest notices of pinned
 * memory is for the lab.
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <linux/magic.h>
#include "qemu/units.h"
#include "libqtest.h"
#include "qobject/qdict.h"

/* A start that is refused must be refused at once */
#define REFUSAL_SECONDS "20"

#define PIN_SECONDS 30

#define RAM_MIB 64

#define PIN_ARGS "-accel kvm,pin-ram=longterm"

static bool skip_without_kvm(void)
{
    if (access("/dev/kvm", R_OK | W_OK) == 0) {
        return false;
    }
    g_test_skip("needs /dev/kvm");
    return true;
}

/* io_uring_setup() as the machine's kernel answers it: 0 or an errno */
static int io_uring_errno(void)
{
    /* no parameters: a kernel that has io_uring says EFAULT */
    syscall(SYS_io_uring_setup, 1, NULL);
    return errno == EFAULT ? 0 : errno;
}

static bool skip_without_io_uring(void)
{
    int err = io_uring_errno();

    if (err) {
        g_autofree char *why = g_strdup_printf("no io_uring here: %s",
                                               strerror(err));

        g_test_skip(why);
    }
    return err != 0;
}

/* Run QEMU with @args, after @setup in the child; returns its stderr */
static char *run_refused(const char *args, GSpawnChildSetupFunc setup,
                         void *opaque)
{
    g_autofree char *command =
        g_strdup_printf("timeout " REFUSAL_SECONDS " %s -display none "
                        "-nodefaults %s", g_getenv("QTEST_QEMU_BINARY"), args);
    g_auto(GStrv) argv = g_strsplit(command, " ", -1);
    g_autoptr(GError) err = NULL;
    char *output;
    int status;

    g_spawn_sync(NULL, argv, NULL, G_SPAWN_SEARCH_PATH, setup, opaque, NULL,
                 &output, &status, &err);
    g_assert_no_error(err);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 1) {
        g_test_message("wait status 0x%x, expected exit status 1: %s", status,
                       output);
        g_test_fail();
    }
    return output;
}

static void assert_parts(const char *output, const char *const *parts)
{
    for (; *parts; parts++) {
        if (!strstr(output, *parts)) {
            g_test_message("expected \"%s\" in: %s", *parts, output);
            g_test_fail();
        }
    }
}

#define ASSERT_PARTS(output, ...) \
    assert_parts(output, (const char *const[]) { __VA_ARGS__, NULL })

/* In the child: io_uring_setup() fails with the errno at @opaque */
static void filter_io_uring(void *opaque)
{
    int err = *(int *)opaque;
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | err),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { ARRAY_SIZE(code), code };

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) {
        _exit(3);
    }
}

static void test_seccomp(const void *opaque)
{
    int err = *(const int *)opaque;
    g_autofree char *output = NULL;

    if (skip_without_kvm()) {
        return;
    }
    output = run_refused("-M pc -m 64 " PIN_ARGS, filter_io_uring, &err);
    ASSERT_PARTS(output, "'pin-ram=longterm' needs io_uring", "seccomp",
                 strerror(err), "io_uring_register", "pin-ram=mlock");
}

/* In the child: 1 MiB may be locked, and no capability makes it more */
static void limit_memlock(void *opaque)
{
    struct rlimit limit = { 1 * MiB, 1 * MiB };

    if (setrlimit(RLIMIT_MEMLOCK, &limit) ||
        (geteuid() == 0 && prctl(PR_CAPBSET_DROP, CAP_IPC_LOCK, 0, 0, 0))) {
        _exit(3);
    }
}

static void test_memlock(void)
{
    g_autofree char *output = NULL;

    if (skip_without_kvm() || skip_without_io_uring()) {
        return;
    }
    output = run_refused("-M pc -m 64 " PIN_ARGS, limit_memlock, NULL);
    ASSERT_PARTS(output, "'pin-ram=longterm' needs 67108864 bytes",
                 "only 1048576 are allowed", "ulimit -l 65536",
                 "CAP_IPC_LOCK");
}

static bool on_memory_fs(const char *path)
{
    struct statfs fs;

    g_assert_cmpint(statfs(path, &fs), ==, 0);
    return fs.f_type == TMPFS_MAGIC || fs.f_type == HUGETLBFS_MAGIC;
}

static void test_file(void)
{
    g_autofree char *directory = g_get_current_dir();
    g_autofree char *path = g_build_filename(directory, "pin-test.ram", NULL);
    g_autofree char *args = NULL;
    g_autofree char *output = NULL;

    if (skip_without_kvm()) {
        return;
    }
    if (on_memory_fs(directory)) {
        g_test_skip("the current directory is in memory");
        return;
    }
    args = g_strdup_printf("-M pc,memory-backend=mem " PIN_ARGS " -m 64 "
                           "-object memory-backend-file,id=mem,size=64M,"
                           "share=on,mem-path=%s", path);
    output = run_refused(args, NULL, NULL);
    unlink(path);
    ASSERT_PARTS(output, "'pin-ram=longterm' cannot pin memory backend 'mem'",
                 "neither on tmpfs nor on hugetlbfs", "memory-backend-memfd");
}

/* "@name:" of /proc/@pid/status in bytes */
static uint64_t process_bytes(pid_t pid, const char *name)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/status", pid);
    g_autofree char *text = NULL;
    char *field;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    field = strstr(text, name);
    g_assert_nonnull(field);
    return g_ascii_strtoull(field + strlen(name) + 1, NULL, 10) * KiB;
}

/* A number of query-kvm-prefault */
static int64_t queried(QTestState *qts, const char *field)
{
    QDict *response = qtest_qmp(qts, "{'execute': 'query-kvm-prefault'}");
    int64_t value = qdict_get_int(qdict_get_qdict(response, "return"), field);

    qobject_unref(response);
    return value;
}

static uint64_t pinned_bytes(QTestState *qts)
{
    return queried(qts, "pinned-bytes");
}

static void wait_pinned(QTestState *qts, uint64_t bytes)
{
    int64_t end = g_get_monotonic_time() + PIN_SECONDS * G_USEC_PER_SEC;

    while (pinned_bytes(qts) != bytes && g_get_monotonic_time() < end) {
        g_usleep(20 * 1000);
    }
    g_assert_cmpuint(pinned_bytes(qts), ==, bytes);
}

static void pin(const char *args)
{
    QTestState *qts;

    if (skip_without_kvm() || skip_without_io_uring()) {
        return;
    }
    qts = qtest_initf("-M pc,memory-backend=mem " PIN_ARGS " -m %d %s",
                      RAM_MIB, args);
    wait_pinned(qts, RAM_MIB * MiB);
    g_assert_cmpuint(process_bytes(qtest_pid(qts), "VmPin"), ==,
                     RAM_MIB * MiB);
    g_assert_cmpuint(process_bytes(qtest_pid(qts), "VmLck"), >=,
                     RAM_MIB * MiB);
    qtest_quit(qts);
}

static void test_ram(void)
{
    pin("-object memory-backend-ram,id=mem,size=64M");
}

static void test_memfd(void)
{
    pin("-object memory-backend-memfd,id=mem,size=64M,share=on");
}

/* QEMU's own filter with everything that libvirt denies lets io_uring be */
static void test_sandbox(void)
{
    pin("-object memory-backend-ram,id=mem,size=64M -sandbox "
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,"
        "resourcecontrol=deny");
}

/* A reset pins nothing twice; what a second pass adds would show in VmPin */
static void test_reset(void)
{
    QTestState *qts;

    if (skip_without_kvm() || skip_without_io_uring()) {
        return;
    }
    qts = qtest_initf("-M pc " PIN_ARGS " -m %d", RAM_MIB);
    wait_pinned(qts, RAM_MIB * MiB);
    qtest_system_reset(qts);
    wait_pinned(qts, RAM_MIB * MiB);
    g_assert_cmpuint(process_bytes(qtest_pid(qts), "VmPin"), ==,
                     RAM_MIB * MiB);
    qtest_quit(qts);
}

/* What the guest's ACPI code does at the end of a DIMM's removal */
static void guest_eject(QTestState *qts)
{
    qtest_outl(qts, 0xa00, 0);
    qtest_outb(qts, 0xa14, 1 << 3);
    qtest_qmp_eventwait(qts, "DEVICE_DELETED");
}

/* A DIMM is pinned while it is plugged */
static void test_dimm(void)
{
    QTestState *qts;

    if (skip_without_kvm() || skip_without_io_uring()) {
        return;
    }
    qts = qtest_initf("-M pc " PIN_ARGS " -m %dM,slots=1,maxmem=1G -S",
                      RAM_MIB);
    wait_pinned(qts, RAM_MIB * MiB);
    qtest_qmp_assert_success(qts, "{'execute': 'object-add', 'arguments': {"
                             "'qom-type': 'memory-backend-ram', 'id': 'plug',"
                             "'size': 134217728}}");
    qtest_qmp_assert_success(qts, "{'execute': 'device_add', 'arguments': {"
                             "'driver': 'pc-dimm', 'id': 'dimm',"
                             "'memdev': 'plug'}}");
    wait_pinned(qts, (RAM_MIB + 128) * MiB);
    guest_eject(qts);
    wait_pinned(qts, RAM_MIB * MiB);
    g_assert_cmpuint(process_bytes(qtest_pid(qts), "VmPin"), ==,
                     RAM_MIB * MiB);
    qtest_qmp_assert_success(qts, "{'execute': 'object-del', 'arguments': {"
                             "'id': 'plug'}}");
    qtest_quit(qts);
}

static int64_t passes(QTestState *qts)
{
    return queried(qts, "passes");
}

static void pci_config_write(QTestState *qts, uint32_t address, uint32_t value)
{
    qtest_outl(qts, 0xcf8, address);
    qtest_outl(qts, 0xcfc, value);
}

/* What a PC does to shut down: function 3 of PIIX4, S5 into PM1_CNT */
static void guest_shutdown(QTestState *qts)
{
    pci_config_write(qts, 0x80000b40, 0x601);
    pci_config_write(qts, 0x80000b80, 1);
    qtest_outw(qts, 0x604, 0x2000);
    qtest_qmp_eventwait(qts, "SHUTDOWN");
}

/* libvirt's way to restart a guest that has shut down: QEMU lives on */
static void test_no_shutdown(void)
{
    QTestState *qts;
    int64_t before, end;

    if (skip_without_kvm() || skip_without_io_uring()) {
        return;
    }
    qts = qtest_initf("-M pc " PIN_ARGS " -m %d -no-shutdown -S", RAM_MIB);
    wait_pinned(qts, RAM_MIB * MiB);
    guest_shutdown(qts);
    before = passes(qts);
    qtest_system_reset(qts);
    end = g_get_monotonic_time() + PIN_SECONDS * G_USEC_PER_SEC;
    while (passes(qts) == before && g_get_monotonic_time() < end) {
        g_usleep(20 * 1000);
    }
    g_assert_cmpint(passes(qts), >, before);
    wait_pinned(qts, RAM_MIB * MiB);
    qtest_quit(qts);
}

int main(int argc, char **argv)
{
    static const int eperm = EPERM, enosys = ENOSYS;

    g_test_init(&argc, &argv, NULL);
    qtest_add_data_func("/kvm-prefault-pin/seccomp/eperm", &eperm,
                        test_seccomp);
    qtest_add_data_func("/kvm-prefault-pin/seccomp/enosys", &enosys,
                        test_seccomp);
    qtest_add_func("/kvm-prefault-pin/memlock", test_memlock);
    qtest_add_func("/kvm-prefault-pin/file", test_file);
    qtest_add_func("/kvm-prefault-pin/ram", test_ram);
    qtest_add_func("/kvm-prefault-pin/memfd", test_memfd);
    qtest_add_func("/kvm-prefault-pin/sandbox", test_sandbox);
    qtest_add_func("/kvm-prefault-pin/reset", test_reset);
    qtest_add_func("/kvm-prefault-pin/dimm", test_dimm);
    qtest_add_func("/kvm-prefault-pin/no-shutdown", test_no_shutdown);
    return g_test_run();
}
