/*
 * How long the lab's Linux guest takes for single accesses to memory
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The commands are described in init.c.  The memory lies in a hole that the
 * kernel was told to leave alone, and is mapped before the first access: what
 * an access takes is the second-level fault and nothing of the guest's own.
 *
 * Times are ticks of the TSC, as 32-bit numbers in the order of the accesses,
 * left in memory for whoever runs the guest to fetch: first all those of the
 * first accesses, then as many of a second access to the same pages.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "events.h"
#include "latency.h"

/* Pages in no order that anybody could foresee: a prime number of pages on */
#define STRIDE 7919
#define CALIBRATION_NS 100e6

/* All that stands before has ended, nothing that stands behind has begun. */
static inline uint64_t ticks(void)
{
    uint32_t low, high;

    asm volatile("mfence; lfence; rdtsc; lfence"
                 : "=a"(low), "=d"(high) : : "memory");
    return (uint64_t)high << 32 | low;
}

/* volatile: the compiler is to make one access of it, of one byte. */
static uint32_t time_access(volatile char *byte, bool write)
{
    uint64_t start = ticks(), took;

    if (write) {
        *byte = 1;
    } else {
        (void)*byte;
    }
    took = ticks() - start;
    return took < UINT32_MAX ? took : UINT32_MAX;
}

static void time_pages(char *mem, size_t pages, bool write, uint32_t *samples)
{
    size_t i;

    for (i = 0; i < pages; i++) {
        samples[i] = time_access(mem + i * STRIDE % pages * PAGE, write);
    }
}

static double now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1e9 + ts.tv_nsec;
}

static double tsc_khz(void)
{
    double start = now_ns(), end;
    uint64_t first = ticks(), last;

    do {
        last = ticks();
        end = now_ns();
    } while (end - start < CALIBRATION_NS);
    return (last - first) / (end - start) * 1e6;
}

/* Neither the samples' own pages nor the code is to be new. */
static void warm_up(uint32_t *samples, size_t pages, bool write)
{
    static char page[PAGE];
    size_t i;

    memset(samples, 0, 2 * pages * sizeof(*samples));
    for (i = 0; i < pages; i++) {
        time_pages(page, 1, write, samples + i);
    }
}

static void latency(const char *command, size_t mib, size_t at_mib, bool write)
{
    size_t pages = mib * MIB / PAGE, size = 2 * pages * sizeof(uint32_t);
    char *mem = map_physical(mib * MIB, at_mib * MIB);
    uint32_t *samples = (uint32_t *)map_physical(size, (at_mib + mib) * MIB);

    if (!mem || !samples) {
        say("error %s /dev/mem: %s", command, strerror(errno));
        return;
    }
    warm_up(samples, pages, write);
    time_pages(mem, pages, write, samples);
    time_pages(mem, pages, write, samples + pages);
    say("ok %s pages=%zu bytes=%zu tsc_khz=%.0f", command, pages, size,
        tsc_khz());
    munmap(mem, mib * MIB);
    munmap(samples, size);
}

bool obey_latency(const char *command, size_t mib, size_t at_mib)
{
    bool write = !strcmp(command, "timewrite");

    if (!write && strcmp(command, "timeread")) {
        return false;
    }
    latency(command, mib, at_mib, write);
    return true;
}
