/*
 * How long the lab's Linux guest takes for single accesses to memory
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef LAB_GUEST_LATENCY_H
#define LAB_GUEST_LATENCY_H

#include <stdbool.h>
#include <stddef.h>

/* Map physical memory, all of it at once; NULL if it cannot be.  In init.c. */
char *map_physical(size_t size, size_t at);

/* Carry out one of the commands that latency.c knows. */
bool obey_latency(const char *command, size_t mib, size_t at_mib);

#endif
