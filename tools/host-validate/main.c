/*
 * prefault-host-validate: can this host keep guest RAM free of faults?
 *
 * Exit status: 0 all checks pass or warn, 1 one has failed, 2 wrong usage.
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <locale.h>
#include <signal.h>
#include <stdlib.h>
#include "host-validate.h"

typedef struct Options {
    gboolean json;
    gboolean version;
    char *qemu;
    char *root;
    char *record;
} Options;

static void usage_error(const char *text)
{
    g_printerr("%s: %s\nTry '%s --help'.\n", HV_NAME, text, HV_NAME);
    exit(2);
}

static void check_options(const Options *options, int argc, char **argv)
{
    g_autofree char *text = NULL;

    if (argc > 1) {
        text = g_strdup_printf("unexpected argument '%s'", argv[1]);
        usage_error(text);
    }
    if (options->root && !g_file_test(options->root, G_FILE_TEST_IS_DIR)) {
        text = g_strdup_printf("'--root': '%s' is not a directory",
                               options->root);
        usage_error(text);
    }
    if (options->root && options->record) {
        usage_error("'--record' records this machine, so that it cannot be "
                    "used with '--root'");
    }
    if (options->root && options->qemu) {
        usage_error("'--qemu' starts a QEMU on this machine, so that it "
                    "cannot be used with '--root'");
    }
    if (options->record && g_file_test(options->record, G_FILE_TEST_EXISTS)) {
        text = g_strdup_printf("'--record': '%s' exists; name a directory "
                               "that can be made", options->record);
        usage_error(text);
    }
}

static void parse(Options *options, int argc, char **argv)
{
    GOptionEntry entries[] = {
        { "json", 0, 0, G_OPTION_ARG_NONE, &options->json,
          "Print JSON instead of text", NULL },
        { "qemu", 0, 0, G_OPTION_ARG_FILENAME, &options->qemu,
          "Ask this QEMU as well what it finds here", "PATH" },
        { "root", 0, 0, G_OPTION_ARG_FILENAME, &options->root,
          "Look at a recorded host, not at this one", "DIR" },
        { "record", 0, 0, G_OPTION_ARG_FILENAME, &options->record,
          "Record all that is looked at in a new directory", "DIR" },
        { "version", 0, 0, G_OPTION_ARG_NONE, &options->version,
          "Print the version", NULL },
        { NULL },
    };
    g_autoptr(GOptionContext) context = g_option_context_new(NULL);
    g_autoptr(GError) error = NULL;

    g_option_context_set_summary(context, "Check whether guests of "
                                 "qemu-prefault can run on this host without "
                                 "faults on their RAM.");
    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error)) {
        usage_error(error->message);
    }
    check_options(options, argc, argv);
}

static void run_checks(HvReport *report, const HvHost *host,
                       const HvOffer *offer, const char *qemu)
{
    hv_check_kvm(report, host, offer);
    hv_check_parameters(report, host);
    hv_check_memory(report, host);
    hv_check_movers(report, host);
    hv_check_limits(report, host, offer);
    hv_check_devices(report, host, offer);
    if (qemu) {
        hv_check_qemu(report, qemu, offer);
    }
}

static void save(const HvHost *host)
{
    g_autoptr(GError) error = NULL;

    if (host->record && !hv_probe_save(host, &error)) {
        usage_error(error->message);
    }
}

static int validate(const Options *options)
{
    HvHost host = { .root = options->root, .record = options->record };
    HvReport *report = hv_report_new();
    g_autoptr(GError) error = NULL;
    HvOffer offer;
    int status;

    if (!hv_probe_load(&host, &error)) {
        usage_error(error->message);
    }
    offer = hv_offer(&host);
    run_checks(report, &host, &offer, options->qemu);
    save(&host);
    if (options->json) {
        hv_print_json(report, &host, &offer, stdout);
    } else {
        hv_print_text(report, stdout);
    }
    status = report->count[HV_FAIL] ? 1 : 0;
    hv_report_free(report);
    g_key_file_free(host.probes);
    return status;
}

int main(int argc, char **argv)
{
    Options options = { 0 };
    int status = 0;

    /* a pipe to a QEMU that has ended gives an error instead */
    signal(SIGPIPE, SIG_IGN);
    setlocale(LC_CTYPE, "");
    parse(&options, argc, argv);
    if (options.version) {
        g_print("%s (qemu-prefault) %s\n", HV_NAME, HV_VERSION);
    } else {
        status = validate(&options);
    }
    g_free(options.qemu);
    g_free(options.root);
    g_free(options.record);
    if (fflush(stdout)) {
        g_printerr("%s: cannot write the report\n", HV_NAME);
        return 2;
    }
    return status;
}
