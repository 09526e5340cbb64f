/*
 * prefault-host-validate: files of the host, read and recorded
 *
 * Everything that is read from /proc, /sys and /etc comes through here, so
 * that it can come from a recorded tree, and so that a record has all of it.
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <glib/gstdio.h>
#include <stdlib.h>
#include <string.h>
#include "host-validate.h"

static char *place_of(const HvHost *host, const char *path)
{
    return g_build_filename(host->root ? host->root : "/", path, NULL);
}

static char *read_raw(const HvHost *host, const char *path)
{
    g_autofree char *place = place_of(host, path);
    char *text = NULL;

    if (!g_file_get_contents(place, &text, NULL, NULL)) {
        return NULL;
    }
    return g_strchomp(text);
}

static void cannot_record(const char *place)
{
    g_printerr("%s: cannot write '%s'\n", HV_NAME, place);
    exit(2);
}

static void record_directory(const HvHost *host, const char *path)
{
    g_autofree char *place = NULL;

    if (host->record) {
        place = g_build_filename(host->record, path, NULL);
        if (g_mkdir_with_parents(place, 0777) < 0) {
            cannot_record(place);
        }
    }
}

static void record_file(const HvHost *host, const char *path,
                        const char *text)
{
    g_autofree char *parent = g_path_get_dirname(path);
    g_autofree char *line = NULL, *place = NULL;

    if (host->record) {
        record_directory(host, parent);
        place = g_build_filename(host->record, path, NULL);
        line = g_strconcat(text, "\n", NULL);
        if (!g_file_set_contents(place, line, -1, NULL)) {
            cannot_record(place);
        }
    }
}

char *hv_read(const HvHost *host, const char *path)
{
    char *text = read_raw(host, path);

    if (text) {
        record_file(host, path, text);
    }
    return text;
}

char *hv_read_first(const HvHost *host, const char *path)
{
    char *text = read_raw(host, path);
    char *end = text ? strstr(text, "\n\n") : NULL;

    if (end) {
        *end = '\0';
    }
    if (text) {
        record_file(host, path, text);
    }
    return text;
}

static bool parse_int(const char *text, int64_t *value)
{
    char *end;
    int64_t number = g_ascii_strtoll(text, &end, 10);

    if (end == text) {
        return false;
    }
    *value = number;
    return true;
}

bool hv_read_int(const HvHost *host, const char *path, int64_t *value)
{
    g_autofree char *text = hv_read(host, path);

    return text && parse_int(text, value);
}

bool hv_read_field(const HvHost *host, const char *path, const char *name,
                   int64_t *value)
{
    g_autofree char *text = hv_read(host, path);
    g_autofree char *key = g_strconcat(name, ":", NULL);
    char *found = text ? strstr(text, key) : NULL;

    /* at the beginning of a line, or after "Node 0 " */
    if (!found || (found > text && !strchr("\n ", found[-1]))) {
        return false;
    }
    return parse_int(found + strlen(key), value);
}

char *hv_read_choice(const HvHost *host, const char *path)
{
    g_autofree char *text = hv_read(host, path);
    char *open = text ? strchr(text, '[') : NULL;
    char *close = open ? strchr(open, ']') : NULL;

    return close ? g_strndup(open + 1, close - open - 1) : NULL;
}

static int by_name(gconstpointer a, gconstpointer b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

GPtrArray *hv_list(const HvHost *host, const char *path, const char *prefix)
{
    GPtrArray *names = g_ptr_array_new_with_free_func(g_free);
    g_autofree char *place = place_of(host, path);
    g_autoptr(GDir) dir = g_dir_open(place, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *entry = g_build_filename(path, name, NULL);

        if (g_str_has_prefix(name, prefix)) {
            g_ptr_array_add(names, g_strdup(name));
            /* records a directory; a file is recorded when it is read */
            hv_exists(host, entry);
        }
    }
    g_ptr_array_sort(names, by_name);
    return names;
}

bool hv_exists(const HvHost *host, const char *path)
{
    g_autofree char *place = place_of(host, path);

    if (g_file_test(place, G_FILE_TEST_IS_DIR)) {
        record_directory(host, path);
    }
    return g_file_test(place, G_FILE_TEST_EXISTS);
}

/* Only what is found is recorded: a host has many processes */
char *hv_find_process(const HvHost *host, const char *const *names,
                      const char **name)
{
    g_autofree char *proc = place_of(host, "/proc");
    g_autoptr(GDir) dir = g_dir_open(proc, 0, NULL);
    const char *pid;

    while (dir && (pid = g_dir_read_name(dir))) {
        g_autofree char *path = g_strdup_printf("/proc/%s/comm", pid);
        g_autofree char *comm = g_ascii_isdigit(*pid) ? read_raw(host, path)
                                                      : NULL;

        if (comm && g_strv_contains(names, comm)) {
            record_file(host, path, comm);
            while (strcmp(*names, comm)) {
                names++;
            }
            *name = *names;
            return g_strdup_printf("/proc/%s", pid);
        }
    }
    return NULL;
}
