/*
 * prefault-host-validate: what has been found
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <stdarg.h>
#include "host-validate.h"

static void check_free(gpointer data)
{
    HvCheck *check = data;

    g_free(check->name);
    g_free(check->found);
    g_free(check->meaning);
    g_free(check->remedy);
    g_free(check->command);
    g_free(check);
}

HvReport *hv_report_new(void)
{
    HvReport *report = g_new0(HvReport, 1);

    report->checks = g_ptr_array_new_with_free_func(check_free);
    return report;
}

void hv_report_free(HvReport *report)
{
    g_ptr_array_unref(report->checks);
    g_free(report);
}

HvCheck *hv_check(HvReport *report, HvStatus status, const char *name,
                  const char *format, ...)
{
    HvCheck *check = g_new0(HvCheck, 1);
    va_list args;

    va_start(args, format);
    check->found = g_strdup_vprintf(format, args);
    va_end(args);
    check->name = g_strdup(name);
    check->status = status;
    report->count[status]++;
    g_ptr_array_add(report->checks, check);
    return check;
}

void hv_means(HvCheck *check, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    check->meaning = g_strdup_vprintf(format, args);
    va_end(args);
}

void hv_remedy(HvCheck *check, const char *command, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    check->remedy = g_strdup_vprintf(format, args);
    va_end(args);
    check->command = g_strdup(command);
}

const char *hv_status_str(HvStatus status)
{
    static const char *const names[] = { "PASS", "NOTE", "WARN", "FAIL" };

    return names[status];
}
