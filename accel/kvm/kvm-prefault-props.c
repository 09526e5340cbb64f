/*
 * KVM pre-fault: properties of the kvm accelerator
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/kvm.h>
#include "qapi/error.h"
#include "qapi/visitor.h"
#include "system/kvm_int.h"
#include "kvm-prefault.h"

/* Linux speaks of a soft lock-up after 20 s, and watchdogs bite earlier */
#define DEFAULT_HOLD_MS 100
#define MAX_HOLD_MS 3600000

static bool still_settable(Object *obj, const char *name, Error **errp)
{
    if (KVM_STATE(obj)->fd != -1) {
        error_setg(errp, "'%s' cannot be set after the accelerator has been "
                   "initialized", name);
        return false;
    }
    return true;
}

/* Like qapi_enum_parse(), but the message says what would be accepted */
static int parse_choice(const char *name, const char *value,
                        const QEnumLookup *lookup, Error **errp)
{
    g_autoptr(GString) choices = g_string_new(NULL);
    int i;

    for (i = 0; i < lookup->size; i++) {
        if (g_str_equal(value, lookup->array[i])) {
            return i;
        }
        g_string_append_printf(choices, "%s%s", i ? ", " : "",
                               lookup->array[i]);
    }
    error_setg(errp, "'%s' cannot be '%s', use one of: %s", name, value,
               choices->str);
    return -1;
}

static int set_choice(Object *obj, const char *name, const char *value,
                      const QEnumLookup *lookup, Error **errp)
{
    return still_settable(obj, name, errp) ?
           parse_choice(name, value, lookup, errp) : -1;
}

static char *get_prefault(Object *obj, Error **errp)
{
    return g_strdup(OnOffAuto_str(kvm_prefault.config.mode));
}

static void set_prefault(Object *obj, const char *value, Error **errp)
{
    int mode = set_choice(obj, PROP_PREFAULT, value, &OnOffAuto_lookup, errp);

    if (mode >= 0) {
        kvm_prefault.config.mode = mode;
    }
}

/* "auto" is remembered as no method in particular */
static char *get_method(Object *obj, Error **errp)
{
    KvmPrefaultMethod method = kvm_prefault.config.method;

    return g_strdup(method == KVM_PREFAULT_METHOD_NONE ?
                    "auto" : KvmPrefaultMethod_str(method));
}

static void set_method(Object *obj, const char *value, Error **errp)
{
    static const char *const choices[] = { "auto", "ioctl", "vcpu" };
    static const QEnumLookup lookup = { .array = choices, .size = 3 };
    static const KvmPrefaultMethod methods[] = {
        KVM_PREFAULT_METHOD_NONE,
        KVM_PREFAULT_METHOD_IOCTL,
        KVM_PREFAULT_METHOD_VCPU,
    };
    int method = set_choice(obj, PROP_PREFAULT_METHOD, value, &lookup, errp);

    if (method >= 0) {
        kvm_prefault.config.method = methods[method];
    }
}

static char *get_wait(Object *obj, Error **errp)
{
    return g_strdup(kvm_prefault.config.wait ? "on" : "off");
}

static void set_wait(Object *obj, const char *value, Error **errp)
{
    static const char *const choices[] = { "off", "on" };
    static const QEnumLookup lookup = { .array = choices, .size = 2 };
    int wait = set_choice(obj, PROP_PREFAULT_WAIT, value, &lookup, errp);

    if (wait >= 0) {
        kvm_prefault.config.wait = wait;
    }
}

static char *get_pin(Object *obj, Error **errp)
{
    return g_strdup(KvmPinRam_str(kvm_prefault.config.pin));
}

static void set_pin(Object *obj, const char *value, Error **errp)
{
    int pin = set_choice(obj, PROP_PIN_RAM, value, &KvmPinRam_lookup, errp);

    if (pin >= 0) {
        kvm_prefault.config.pin = pin;
        kvm_prefault.config.pin_set = true;
    }
}

static char *get_slot_zap(Object *obj, Error **errp)
{
    return g_strdup(KvmSlotZap_str(kvm_prefault.config.slot_zap));
}

static void set_slot_zap(Object *obj, const char *value, Error **errp)
{
    int zap = set_choice(obj, PROP_SLOT_ZAP, value, &KvmSlotZap_lookup, errp);

    if (zap >= 0) {
        kvm_prefault.config.slot_zap = zap;
        kvm_prefault.config.slot_zap_set = true;
    }
}

static char *get_always_writable(Object *obj, Error **errp)
{
    return g_strdup(OnOffAuto_str(kvm_prefault.config.always_writable));
}

static void set_always_writable(Object *obj, const char *value, Error **errp)
{
    int mode = set_choice(obj, PROP_ALWAYS_WRITABLE, value, &OnOffAuto_lookup,
                          errp);

    if (mode >= 0) {
        kvm_prefault.config.always_writable = mode;
        kvm_prefault.config.always_writable_set = true;
    }
}

