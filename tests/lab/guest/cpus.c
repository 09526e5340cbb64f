/*
 * The lab's Linux guest takes its CPUs off- and online
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The commands are described in init.c.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysinfo.h>

#include "cpus.h"
#include "events.h"

static bool set_online(int cpu, bool online)
{
    char path[64];

    snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/online", cpu);
    return write_file(path, online ? "1" : "0") == 0;
}

/*
 * Linux waits ten seconds for a CPU that does not come, so the first one ends
 * it: one is enough, and others would only take time.
 */
static void toggle(size_t rounds)
{
    int cpus = get_nprocs_conf(), failed = 0, last = 0, cpu;
    size_t done = 0, round;

    for (round = 0; round < rounds && !failed; round++) {
        for (cpu = 1; cpu < cpus && !failed; cpu++) {
            if (!set_online(cpu, false) || !set_online(cpu, true)) {
                failed = cpu;
                last = errno;
            } else {
                done++;
            }
        }
    }
    say("ok toggle done=%zu failed_cpu=%d errno=%d cpus=%d", done, failed,
        last, get_nprocs());
}

bool obey_cpus(const char *command, size_t n)
{
    if (strcmp(command, "toggle")) {
        return false;
    }
    toggle(n);
    return true;
}
