/* SPDX-License-Identifier: GPL-2.0-or-later */
/* KVM's binary statistics of a VM of ours. */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "mtrr.h"

static void read_at(int fd, void *to, size_t size, off_t offset)
{
    if (pread(fd, to, size, offset) != (ssize_t)size) {
        die("statistics at %lld", (long long)offset);
    }
}

static bool is_wanted(const char *name)
{
    return !strncmp(name, "mtrr_", 5) || !strncmp(name, "pages_", 6);
}

void vm_print_stats(struct vm *vm)
{
    int fd = ioctl(vm->fd, KVM_GET_STATS_FD, 0);
    struct kvm_stats_header header;
    struct kvm_stats_desc *desc;
    size_t size;

    if (fd < 0) {
        die("KVM_GET_STATS_FD");
    }
    read_at(fd, &header, sizeof(header), 0);
    size = sizeof(*desc) + header.name_size;
    desc = calloc(1, size + 1);
    for (unsigned i = 0; i < header.num_desc; i++) {
        uint64_t value;

        read_at(fd, desc, size, header.desc_offset + i * size);
        read_at(fd, &value, sizeof(value), header.data_offset + desc->offset);
        if (is_wanted(desc->name)) {
            printf("\"%s\": %llu, ", desc->name, (unsigned long long)value);
        }
    }
    free(desc);
    close(fd);
}
