/*
 * prefault-host-validate: a QEMU, and what it finds on this machine
 *
 * It is started without a machine, so that it needs no memory, and asked over
 * QMP on its standard input and output.
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "host-validate.h"

#define TIMEOUT_MS 20000
#define ANSWER_MAX (4 * MIB)

static const char commands[] =
    "{\"execute\": \"qmp_capabilities\"}\n"
    "{\"execute\": \"query-kvm-prefault\"}\n"
    "{\"execute\": \"quit\"}\n";

typedef struct Child {
    GPid pid;
    int in, out;
} Child;

static bool start(const char *binary, Child *child, GError **error)
{
    const char *argv[] = {
        binary, "-S", "-no-user-config", "-nodefaults", "-display", "none",
        "-machine", "none", "-accel", "kvm", "-qmp", "stdio", NULL,
    };

    return g_spawn_async_with_pipes(NULL, (char **)argv, NULL,
                                    G_SPAWN_DO_NOT_REAP_CHILD |
                                    G_SPAWN_STDERR_TO_DEV_NULL, NULL, NULL,
                                    &child->pid, &child->in, &child->out,
                                    NULL, error);
}

/* Everything up to the end of file, or what came in time */
static char *read_all(int fd)
{
    int64_t end = g_get_monotonic_time() / 1000 + TIMEOUT_MS;
    GString *text = g_string_new(NULL);
    struct pollfd pollfd = { .fd = fd, .events = POLLIN };
    char buf[4096];
    ssize_t n = 1;

    while (n > 0 && text->len < ANSWER_MAX) {
        int64_t left = end - g_get_monotonic_time() / 1000;

        if (left <= 0 || poll(&pollfd, 1, left) <= 0) {
            break;
        }
        n = read(fd, buf, sizeof(buf));
        if (n > 0) {
            g_string_append_len(text, buf, n);
        }
    }
    return g_string_free(text, FALSE);
}

/* What QEMU has printed; NULL if it cannot be started */
static char *converse(const char *binary, GError **error)
{
    Child child;
    char *answer;

    if (!start(binary, &child, error)) {
        return NULL;
    }
    /* one that has ended already may have said something before (EPIPE) */
    answer = write(child.in, commands, strlen(commands)) < 0 && errno != EPIPE
             ? g_strdup("") : read_all(child.out);
    close(child.in);
    close(child.out);
    kill(child.pid, SIGKILL);
    while (waitpid(child.pid, NULL, 0) < 0 && errno == EINTR) {
        continue;
    }
    g_spawn_close_pid(child.pid);
    return answer;
}

/* QMP's own spelling: one space behind the colon */
static bool says(const char *answer, const char *name, const char *value)
{
    g_autofree char *member = g_strdup_printf("\"%s\": %s", name, value);

    return strstr(answer, member);
}

static const char *json_bool(bool value)
{
    return value ? "true" : "false";
}

/* The first of what both know that they do not agree on; NULL if they do */
static const char *disagreement(const char *answer, const HvOffer *offer)
{
    g_autofree char *zap = g_strdup_printf("\"%s\"",
                                           hv_mtrr_zap_str(offer->mtrr_zap));
    const struct {
        const char *name;
        const char *value;
    } members[] = {
        { "pre-fault-memory", json_bool(offer->pre_fault_memory) },
        { "slot-zap", json_bool(offer->slot_zap) },
        { "always-writable", json_bool(offer->always_writable) },
        { "mtrr-zap", zap },
        { "nx-huge-pages", json_bool(offer->nx_huge_pages) },
        { "statistics", json_bool(offer->statistics) },
    };
    /* members of "host" have the names of some outside */
    const char *host = strstr(answer, "\"host\": {");
    g_autofree char *part = host ? g_strndup(host, strcspn(host, "}"))
                                 : g_strdup("");
    unsigned i;

    for (i = 0; i < G_N_ELEMENTS(members); i++) {
        if (!says(part, members[i].name, members[i].value)) {
            return members[i].name;
        }
    }
    return NULL;
}

static void check_answer(HvReport *report, const char *binary,
                         const char *answer, const HvOffer *offer)
{
    const char *what = offer->known ? disagreement(answer, offer) : NULL;
    HvCheck *check;

    if (!what) {
        hv_check(report, HV_PASS, "qemu", "%s has 'prefault'%s", binary,
                 offer->known ? " and finds the same host" : "");
        return;
    }
    check = hv_check(report, HV_WARN, "qemu", "%s finds another '%s'", binary,
                     what);
    hv_means(check, "what is said above need not hold for this QEMU");
    hv_remedy(check, NULL, "use the %s of the same release", HV_NAME);
}

void hv_check_qemu(HvReport *report, const char *binary, const HvOffer *offer)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *answer = converse(binary, &error);
    HvCheck *check;

    if (answer && says(answer, "method", "\"none\"")) {
        check_answer(report, binary, answer, offer);
        return;
    }
    if (answer && strstr(answer, "CommandNotFound")) {
        check = hv_check(report, HV_FAIL, "qemu", "%s has no 'prefault'",
                         binary);
        hv_means(check, "it is another QEMU");
    } else {
        check = hv_check(report, HV_FAIL, "qemu", "%s does not answer%s%s",
                         binary, error ? ": " : "",
                         error ? error->message : "");
        hv_means(check, "it cannot be started with -machine none -accel kvm");
    }
    hv_remedy(check, NULL, "name qemu-prefault's qemu-system-x86_64");
}
