/* SPDX-License-Identifier: MIT */
/* hull info --cpu: which models and features --cpu takes on each engine of this host. */
#include "info.h"
#include "engine/engine.h"
#include "engine/x86/model.h"
#include <stdio.h>
#include <string.h>

static json_t *named(const uint8_t list[X86_F_COUNT])
{
    json_t *names = json_array();

    for (unsigned f = X86_F_BASE + 1; f < X86_F_COUNT; f++)
        if (list[f])
            json_array_append_new(names, json_string(cpu_feature_name(f)));
    return names;
}

static json_t *model_on(const char *name, const struct cpu_offer *offer)
{
    uint8_t lacks[X86_F_COUNT], without[X86_F_COUNT];

    cpu_model_gaps(name, offer, lacks, without);
    return json_pack("{s:b, s:o, s:o}", "offered", !memchr(lacks, 1, sizeof lacks), "lacks",
                     named(lacks), "without", named(without));
}

static const char *offer_word(uint8_t offer)
{
    return offer == CPU_OFFERS ? "yes" : offer == CPU_ON_REQUEST ? "on request" : "no";
}

/* `kvm` is NULL where there is none. */
static json_t *gather(const struct cpu_offer *soft, const struct cpu_offer *kvm, const char *why)
{
    json_t *models = json_array(), *features = json_object(), *m, *f;

    for (const char *const *name = cpu_model_names(); *name; name++) {
        m = json_pack("{s:s, s:s, s:o}", "name", *name, "about", cpu_model_about(*name), "soft",
                      model_on(*name, soft));
        json_object_set_new(m, "kvm", kvm ? model_on(*name, kvm) : json_null());
        json_array_append_new(models, m);
    }
    for (unsigned i = X86_F_BASE + 1; i < X86_F_COUNT; i++) {
        f = json_pack("{s:s}", "soft", offer_word(soft->feature[i]));
        json_object_set_new(f, "kvm", kvm ? json_string(offer_word(kvm->feature[i])) : json_null());
        json_object_set_new(features, cpu_feature_name(i), f);
    }
    return json_pack("{s:o, s:o, s:{s:b, s:b}, s:o}", "models", models, "features", features,
                     "hyperv", "soft", soft->hv.access != 0, "kvm", kvm && kvm->hv.access,
                     "kvm_problem", kvm ? json_null() : json_string(why));
}

json_t *info_cpu(void)
{
    static struct cpu_offer soft, kvm;
    struct err err = {0};
    bool has_kvm;

    cpu_offer_soft(&soft);
    has_kvm = kvm_engine.offer(&kvm, &err);
    return gather(&soft, has_kvm ? &kvm : NULL, err.text);
}

/* ---- for people ---- */

static void print_words(const char *before, json_t *words)
{
    size_t i;
    json_t *word;

    if (!json_array_size(words))
        return;
    printf("%s", before);
    json_array_foreach(words, i, word) printf(" %s", json_string_value(word));
}

static void print_model(json_t *model, const char *engine)
{
    json_t *on = json_object_get(model, engine);

    if (!json_is_object(on))
        return;
    if (!json_is_true(json_object_get(on, "offered")))
        print_words("; not here:", json_object_get(on, "lacks"));
    else
        print_words("; here without", json_object_get(on, "without"));
}

/* A line of at most 76 characters, broken between names. */
static void print_features(json_t *cpu, const char *engine, const char *word, const char *title)
{
    const char *name;
    json_t *f;
    size_t at = 0;

    json_object_foreach(json_object_get(cpu, "features"), name, f)
    {
        const char *has = json_string_value(json_object_get(f, engine));

        if (!has || strcmp(has, word))
            continue;
        if (!at)
            printf("\n%s:", title);
        if (!at || at + strlen(name) + 1 > 76) {
            printf("\n ");
            at = 1;
        }
        at += (size_t)printf(" %s", name);
    }
    if (at)
        printf("\n");
}

void info_cpu_print(json_t *cpu)
{
    const char *why = json_string_value(json_object_get(cpu, "kvm_problem"));
    bool kvm = !why;
    size_t i;
    json_t *model;

    printf("Models (--cpu NAME,+FEATURE,-FEATURE,hyperv=on), as the %s offers them:\n",
           kvm ? "KVM engine" : "soft engine");
    json_array_foreach(json_object_get(cpu, "models"), i, model)
    {
        printf("  %-12s %s", json_string_value(json_object_get(model, "name")),
               json_string_value(json_object_get(model, "about")));
        print_model(model, kvm ? "kvm" : "soft");
        printf("\n");
    }
    print_features(cpu, "kvm", "yes", "Features on KVM");
    print_features(cpu, "kvm", "on request", "Features on KVM, off unless asked for");
    print_features(cpu, "soft", "yes", "Features on the soft engine");
    print_features(cpu, "soft", "on request", "Features on the soft engine, off unless asked for");
    if (why)
        printf("\nNothing about KVM: %s\n", why);
}
