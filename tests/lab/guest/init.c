/*
 * /init of the lab's Linux guest: touches memory, times it, obeys the console
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Protocol, one line each on the console (ttyS0), kernel messages may stand
 * between them:
 *
 *   guest -> host   @@GUEST boot cpus=N mem_kib=N
 *                   @@GUEST touched mib=N first_touch_ms=X second_touch_ms=X
 *                   @@GUEST ready
 *                   @@GUEST ok COMMAND [key=value ...]
 *                   @@GUEST error COMMAND text
 *   host -> guest   ping            answer only
 *                   touch MIB       as at boot: map, write each page, twice
 *                   cputouch MIB    each CPU touches its share, all at once
 *                   hold MIB        map, fill with a pattern and keep it
 *                   check           verify that pattern, then write it anew
 *                   physread MIB AT   read a byte of each page of that many
 *                                   MiB of physical memory from AT MiB on
 *                   physwrite MIB AT  write one, the same way; says how many
 *                                   ms that took
 *                   timeread MIB AT   read a byte of each page, twice, and
 *                                   leave at AT + MIB how long each took
 *                   timewrite MIB AT  write one, the same way
 *                   smi COUNT       raise COUNT system management interrupts
 *                   suspend         suspend to RAM, answers after wake-up
 *                   cpuonline       use all CPUs that have been plugged
 *                   toggle COUNT    take each CPU but the first off- and
 *                                   online so often, or until one fails
 *                   waitmem MIB     wait until there are so many MiB or more
 *                   waitless MIB    wait until there are so many MiB or less
 *                   load MIB        touch memory all the time, in a process
 *                   unload          end it; an error if it has ended itself
 *                   barflip COUNT   take RAM of ivshmem off the bus and back,
 *                                   and write to all of it
 *                   efivar COUNT    make so many EFI variables
 *                   reboot          no answer: the next line is "boot"
 *                   poweroff        no answer
 *
 * A touch writes one byte into each 4 KiB page.  The guest's own page faults
 * are part of its time; they come once per huge page (64 KiB where the guest
 * has none left), so that the time is mostly the host's and does not depend on
 * the size of the guest's RAM (Linux chooses its huge page mode by that).
 *
 * phys and time commands are for memory that the kernel was told not to use
 * (memmap=SIZE$AT), so that nobody but them has ever touched it.
 *
 * The kernel turns "lab_touch=MIB" on its command line into an environment
 * variable; with it the boot-time touch runs before "ready".
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "cpus.h"
#include "events.h"
#include "latency.h"

#define APM_CONTROL_PORT 0xb2

static char *held;
static size_t held_size;
static uint64_t held_seed;

void say(const char *fmt, ...)
{
    char line[256];
    va_list ap;
    int len;

    va_start(ap, fmt);
    len = snprintf(line, sizeof(line), "@@GUEST ");
    len += vsnprintf(line + len, sizeof(line) - len - 1, fmt, ap);
    va_end(ap);
    line[len++] = '\n';
    /* One write per line, so that kernel messages cannot split it. */
    if (write(STDOUT_FILENO, line, len) != len) {
        reboot(RB_POWER_OFF);
    }
}

static double now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1e3 + ts.tv_nsec / 1e6;
}

char *map_memory(size_t size)
{
    char *mem = mmap(NULL, size, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return mem == MAP_FAILED ? NULL : mem;
}

double touch_pass(char *mem, size_t size)
{
    double start = now_ms();
    size_t at;

    for (at = 0; at < size; at += PAGE) {
        *(volatile char *)(mem + at) = 1;
    }
    return now_ms() - start;
}

/* Answers "TAG mib=... first_touch_ms=... second_touch_ms=...". */
static void touch(const char *tag, size_t mib)
{
    char *mem = map_memory(mib * MIB);
    double first, second;

    if (!mem) {
        say("error touch %s", strerror(errno));
        return;
    }
    first = touch_pass(mem, mib * MIB);
    second = touch_pass(mem, mib * MIB);
    munmap(mem, mib * MIB);
    say("%s mib=%zu first_touch_ms=%.3f second_touch_ms=%.3f",
        tag, mib, first, second);
}

static int run_on_cpu(int cpu)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    return sched_setaffinity(0, sizeof(set), &set);
}

static int touch_on_cpu(int cpu, size_t size)
{
    char *mem;

    if (run_on_cpu(cpu) || !(mem = map_memory(size))) {
        return 1;
    }
    touch_pass(mem, size);
    return 0;
}

static void cputouch(size_t mib)
{
    int cpus = get_nprocs(), failed = 0, status, i;
    double start = now_ms();

    for (i = 0; i < cpus; i++) {
        pid_t pid = fork();

        if (pid == 0) {
            _exit(touch_on_cpu(i, mib * MIB / cpus));
        }
        failed += pid < 0;
    }
    while (wait(&status) > 0) {
        failed += !WIFEXITED(status) || WEXITSTATUS(status);
    }
    if (failed) {
        say("error cputouch %d of %d CPUs failed", failed, cpus);
    } else {
        say("ok cputouch cpus=%d ms=%.3f", cpus, now_ms() - start);
    }
}

static uint64_t pattern(size_t at)
{
    return (at / PAGE + held_seed) * 0x9e3779b97f4a7c15ULL;
}

static void fill_held(void)
{
    size_t at;

    for (at = 0; at < held_size; at += PAGE) {
        *(uint64_t *)(held + at) = pattern(at);
    }
}

static void hold(size_t mib)
{
    if (held) {
        munmap(held, held_size);
    }
    held_size = mib * MIB;
    held_seed = 1;
    held = map_memory(held_size);
    if (!held) {
        say("error hold %s", strerror(errno));
        return;
    }
    fill_held();
    say("ok hold mib=%zu", mib);
}

