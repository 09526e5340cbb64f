/*
 * prefault-host-validate: what its parts share
 *
 * A check reads the host (host.c, probe.c) and says something about it
 * (report.c); output.c prints what has been said.
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HOST_VALIDATE_H
#define HOST_VALIDATE_H

#include <glib.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>

#define HV_NAME "prefault-host-validate"
#define KIB ((int64_t)1024)
#define MIB (1024 * KIB)

/* In the order of weight */
typedef enum HvStatus {
    /* as it should be */
    HV_PASS,
    /* a fact without a verdict, or something that cannot be told here */
    HV_NOTE,
    /* the promise holds in some configurations only */
    HV_WARN,
    /* 'prefault=on' refuses to start */
    HV_FAIL,
    HV_STATUSES
} HvStatus;

/* All strings are owned by the check; those after "found" may be NULL */
typedef struct HvCheck {
    char *name;
    HvStatus status;
    char *found;
    char *meaning;
    char *remedy;
    char *command;
} HvCheck;

typedef struct HvReport {
    GPtrArray *checks;
    unsigned count[HV_STATUSES];
} HvReport;

/* The host that is looked at */
typedef struct HvHost {
    /* where its /proc, /sys and /etc are; NULL: this machine */
    const char *root;
    /* where to put a copy of all that is read, or NULL */
    const char *record;
    /* what system calls have answered, see probe.c */
    GKeyFile *probes;
} HvHost;

/* What KVM does about guest MTRRs, as in query-kvm-prefault */
typedef enum HvMtrrZap {
    HV_MTRR_ZAP_FIXED,
    HV_MTRR_ZAP_SELECTABLE,
    HV_MTRR_ZAP_OBSOLETE,
} HvMtrrZap;

/* What query-kvm-prefault tells under "host", found out by ourselves */
typedef struct HvOffer {
    /* false: KVM could not be asked, nothing else is valid */
    bool known;
    bool pre_fault_memory;
    bool slot_zap;
    bool always_writable;
    HvMtrrZap mtrr_zap;
    bool nx_huge_pages;
    int64_t address_spaces;
    bool statistics;
    bool sregs2;
    bool memlock_known;
    /* bytes; negative: no limit */
    int64_t memlock_limit;
} HvOffer;

/* host.c */

/**
 * hv_read: the content of a file of the host, without the last newline
 * @path: absolute, as on the host
 *
 * Returns: a string to be freed; NULL if the file cannot be read.
 */
char *hv_read(const HvHost *host, const char *path);

/**
 * hv_read_first: as hv_read(), but only up to the first empty line
 */
char *hv_read_first(const HvHost *host, const char *path);

/**
 * hv_read_int: a decimal number at the beginning of a file
 *
 * Returns: false, and *value as it was, if there is none.
 */
bool hv_read_int(const HvHost *host, const char *path, int64_t *value);

/**
 * hv_read_field: the number behind "NAME:" in a file such as /proc/meminfo
 */
bool hv_read_field(const HvHost *host, const char *path, const char *name,
                   int64_t *value);

/**
 * hv_read_choice: the word in brackets of a file such as THP's "enabled"
 *
 * Returns: a string to be freed; NULL if there is none.
 */
char *hv_read_choice(const HvHost *host, const char *path);

/**
 * hv_list: sorted names of the entries of a directory
 * @prefix: only those that begin so ("" for all)
 *
 * Returns: an array to be freed with g_ptr_array_unref(), empty if there is
 * no such directory.
 */
GPtrArray *hv_list(const HvHost *host, const char *path, const char *prefix);

/**
 * hv_exists: whether the host has that file or directory
 */
bool hv_exists(const HvHost *host, const char *path);

/**
 * hv_find_process: a running process with one of these names
 * @names: NULL at the end
 * @name: the one that it has
 *
 * Returns: its /proc directory, to be freed; NULL if there is none.
 */
char *hv_find_process(const HvHost *host, const char *const *names,
                      const char **name);

/* probe.c */

/**
 * hv_probe_load: have the host's answers to system calls ready
 *
 * Asks this machine, or reads what hv_probe_save() has written to the root;
 * without such a file nothing is known.
 *
 * Returns: false and @error for a file that is not understood.
 */
bool hv_probe_load(HvHost *host, GError **error);

/**
 * hv_probe_save: write the answers to the directory of the record
 */
bool hv_probe_save(const HvHost *host, GError **error);

/**
 * hv_probe: one answer by name, see probe.c
 *
 * Returns: false, and *value as it was, if that has not been asked.
 */
bool hv_probe(const HvHost *host, const char *name, int64_t *value);

/**
 * hv_offer: what the host offers to the fork
 */
HvOffer hv_offer(const HvHost *host);

const char *hv_mtrr_zap_str(HvMtrrZap zap);

/* report.c */

HvReport *hv_report_new(void);
void hv_report_free(HvReport *report);

/**
 * hv_check: add a line
 * @name: what has been looked at, unique in the report
 * @format: what was found, a few words
 */
HvCheck *hv_check(HvReport *report, HvStatus status, const char *name,
                  const char *format, ...) G_GNUC_PRINTF(4, 5);

/**
 * hv_means: say what that means for guests with 'prefault'
 */
void hv_means(HvCheck *check, const char *format, ...) G_GNUC_PRINTF(2, 3);

/**
 * hv_remedy: say what to do about it
 * @command: a shell command for root that does it at once, or NULL
 */
void hv_remedy(HvCheck *check, const char *command, const char *format, ...)
    G_GNUC_PRINTF(3, 4);

const char *hv_status_str(HvStatus status);

/* output.c */

/**
 * hv_print_text: one line per check; wrapped, and coloured unless NO_COLOR
 * is set, if @out is a terminal
 */
void hv_print_text(const HvReport *report, FILE *out);

/**
 * hv_print_json: one object, described in the manual page
 */
void hv_print_json(const HvReport *report, const HvHost *host,
                   const HvOffer *offer, FILE *out);

/* checks-*.c, qemu.c: each adds lines about its subject */

void hv_check_kvm(HvReport *report, const HvHost *host, const HvOffer *offer);
void hv_check_parameters(HvReport *report, const HvHost *host);
void hv_check_memory(HvReport *report, const HvHost *host);
void hv_check_movers(HvReport *report, const HvHost *host);
void hv_check_limits(HvReport *report, const HvHost *host,
                     const HvOffer *offer);
void hv_check_devices(HvReport *report, const HvHost *host,
                      const HvOffer *offer);

/**
 * hv_check_qemu: ask a QEMU what it finds on this machine, and compare
 * @binary: path of the QEMU
 *
 * Waits for its answer, but not for ever.
 */
void hv_check_qemu(HvReport *report, const char *binary, const HvOffer *offer);

#endif
