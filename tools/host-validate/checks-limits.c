/*
 * prefault-host-validate: how much may be locked and pinned, and by whom
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <string.h>
#include "host-validate.h"

static void check_own(HvReport *report, const HvOffer *offer)
{
    HvCheck *check;

    if (!offer->memlock_known) {
        hv_means(hv_check(report, HV_NOTE, "memlock.user", "not asked"),
                 "this record has no limits of a user");
        return;
    }
    if (offer->memlock_limit < 0) {
        hv_check(report, HV_PASS, "memlock.user", "unlimited");
        return;
    }
    check = hv_check(report, HV_WARN, "memlock.user", "%" PRId64
                     " KiB", offer->memlock_limit / KIB);
    hv_means(check, "'prefault=on' refuses guests with more RAM than that "
             "which this user starts; hugetlbfs does not count, unless with "
             "'pin-ram=longterm'");
    hv_remedy(check, NULL, "ulimit -l, \"USER hard memlock unlimited\" in "
              "/etc/security/limits.conf, or LimitMEMLOCK= of the service");
}

/*
 * One line of /proc/PID/limits: "Max locked memory  SOFT  HARD  bytes".
 * Returns: the soft limit, as text to be freed, NULL without such a line.
 */
static char *soft_limit(const char *limits)
{
    static const char name[] = "Max locked memory";
    const char *line = strstr(limits, name);

    if (!line) {
        return NULL;
    }
    line += strlen(name);
    line += strspn(line, " ");
    return g_strndup(line, strcspn(line, "\n "));
}

/* The last LimitMEMLOCK= of a unit file or drop-in, else what it was before */
static void read_unit(const HvHost *host, const char *path, char **limit)
{
    g_autofree char *text = hv_read(host, path);
    g_auto(GStrv) lines = g_strsplit(text ? text : "", "\n", -1);
    unsigned i;

    for (i = 0; lines[i]; i++) {
        const char *line = g_strstrip(lines[i]);

        if (g_str_has_prefix(line, "LimitMEMLOCK=")) {
            g_free(*limit);
            *limit = g_strdup(strchr(line, '=') + 1);
        }
    }
}

/* Where systemd looks, the strongest last */
static const char *const unit_directories[] = {
    "/lib/systemd/system", "/usr/lib/systemd/system", "/run/systemd/system",
    "/etc/systemd/system",
};

static void read_drop_ins(const HvHost *host, const char *unit, char **limit)
{
    unsigned d, i;

    for (d = 0; d < G_N_ELEMENTS(unit_directories); d++) {
        g_autofree char *dir = g_strdup_printf("%s/%s.service.d",
                                               unit_directories[d], unit);
        g_autoptr(GPtrArray) names = hv_list(host, dir, "");

        for (i = 0; i < names->len; i++) {
            g_autofree char *path = g_build_filename(
                dir, g_ptr_array_index(names, i), NULL);

            if (g_str_has_suffix(path, ".conf")) {
                read_unit(host, path, limit);
            }
        }
    }
}

/*
 * What the unit of a daemon that does not run would give it, "" for systemd's
 * default.  NULL: there is no such unit.
 */
static char *unit_limit(const HvHost *host, const char *unit)
{
    char *limit = NULL;
    unsigned d;

    for (d = G_N_ELEMENTS(unit_directories); d-- > 0; ) {
        g_autofree char *path = g_strdup_printf("%s/%s.service",
                                                unit_directories[d], unit);

        if (hv_exists(host, path)) {
            limit = g_strdup("");
            read_unit(host, path, &limit);
            read_drop_ins(host, unit, &limit);
            break;
        }
    }
    return limit;
}

static void libvirt_line(HvReport *report, const char *daemon,
                         const char *limit)
{
    bool unlimited = !strcmp(limit, "unlimited") ||
                     !strcmp(limit, "infinity");
    HvCheck *check;

    check = hv_check(report, unlimited ? HV_PASS : HV_NOTE, "memlock.libvirt",
                     "%s: %s", daemon, *limit ? limit : "systemd's default");
    if (!unlimited) {
        hv_means(check, "this is what domains get that say nothing else");
        hv_remedy(check, NULL, "give each domain <memoryBacking><locked/>"
                  "</memoryBacking> or <memtune><hard_limit>, which raise it");
    }
}

static void check_libvirt(HvReport *report, const HvHost *host)
{
    static const char *const daemons[] = { "virtqemud", "libvirtd", NULL };
    const char *name = NULL;
    g_autofree char *process = hv_find_process(host, daemons, &name);
    unsigned i;

    if (process) {
        g_autofree char *path = g_strconcat(process, "/limits", NULL);
        g_autofree char *limits = hv_read(host, path);
        g_autofree char *limit = limits ? soft_limit(limits) : NULL;

        libvirt_line(report, name, limit ? limit : "cannot be read");
        return;
    }
    for (i = 0; daemons[i]; i++) {
        g_autofree char *limit = unit_limit(host, daemons[i]);

        if (limit) {
            libvirt_line(report, daemons[i], limit);
            return;
        }
    }
    hv_check(report, HV_NOTE, "memlock.libvirt", "no libvirt daemon here");
}

static void no_io_uring(HvReport *report, int64_t disabled, int error)
{
    HvCheck *check = hv_check(report, HV_WARN, "io_uring", "%s",
                              g_strerror(error));

    hv_means(check, "'pin-ram=longterm' is not possible here, other "
             "properties are");
    if (error == EPERM && disabled > 0) {
        hv_remedy(check, "sysctl -w kernel.io_uring_disabled=0",
                  "kernel.io_uring_disabled is %" PRId64
                  ": set it to 0%s", disabled, disabled == 1 ? ", or have "
                  "QEMU run in the group kernel.io_uring_group" : "");
    } else if (error == EINVAL) {
        hv_remedy(check, NULL, "use Linux 5.19 or later");
    } else {
        hv_remedy(check, NULL, "let the seccomp filter or security policy "
                  "that QEMU runs under pass io_uring_setup and "
                  "io_uring_register");
    }
}

static void check_io_uring(HvReport *report, const HvHost *host)
{
    int64_t error = 0, disabled = 0;
    HvCheck *check;

    hv_read_int(host, "/proc/sys/kernel/io_uring_disabled", &disabled);
    if (!hv_probe(host, "io-uring-setup", &error)) {
        check = hv_check(report, HV_NOTE, "io_uring", "not asked");
        hv_means(check, "this record has no answer of io_uring");
        return;
    }
    if (error || (hv_probe(host, "io-uring-buffers", &error) && error)) {
        no_io_uring(report, disabled, error);
        return;
    }
    check = hv_check(report, disabled ? HV_WARN : HV_PASS, "io_uring",
                     disabled ? "for privileged users only" : "usable");
    if (disabled) {
        hv_means(check, "'pin-ram=longterm' needs it");
        hv_remedy(check, "sysctl -w kernel.io_uring_disabled=0",
                  "kernel.io_uring_disabled is %" PRId64
                  ": set it to 0", disabled);
    }
}

void hv_check_limits(HvReport *report, const HvHost *host,
                     const HvOffer *offer)
{
    check_own(report, offer);
    check_libvirt(report, host);
    check_io_uring(report, host);
}
