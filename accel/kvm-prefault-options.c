/*
 * KVM pre-fault: command line options outside -accel kvm
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "qemu/accel.h"
#include "qemu/config-file.h"
#include "qemu/error-report.h"
#include "qemu/option.h"
#include "qom/object.h"
#include "hw/boards.h"
#include "system/kvm_prefault.h"

static const char *const prefault_options[] = {
    "prefault", "prefault-method", "prefault-threads", "prefault-wait",
    "prefault-max-hold", "pin-ram", "slot-zap", "always-writable", "mtrr-zap",
};

/* Value of 'prefault' on -machine, which only the kvm accelerator looks at */
static char *machine_prefault;

void kvm_prefault_machine_options(QDict *opts)
{
    int i;

    for (i = 0; i < ARRAY_SIZE(prefault_options); i++) {
        const char *name = prefault_options[i];
        const char *value = qdict_get_try_str(opts, name);

        if (!value) {
            continue;
        }
        if (i == 0) {
            machine_prefault = g_strdup(value);
        }
        object_register_sugar_prop(ACCEL_CLASS_NAME("kvm"), name, value,
                                   false);
        qdict_del(opts, name);
    }
}

static bool is_in_use(QemuOpts *opts)
{
    const char *name = qemu_opt_get(opts, "accel");
    g_autofree char *class_name = g_strdup_printf("%s-accel",
                                                  name ? name : "");

    return object_dynamic_cast(OBJECT(current_machine->accelerator),
                               class_name);
}

static void warn_dropped(QemuOpts *opts)
{
    int i;

    for (i = 0; i < ARRAY_SIZE(prefault_options); i++) {
        if (qemu_opt_get(opts, prefault_options[i])) {
            warn_report("'%s' on a second '-accel %s' has no effect, because "
                        "another -accel option comes first; use -machine "
                        "%s=... instead", prefault_options[i],
                        qemu_opt_get(opts, "accel"), prefault_options[i]);
        }
    }
}

static int check_dropped(void *opaque, QemuOpts *opts, Error **errp)
{
    bool *found = opaque;

    if (*found) {
        warn_dropped(opts);
    }
    *found |= is_in_use(opts);
    return 0;
}

void kvm_prefault_check_accel(void)
{
    bool kvm = object_dynamic_cast(OBJECT(current_machine->accelerator),
                                   ACCEL_CLASS_NAME("kvm"));
    bool found = false;

    qemu_opts_foreach(qemu_find_opts("accel"), check_dropped, &found,
                      &error_abort);
    if (kvm || !machine_prefault || g_str_equal(machine_prefault, "off")) {
        return;
    }
    if (g_str_equal(machine_prefault, "on")) {
        error_report("'prefault=on' needs the kvm accelerator, but '%s' is in "
                     "use", current_accel_name());
        error_printf("Use -accel kvm, or prefault=auto to start without.\n");
        exit(EXIT_FAILURE);
    }
    warn_report("'prefault=%s' has no effect: it needs the kvm accelerator, "
                "but '%s' is in use", machine_prefault, current_accel_name());
}
