/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The VM of another process, usually QEMU, found by its file descriptors. */

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "mtrr.h"

#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif

static bool is_vm(const char *directory, const char *name)
{
    char path[400], target[64] = "";

    snprintf(path, sizeof(path), "%s/%s", directory, name);
    if (readlink(path, target, sizeof(target) - 1) < 0) {
        return false;
    }
    return !strcmp(target, "anon_inode:kvm-vm");
}

static int vm_number(int pid)
{
    char directory[64];
    struct dirent *entry;
    int number = -1;
    DIR *dir;

    snprintf(directory, sizeof(directory), "/proc/%d/fd", pid);
    dir = opendir(directory);
    while (dir && number < 0 && (entry = readdir(dir))) {
        if (is_vm(directory, entry->d_name)) {
            number = atoi(entry->d_name);
        }
    }
    if (dir) {
        closedir(dir);
    }
    return number;
}

static int vm_of(int pid)
{
    int pidfd = syscall(SYS_pidfd_open, pid, 0), number = vm_number(pid), fd;

    if (pidfd < 0 || number < 0) {
        die("process %d has no VM", pid);
    }
    fd = syscall(SYS_pidfd_getfd, pidfd, number, 0);
    if (fd < 0) {
        die("file %d of process %d", number, pid);
    }
    close(pidfd);
    return fd;
}

void attach_dma(int pid, bool start)
{
    if (ioctl(lab_open(), start ? MTRR_LAB_DMA_START : MTRR_LAB_DMA_STOP,
              vm_of(pid))) {
        die("non-coherent DMA of process %d", pid);
    }
}

static bool get_state(int lab, int vm, unsigned vcpu,
                      struct mtrr_lab_state *state)
{
    memset(state, 0, sizeof(*state));
    state->vm = vm;
    state->vcpu = vcpu;
    if (!ioctl(lab, MTRR_LAB_STATE, state)) {
        state->vcpu = 0;
        return true;
    }
    if (errno != ENOENT) {
        die("MTRR_LAB_STATE");
    }
    return false;
}

static void to_model(const struct mtrr_lab_state *from,
                     struct mtrr_ranges_state *to)
{
    memset(to, 0, sizeof(*to));
    memcpy(to->base, from->base, sizeof(to->base));
    memcpy(to->mask, from->mask, sizeof(to->mask));
    memcpy(to->fixed, from->fixed, sizeof(to->fixed));
    to->deftype = from->deftype;
}

/*
 * Leaves of a VM whose vCPUs are stopped.  Only if all of them have the same
 * MTRRs and CR0.CD clear is there one right type for each frame.
 */
int attach_check(int pid, bool ignore_mtrrs)
{
    struct mtrr_lab_state first, other;
    struct mtrr_ranges_state state;
    struct leaf_check check = { 0 };
    int lab = lab_open(), vm = vm_of(pid);
    unsigned vcpus = 1, differ = 0;

    if (!get_state(lab, vm, 0, &first)) {
        errno = 0;
        die("the VM of process %d has no vCPU", pid);
    }
    for (; get_state(lab, vm, vcpus, &other); vcpus++) {
        differ += memcmp(&first, &other, sizeof(first)) != 0;
    }
    to_model(&first, &state);
    check_leaves(lab, vm, &state, ignore_mtrrs, &check);
    printf("{\"vcpus\": %u, \"vcpus_that_differ\": %u, \"cd\": %u, "
           "\"deftype\": %llu, ", vcpus, differ, first.cd,
           (unsigned long long)first.deftype);
    print_check(&check);
    printf("}\n");
    return 0;
}