/* The seed changes each time: a stale page cannot pass the next check. */
static void check(void)
{
    size_t at, bad = 0;

    if (!held) {
        say("error check nothing is held");
        return;
    }
    for (at = 0; at < held_size; at += PAGE) {
        bad += *(uint64_t *)(held + at) != pattern(at);
    }
    held_seed++;
    fill_held();
    if (bad) {
        say("error check %zu of %zu pages differ", bad, held_size / PAGE);
    } else {
        say("ok check pages=%zu", held_size / PAGE);
    }
}

char *map_physical(size_t size, size_t at)
{
    int fd = open("/dev/mem", O_RDWR);
    char *mem;

    if (fd < 0) {
        return NULL;
    }
    /* The kernel maps all of it at once: no guest page faults while touching */
    mem = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, at);
    close(fd);
    return mem == MAP_FAILED ? NULL : mem;
}

static size_t count_nonzero(const char *mem, size_t size)
{
    size_t at, nonzero = 0;

    for (at = 0; at < size; at += PAGE) {
        nonzero += *(const volatile char *)(mem + at) != 0;
    }
    return nonzero;
}

static void physical(const char *command, size_t mib, size_t at_mib)
{
    size_t size = mib * MIB;
    char *mem = map_physical(size, at_mib * MIB);

    if (!mem) {
        say("error %s /dev/mem: %s", command, strerror(errno));
        return;
    }
    if (!strcmp(command, "physwrite")) {
        say("ok physwrite pages=%zu ms=%.3f", size / PAGE,
            touch_pass(mem, size));
    } else {
        say("ok physread pages=%zu nonzero=%zu", size / PAGE,
            count_nonzero(mem, size));
    }
    munmap(mem, size);
}

/* Through the kernel: emulated I/O permission bitmaps cannot be relied on. */
static void smi(int count)
{
    int fd = open("/dev/port", O_WRONLY);
    int i, done = 0;

    /*
     * q35 sends the SMI to the CPU that writes, and SeaBIOS has set up SMM on
     * the first one only: another would run whatever lies at its SMBASE.
     */
    if (run_on_cpu(0)) {
        say("error smi affinity: %s", strerror(errno));
        return;
    }
    for (i = 0; i < count; i++) {
        done += pwrite(fd, "", 1, APM_CONTROL_PORT) == 1;
    }
    if (done < count) {
        say("error smi /dev/port: %s", strerror(errno));
    } else {
        say("ok smi count=%d", count);
    }
    if (fd >= 0) {
        close(fd);
    }
}

static void suspend(void)
{
    int fd = open("/sys/power/state", O_WRONLY);

    if (fd < 0 || write(fd, "mem", 3) != 3) {
        say("error suspend /sys/power/state: %s", strerror(errno));
    } else {
        say("ok suspend");
    }
    if (fd >= 0) {
        close(fd);
    }
}

static void obey(const char *line)
{
    char command[16] = "";
    size_t n = 0, at = 0;

    sscanf(line, "%15s %zu %zu", command, &n, &at);
    if (!strcmp(command, "ping")) {
        say("ok ping");
    } else if (!strcmp(command, "touch")) {
        touch("ok touch", n);
    } else if (!strcmp(command, "cputouch")) {
        cputouch(n);
    } else if (!strcmp(command, "hold")) {
        hold(n);
    } else if (!strcmp(command, "check")) {
        check();
    } else if (!strcmp(command, "physread") || !strcmp(command, "physwrite")) {
        physical(command, n, at);
    } else if (!strcmp(command, "smi")) {
        smi(n);
    } else if (!strcmp(command, "suspend")) {
        suspend();
    } else if (!strcmp(command, "reboot")) {
        reboot(RB_AUTOBOOT);
    } else if (!strcmp(command, "poweroff")) {
        reboot(RB_POWER_OFF);
    } else if (command[0] && !obey_latency(command, n, at) &&
               !obey_event(command, n) && !obey_cpus(command, n)) {
        say("error %s unknown command", command);
    }
}

static void set_up_pages(const char *size, const char *mode)
{
    char path[96];
    int fd;

    snprintf(path, sizeof(path), "/sys/kernel/mm/transparent_hugepage/"
             "hugepages-%skB/enabled", size);
    fd = open(path, O_WRONLY);
    if (fd < 0 || write(fd, mode, strlen(mode)) < 0) {
        say("notice %s: %s", path, strerror(errno));
    }
    if (fd >= 0) {
        close(fd);
    }
}

static void set_up_console(void)
{
    struct termios tio;

    if (tcgetattr(STDIN_FILENO, &tio) == 0) {
        tio.c_lflag &= ~(ECHO | ECHOE | ECHOK);
        tcsetattr(STDIN_FILENO, TCSANOW, &tio);
    }
}

static unsigned long mem_kib(void)
{
    struct sysinfo info;

    sysinfo(&info);
    return info.totalram * info.mem_unit / 1024;
}

int main(void)
{
    const char *touch_mib = getenv("lab_touch");
    char line[80];

    mount("proc", "/proc", "proc", 0, NULL);
    mount("sysfs", "/sys", "sysfs", 0, NULL);
    set_up_console();
    set_up_pages("2048", "always");
    set_up_pages("64", "always");
    load_modules();
    say("boot cpus=%d mem_kib=%lu", get_nprocs(), mem_kib());
    if (touch_mib) {
        touch("touched", strtoul(touch_mib, NULL, 10));
    }
    say("ready");
    while (fgets(line, sizeof(line), stdin)) {
        obey(line);
    }
    reboot(RB_POWER_OFF);
    return 1;
}
