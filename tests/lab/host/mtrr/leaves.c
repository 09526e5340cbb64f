/* SPDX-License-Identifier: GPL-2.0-or-later */
/* /dev/mtrr-lab, and whether leaves have the memory type that MTRRs ask for. */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "mtrr.h"

#define MAX_RUNS (1 << 20)

int lab_open(void)
{
    int fd = open("/dev/mtrr-lab", O_RDWR | O_CLOEXEC);

    if (fd < 0) {
        die("/dev/mtrr-lab, which the lab's module makes");
    }
    return fd;
}

void lab_reset(int lab)
{
    if (ioctl(lab, MTRR_LAB_RESET, 0)) {
        die("MTRR_LAB_RESET");
    }
}

void lab_print_counts(int lab)
{
    struct mtrr_lab_counts counts;

    if (ioctl(lab, MTRR_LAB_COUNTS, &counts)) {
        die("MTRR_LAB_COUNTS");
    }
    printf("\"calls\": %llu, \"cycles\": %llu, \"elapsed_cycles\": %llu, "
           "\"walks\": %llu, \"walk_gfns\": %llu, \"walk_sptes\": %llu, ",
           (unsigned long long)counts.calls, (unsigned long long)counts.cycles,
           (unsigned long long)counts.elapsed, (unsigned long long)counts.zaps, (unsigned long long)counts.gfns,
           (unsigned long long)counts.sptes);
}

static void note_wrong(const struct mtrr_lab_run *run, uint64_t gfn, int wanted,
                       struct leaf_check *check)
{
    if (!check->wrong++) {
        snprintf(check->sample, sizeof(check->sample),
                 "gfn 0x%llx, level %d: type %d ipat %d, must be %d ipat 0",
                 (unsigned long long)gfn, run->level, run->type, run->ipat,
                 wanted);
    }
}

/* A larger page is right only if it is for each of its frames. */
static void check_run(const struct mtrr_lab_run *run,
                      const struct mtrr_ranges_state *state, bool ignore_mtrrs,
                      struct leaf_check *check)
{
    for (uint64_t gfn = run->start; gfn < run->end; gfn++) {
        int wanted = ignore_mtrrs ? MODEL_WB : model_type(state, gfn);

        check->leaves++;
        check->huge += run->level > 1;
        check->types[run->type]++;
        check->ipat += run->ipat;
        if (run->type != wanted || run->ipat) {
            note_wrong(run, gfn, wanted, check);
        }
    }
}

void check_leaves(int lab, int vm_fd, const struct mtrr_ranges_state *state,
                  bool ignore_mtrrs, struct leaf_check *check)
{
    struct mtrr_lab_run *run = malloc(MAX_RUNS * sizeof(*run));
    struct mtrr_lab_leaves args = {
        .vm = vm_fd, .max = MAX_RUNS, .runs = (uintptr_t)run,
    };
    int nr = ioctl(lab, MTRR_LAB_LEAVES, &args);

    if (nr < 0) {
        die("MTRR_LAB_LEAVES");
    }
    for (int i = 0; i < nr; i++) {
        check_run(&run[i], state, ignore_mtrrs, check);
    }
    free(run);
}

void print_check(const struct leaf_check *check)
{
    printf("\"leaves\": %llu, \"huge\": %llu, \"wrong\": %llu, \"ipat\": %llu, "
           "\"sample\": \"%s\", \"types\": {",
           (unsigned long long)check->leaves, (unsigned long long)check->huge,
           (unsigned long long)check->wrong, (unsigned long long)check->ipat,
           check->sample);
    for (int i = 0, n = 0; i < 8; i++) {
        if (check->types[i]) {
            printf("%s\"%d\": %llu", n++ ? ", " : "", i,
                   (unsigned long long)check->types[i]);
        }
    }
    printf("}");
}