static char *get_mtrr_zap(Object *obj, Error **errp)
{
    return g_strdup(KvmMtrrZap_str(kvm_prefault.config.mtrr_zap));
}

static void set_mtrr_zap(Object *obj, const char *value, Error **errp)
{
    int zap = set_choice(obj, PROP_MTRR_ZAP, value, &KvmMtrrZap_lookup, errp);

    if (zap >= 0) {
        kvm_prefault.config.mtrr_zap = zap;
        kvm_prefault.config.mtrr_zap_set = true;
    }
}

/* @what: said of a value that is none, or more than @max */
static void set_number(Object *obj, Visitor *v, const char *name,
                       uint32_t max, const char *what, uint32_t *number,
                       Error **errp)
{
    uint32_t value;

    if (!still_settable(obj, name, errp)) {
        return;
    }
    if (!visit_type_uint32(v, name, &value, NULL) || value > max) {
        error_setg(errp, "'%s' must be %s", name, what);
        return;
    }
    *number = value;
}

static void get_threads(Object *obj, Visitor *v, const char *name,
                        void *opaque, Error **errp)
{
    visit_type_uint32(v, name, &kvm_prefault.config.threads, errp);
}

/* The upper limit is known in kvm_prefault_init(): it is the number of vCPUs */
static void set_threads(Object *obj, Visitor *v, const char *name,
                        void *opaque, Error **errp)
{
    set_number(obj, v, name, UINT32_MAX, "a number from 0 (automatic) to the "
               "number of vCPUs", &kvm_prefault.config.threads, errp);
}

static void get_max_hold(Object *obj, Visitor *v, const char *name,
                         void *opaque, Error **errp)
{
    visit_type_uint32(v, name, &kvm_prefault.config.max_hold_ms, errp);
}

static void set_max_hold(Object *obj, Visitor *v, const char *name,
                         void *opaque, Error **errp)
{
    set_number(obj, v, name, MAX_HOLD_MS, "a number of milliseconds from 1 to "
               stringify(MAX_HOLD_MS) ", or 0 (no limit)",
               &kvm_prefault.config.max_hold_ms, errp);
}

static void add_choice(ObjectClass *oc, const char *name,
                       char *(*get)(Object *, Error **),
                       void (*set)(Object *, const char *, Error **),
                       const char *description)
{
    object_class_property_add_str(oc, name, get, set);
    object_class_property_set_description(oc, name, description);
}

static void add_numbers(ObjectClass *oc)
{
    object_class_property_add(oc, PROP_PREFAULT_MAX_HOLD, "uint32",
                              get_max_hold, set_max_hold, NULL, NULL);
    object_class_property_set_description(oc, PROP_PREFAULT_MAX_HOLD,
        "Longest time in milliseconds that a guest that has run is held for "
        "a pass (default: 100; 0: no limit)");
    object_class_property_add(oc, PROP_PREFAULT_THREADS, "uint32",
                              get_threads, set_threads, NULL, NULL);
    object_class_property_set_description(oc, PROP_PREFAULT_THREADS,
        "Threads that populate at a time (default: 0, one per vCPU, at most "
        "the host CPUs available)");
}

void kvm_prefault_class_init(ObjectClass *oc)
{
    kvm_prefault.config = (KVMPrefaultConfig) {
        .mode = ON_OFF_AUTO_OFF,
        .wait = true,
        .max_hold_ms = DEFAULT_HOLD_MS,
        .pin = KVM_PIN_RAM_OFF,
        .slot_zap = KVM_SLOT_ZAP_ALL,
        .always_writable = ON_OFF_AUTO_OFF,
        .mtrr_zap = KVM_MTRR_ZAP_FULL,
    };

    add_choice(oc, PROP_PREFAULT, get_prefault, set_prefault,
               "Keep guest RAM mapped in EPT/NPT: off, auto, on "
               "(default: off)");
    add_choice(oc, PROP_PREFAULT_METHOD, get_method, set_method,
               "How tables are filled: ioctl (KVM_PRE_FAULT_MEMORY), vcpu "
               "(vCPUs touch memory), auto (default: auto)");
    add_choice(oc, PROP_PREFAULT_WAIT, get_wait, set_wait,
               "Run the guest only when population is done: on, off "
               "(default: on)");
    add_choice(oc, PROP_PIN_RAM, get_pin, set_pin,
               "Keep guest RAM in host memory: off, mlock, longterm "
               "(default: off; mlock with prefault)");
    add_choice(oc, PROP_SLOT_ZAP, get_slot_zap, set_slot_zap,
               "What deleting a memory slot unmaps: all, slot, auto "
               "(default: all; auto with prefault)");
    add_choice(oc, PROP_ALWAYS_WRITABLE, get_always_writable,
               set_always_writable,
               "Have read faults map RAM writable: off, auto, on "
               "(default: off; auto with prefault)");
    add_choice(oc, PROP_MTRR_ZAP, get_mtrr_zap, set_mtrr_zap,
               "What guest MTRRs unmap: full, range, none, auto "
               "(default: full; auto with prefault)");
    add_numbers(oc);
}
