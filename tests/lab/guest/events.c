/*
 * What the lab's Linux guest does about devices that come and go
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The commands are described in init.c.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "events.h"

#define EFIVARS "/sys/firmware/efi/efivars"
#define LAB_GUID "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
/* non-volatile, for boot and run time */
#define EFI_ATTRIBUTES 7
#define PCI_COMMAND 4
#define PCI_COMMAND_MEMORY 2
#define IVSHMEM 0x11101af4
#define WAIT_MS 60000

static pid_t load_pid;

int write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY);
    int ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

    if (fd >= 0) {
        close(fd);
    }
    return ok ? 0 : -1;
}

static void load_module(const char *name)
{
    char path[96];
    int fd;

    snprintf(path, sizeof(path), "/modules/%s.ko", name);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST)) {
        say("notice module %s: %s", name, strerror(errno));
    }
    if (fd >= 0) {
        close(fd);
    }
}

void load_modules(void)
{
    FILE *order = fopen("/modules/order", "r");
    char name[64];

    while (order && fscanf(order, "%63s", name) == 1) {
        load_module(name);
    }
    if (order) {
        fclose(order);
    }
}

static void cpuonline(void)
{
    unsigned i, before = get_nprocs();
    glob_t found;

    if (glob("/sys/devices/system/cpu/cpu[0-9]*/online", 0, NULL, &found) == 0) {
        for (i = 0; i < found.gl_pathc; i++) {
            write_file(found.gl_pathv[i], "1");
        }
        globfree(&found);
    }
    say("ok cpuonline cpus=%d before=%u", get_nprocs(), before);
}

static unsigned long mem_mib(void)
{
    struct sysinfo info;

    sysinfo(&info);
    return info.totalram * info.mem_unit / MIB;
}

/* Until it has at least (or, if it shall shrink, at most) that many MiB. */
static void waitmem(size_t mib, bool shrink)
{
    struct timespec pause = { .tv_nsec = 20 * 1000 * 1000 };
    int left = WAIT_MS / 20;

    while (left-- && (shrink ? mem_mib() > mib : mem_mib() < mib)) {
        nanosleep(&pause, NULL);
    }
    if (left < 0) {
        say("error waitmem there are %lu MiB", mem_mib());
    } else {
        say("ok waitmem mem_mib=%lu", mem_mib());
    }
}

/* Memory that is mapped, written and given back all the time. */
static void load_forever(size_t size)
{
    for (;;) {
        char *mem = map_memory(size);

        if (!mem) {
            _exit(1);
        }
        touch_pass(mem, size);
        munmap(mem, size);
    }
}

static void load(size_t mib)
{
    load_pid = fork();
    if (load_pid == 0) {
        load_forever(mib * MIB);
    }
    say(load_pid < 0 ? "error load fork" : "ok load mib=%zu", mib);
}

static void unload(void)
{
    int status = 0;

    if (load_pid <= 0 || waitpid(load_pid, &status, WNOHANG)) {
        say("error unload the load has ended by itself: status %d", status);
        return;
    }
    kill(load_pid, SIGKILL);
    waitpid(load_pid, &status, 0);
    load_pid = 0;
    say("ok unload");
}

static bool is_ivshmem(const char *directory)
{
    char path[256];
    uint32_t id = 0;
    int fd;

    snprintf(path, sizeof(path), "%s/config", directory);
    fd = open(path, O_RDONLY);
    if (fd >= 0) {
        if (pread(fd, &id, sizeof(id), 0) != sizeof(id)) {
            id = 0;
        }
        close(fd);
    }
    return id == IVSHMEM;
}

static bool decode(int config, bool on)
{
    uint16_t command;

    if (pread(config, &command, sizeof(command), PCI_COMMAND) != 2) {
        return false;
    }
    command = on ? command | PCI_COMMAND_MEMORY : command & ~PCI_COMMAND_MEMORY;
    return pwrite(config, &command, sizeof(command), PCI_COMMAND) == 2;
}

static bool touch_bar(const char *directory)
{
    char path[256];
    struct stat info;
    char *mem = MAP_FAILED;
    int fd;

    snprintf(path, sizeof(path), "%s/resource2", directory);
    fd = open(path, O_RDWR);
    if (fd >= 0 && fstat(fd, &info) == 0) {
        mem = mmap(NULL, info.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    }
    if (fd >= 0) {
        close(fd);
    }
    if (mem == MAP_FAILED) {
        return false;
    }
    touch_pass(mem, info.st_size);
    munmap(mem, info.st_size);
    return true;
}

static size_t flip_device(const char *directory, size_t count)
{
    char path[256];
    size_t done = 0;
    int fd;

    snprintf(path, sizeof(path), "%s/config", directory);
    fd = open(path, O_RDWR);
    while (fd >= 0 && done < count && decode(fd, false) && decode(fd, true) &&
           touch_bar(directory)) {
        done++;
    }
    if (fd >= 0) {
        close(fd);
    }
    return done;
}

static void barflip(size_t count)
{
    size_t done = 0;
    unsigned i;
    glob_t found;

    if (glob("/sys/bus/pci/devices/*", 0, NULL, &found) == 0) {
        for (i = 0; i < found.gl_pathc; i++) {
            if (is_ivshmem(found.gl_pathv[i])) {
                done = flip_device(found.gl_pathv[i], count);
            }
        }
        globfree(&found);
    }
    if (done < count) {
        say("error barflip %zu of %zu: %s", done, count, strerror(errno));
    } else {
        say("ok barflip count=%zu", done);
    }
}

static bool set_variable(unsigned number)
{
    char path[160];
    char value[4 + 64] = { EFI_ATTRIBUTES };
    bool ok;
    int fd;

    snprintf(path, sizeof(path), EFIVARS "/Lab%u-" LAB_GUID, number);
    memset(value + 4, number, sizeof(value) - 4);
    fd = open(path, O_WRONLY | O_CREAT, 0644);
    ok = fd >= 0 && write(fd, value, sizeof(value)) == sizeof(value);
    if (fd >= 0) {
        close(fd);
    }
    return ok;
}

/* A new variable each time: existing ones cannot just be written to. */
static void efivar(size_t count)
{
    static unsigned number;
    size_t done = 0;

    mount("efivarfs", EFIVARS, "efivarfs", 0, NULL);
    while (done < count && set_variable(number)) {
        number++;
        done++;
    }
    if (done < count) {
        say("error efivar %zu of %zu: %s", done, count, strerror(errno));
    } else {
        say("ok efivar count=%zu", done);
    }
}

bool obey_event(const char *command, size_t n)
{
    if (!strcmp(command, "cpuonline")) {
        cpuonline();
    } else if (!strcmp(command, "waitmem")) {
        waitmem(n, false);
    } else if (!strcmp(command, "waitless")) {
        waitmem(n, true);
    } else if (!strcmp(command, "load")) {
        load(n);
    } else if (!strcmp(command, "unload")) {
        unload();
    } else if (!strcmp(command, "barflip")) {
        barflip(n);
    } else if (!strcmp(command, "efivar")) {
        efivar(n);
    } else {
        return false;
    }
    return true;
}
