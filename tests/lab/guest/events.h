/*
 * What the lab's Linux guest does about devices that come and go
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef LAB_GUEST_EVENTS_H
#define LAB_GUEST_EVENTS_H

#include <stdbool.h>
#include <stddef.h>

#define PAGE 4096UL
#define MIB  (1024UL * 1024)

/* Answer with one line; see init.c for the protocol. */
void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Map that much memory without touching it; NULL if it cannot be. */
char *map_memory(size_t size);

/* Write one byte into each page; returns the milliseconds that it took. */
double touch_pass(char *mem, size_t size);

/* Write a text to a file of the kernel's; -1 and errno if it cannot be. */
int write_file(const char *path, const char *text);

/* Load what /modules/order names, if there is such a file. */
void load_modules(void);

/* Carry out one of the commands that events.c knows. */
bool obey_event(const char *command, size_t n);

#endif
