/*
 * The lab's Linux guest takes its CPUs off- and online
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef LAB_GUEST_CPUS_H
#define LAB_GUEST_CPUS_H

#include <stdbool.h>
#include <stddef.h>

/* Carry out one of the commands that cpus.c knows. */
bool obey_cpus(const char *command, size_t n);

#endif
