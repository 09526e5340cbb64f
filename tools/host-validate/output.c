/*
 * prefault-host-validate: text and JSON
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include "host-validate.h"

#define DEFAULT_WIDTH 80
#define LEAST_WIDTH   40
/* "PASS  " */
#define INDENT        6

/* How the text looks; width 0: lines are not wrapped */
typedef struct Style {
    FILE *out;
    int width;
    bool colour;
} Style;

static int terminal_width(int fd)
{
    struct winsize size;
    int width = DEFAULT_WIDTH;

    if (ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col) {
        width = size.ws_col;
    }
    return MAX(width, LEAST_WIDTH);
}

/* https://no-color.org: set and not empty */
static bool colour_wanted(void)
{
    const char *no_color = g_getenv("NO_COLOR");

    return !(no_color && *no_color) && g_strcmp0(g_getenv("TERM"), "dumb");
}

static Style style_of(FILE *out)
{
    int fd = fileno(out);
    bool terminal = isatty(fd);

    return (Style) {
        .out = out,
        .width = terminal ? terminal_width(fd) : 0,
        .colour = terminal && colour_wanted(),
    };
}

static void print_status(const Style *style, HvStatus status)
{
    static const char *const colours[] = {
        [HV_PASS] = "\033[32m", [HV_NOTE] = "\033[36m",
        [HV_WARN] = "\033[33m", [HV_FAIL] = "\033[1;31m",
    };

    fprintf(style->out, "%s%s%s  ", style->colour ? colours[status] : "",
            hv_status_str(status), style->colour ? "\033[0m" : "");
}

/* The cursor is in column INDENT; a word that is too long gets a line */
static void print_wrapped(const Style *style, const char *text)
{
    g_auto(GStrv) words = g_strsplit(text, " ", -1);
    int column = INDENT;
    unsigned i;

    for (i = 0; words[i]; i++) {
        int length = g_utf8_strlen(words[i], -1);

        if (i && column + 1 + length > style->width) {
            fprintf(style->out, "\n%*s", INDENT, "");
            column = INDENT;
        } else if (i) {
            fputc(' ', style->out);
            column++;
        }
        fputs(words[i], style->out);
        column += length;
    }
    fputc('\n', style->out);
}

/* "found: meaning.  Remedy: what (command)", as far as there is any of it */
static char *whole_text(const HvCheck *check)
{
    GString *text = g_string_new(NULL);

    g_string_append_printf(text, "%s: %s", check->name, check->found);
    if (check->meaning) {
        g_string_append_printf(text, ": %s", check->meaning);
    }
    if (check->remedy) {
        g_string_append_printf(text, ". Remedy: %s", check->remedy);
    }
    if (check->command) {
        g_string_append_printf(text, " (%s)", check->command);
    }
    return g_string_free(text, FALSE);
}

static void print_check(const Style *style, const HvCheck *check)
{
    g_autofree char *text = whole_text(check);

    print_status(style, check->status);
    if (style->width) {
        print_wrapped(style, text);
    } else {
        fprintf(style->out, "%s\n", text);
    }
}

void hv_print_text(const HvReport *report, FILE *out)
{
    Style style = style_of(out);
    unsigned i;

    for (i = 0; i < report->checks->len; i++) {
        print_check(&style, g_ptr_array_index(report->checks, i));
    }
    fprintf(out, "%u passed, %u to be noted, %u warnings, %u failed\n",
            report->count[HV_PASS], report->count[HV_NOTE],
            report->count[HV_WARN], report->count[HV_FAIL]);
}

static void json_string(FILE *out, const char *text)
{
    g_autofree char *valid = text ? g_utf8_make_valid(text, -1) : NULL;
    const char *c;

    if (!text) {
        fputs("null", out);
        return;
    }
    fputc('"', out);
    for (c = valid; *c; c++) {
        if (*c == '"' || *c == '\\') {
            fprintf(out, "\\%c", *c);
        } else if ((unsigned char)*c < 0x20) {
            fprintf(out, "\\u%04x", *c);
        } else {
            fputc(*c, out);
        }
    }
    fputc('"', out);
}

static void json_member(FILE *out, const char *name, const char *text)
{
    fprintf(out, ", \"%s\": ", name);
    json_string(out, text);
}

static void json_check(FILE *out, const HvCheck *check)
{
    g_autofree char *status = g_ascii_strdown(hv_status_str(check->status),
                                              -1);

    fprintf(out, "{\"status\": \"%s\"", status);
    json_member(out, "name", check->name);
    json_member(out, "found", check->found);
    json_member(out, "meaning", check->meaning);
    json_member(out, "remedy", check->remedy);
    json_member(out, "command", check->command);
    fputc('}', out);
}

static const char *json_bool(bool value)
{
    return value ? "true" : "false";
}

/* The names of query-kvm-prefault */
static void json_offer(FILE *out, const HvOffer *offer)
{
    if (!offer->known) {
        fputs("null", out);
        return;
    }
    fprintf(out, "{\"pre-fault-memory\": %s, \"slot-zap\": %s, "
            "\"always-writable\": %s, \"mtrr-zap\": \"%s\", "
            "\"nx-huge-pages\": %s, \"address-spaces\": %" PRId64
            ", \"statistics\": %s",
            json_bool(offer->pre_fault_memory), json_bool(offer->slot_zap),
            json_bool(offer->always_writable),
            hv_mtrr_zap_str(offer->mtrr_zap),
            json_bool(offer->nx_huge_pages), offer->address_spaces,
            json_bool(offer->statistics));
    if (offer->memlock_known && offer->memlock_limit >= 0) {
        fprintf(out, ", \"memlock-limit\": %" PRId64,
                offer->memlock_limit);
    }
    fputc('}', out);
}

void hv_print_json(const HvReport *report, const HvHost *host,
                   const HvOffer *offer, FILE *out)
{
    unsigned i;

    fprintf(out, "{\"version\": \"%s\"", HV_VERSION);
    json_member(out, "root", host->root);
    fprintf(out, ",\n \"summary\": {\"pass\": %u, \"note\": %u, "
            "\"warn\": %u, \"fail\": %u},\n \"host\": ",
            report->count[HV_PASS], report->count[HV_NOTE],
            report->count[HV_WARN], report->count[HV_FAIL]);
    json_offer(out, offer);
    fputs(",\n \"checks\": [", out);
    for (i = 0; i < report->checks->len; i++) {
        fputs(i ? ",\n  " : "\n  ", out);
        json_check(out, g_ptr_array_index(report->checks, i));
    }
    fputs("\n ]}\n", out);
}
