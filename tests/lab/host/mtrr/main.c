/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * mtrr COMMAND ARGUMENT...: guest MTRRs under KVM, with non-coherent DMA
 *
 * Results are one line of JSON; the exit status is 1 if there is none, and says
 * nothing about what is in it.  Needs the lab's module.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mtrr.h"

static const char usage[] =
    "mtrr burst MODE VCPUS MIB PASSES       program MTRRs on all vCPUs at once\n"
    "mtrr verify MODE VCPUS MIB ROUNDS SEED random MTRRs, then look at leaves\n"
    "mtrr stress MODE VCPUS MIB SECONDS SEED  everything at once\n"
    "mtrr start PID, mtrr stop PID          non-coherent DMA of a process's VM\n"
    "mtrr check PID MODE                    leaves of a VM that is stopped\n"
    "mtrr reset, mtrr counts                counters of the module\n"
    "MODE: stock, full, range or none\n";

static unsigned number(const char *text)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);

    if (*end || !*text || value > 1000000) {
        errno = 0;
        die("'%s' is no number", text);
    }
    return value;
}

static int counts(void)
{
    printf("{");
    lab_print_counts(lab_open());
    printf("\"since\": \"reset\"}\n");
    return 0;
}

static int own_vm(char **argv)
{
    unsigned vcpus = number(argv[3]), mib = number(argv[4]);

    if (!strcmp(argv[1], "verify")) {
        return command_verify(argv[2], vcpus, mib, number(argv[5]),
                              number(argv[6]));
    }
    return command_stress(argv[2], vcpus, mib, number(argv[5]),
                          number(argv[6]));
}

int main(int argc, char **argv)
{
    const char *command = argc > 1 ? argv[1] : "";

    if (argc == 6 && !strcmp(command, "burst")) {
        return command_burst(argv[2], number(argv[3]), number(argv[4]),
                             number(argv[5]));
    }
    if (argc == 7 && (!strcmp(command, "verify") || !strcmp(command, "stress"))) {
        return own_vm(argv);
    }
    if (argc == 3 && (!strcmp(command, "start") || !strcmp(command, "stop"))) {
        attach_dma(number(argv[2]), !strcmp(command, "start"));
        return 0;
    }
    if (argc == 4 && !strcmp(command, "check")) {
        return attach_check(number(argv[2]), !strcmp(argv[3], "none"));
    }
    if (argc == 2 && !strcmp(command, "reset")) {
        lab_reset(lab_open());
        return 0;
    }
    if (argc == 2 && !strcmp(command, "counts")) {
        return counts();
    }
    fputs(usage, stderr);
    return 1;
}
