/* SPDX-License-Identifier: MIT */
/* CPU models by name, and features by name on top. Each model lists what it offers; what the host
 * must execute and cannot is left out, or is an error where the model stands for it. */
#include "engine/x86/model.h"
#include "field/field.h"
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum { HOST, SOFT }; /* who executes a feature's instructions */

static const char *const feature_name[] = {
#define X(name, text, leaf, sub, reg, bit, how) text,
    X86_FEATURES(X)
#undef X
        NULL};

static const uint8_t feature_how[X86_F_COUNT] = {SOFT,
#define X(name, text, leaf, sub, reg, bit, how) how,
                                                 X86_FEATURES(X)
#undef X
};

/* Other names in use, mostly /proc/cpuinfo's. */
static const struct {
    const char *alias;
    uint8_t feature;
} aliases[] = {
    {"pni", X86_F_SSE3},   {"pclmulqdq", X86_F_PCLMUL}, {"tsc-deadline-timer", X86_F_TSC_DEADLINE},
    {"abm", X86_F_LZCNT},  {"lahf-lm", X86_F_LAHF},     {"3dnowprefetch", X86_F_PREFETCHW},
    {"sha-ni", X86_F_SHA}, {"clfsh", X86_F_CLFLUSH},    {"rdtscp", X86_F_RDTSCP},
};

/* The first needs the second. */
static const uint8_t needs[][2] = {
    {X86_F_SSE, X86_F_FXSR},     {X86_F_SSE2, X86_F_SSE},
    {X86_F_SSE3, X86_F_SSE2},    {X86_F_SSSE3, X86_F_SSE3},
    {X86_F_SSE41, X86_F_SSSE3},  {X86_F_SSE42, X86_F_SSE41},
    {X86_F_AES, X86_F_SSE2},     {X86_F_PCLMUL, X86_F_SSE2},
    {X86_F_SHA, X86_F_SSSE3},    {X86_F_MMX, X86_F_FPU},
    {X86_F_FXSR, X86_F_FPU},     {X86_F_AVX, X86_F_XSAVE},
    {X86_F_AVX, X86_F_SSE42},    {X86_F_AVX2, X86_F_AVX},
    {X86_F_FMA, X86_F_AVX},      {X86_F_F16C, X86_F_AVX},
    {X86_F_XSAVE, X86_F_FXSR},   {X86_F_XSAVEOPT, X86_F_XSAVE},
    {X86_F_XSAVEC, X86_F_XSAVE}, {X86_F_XGETBV1, X86_F_XSAVE},
    {X86_F_CX16, X86_F_CX8},     {X86_F_PSE36, X86_F_PSE},
    {X86_F_PAE, X86_F_CX8},      {X86_F_NX, X86_F_PAE},
    {X86_F_LM, X86_F_PAE},       {X86_F_LM, X86_F_MSR},
    {X86_F_LM, X86_F_SSE2},      {X86_F_SYSCALL, X86_F_LM},
    {X86_F_PDPE1GB, X86_F_LM},   {X86_F_FSGSBASE, X86_F_LM},
    {X86_F_X2APIC, X86_F_APIC},  {X86_F_TSC_DEADLINE, X86_F_APIC},
    {X86_F_RDTSCP, X86_F_TSC},   {X86_F_TSC_ADJUST, X86_F_TSC},
    {X86_F_INVTSC, X86_F_TSC},   {X86_F_PCID, X86_F_LM},
    {X86_F_INVPCID, X86_F_PCID}, {X86_F_FSRM, X86_F_ERMS},
    {X86_F_MCA, X86_F_MCE},      {X86_F_ARCH_CAP, X86_F_MSR},
};

/* Shared by all models. SHA, AES, PCLMUL and RDRAND's kin are extras that no guest counts on. */
static const uint8_t common[] = {
    X86_F_FPU,
    X86_F_DE,
    X86_F_PSE,
    X86_F_TSC,
    X86_F_MSR,
    X86_F_PAE,
    X86_F_MCE,
    X86_F_CX8,
    X86_F_APIC,
    X86_F_SEP,
    X86_F_MTRR,
    X86_F_PGE,
    X86_F_MCA,
    X86_F_CMOV,
    X86_F_PAT,
    X86_F_PSE36,
    X86_F_CLFLUSH,
    X86_F_MMX,
    X86_F_FXSR,
    X86_F_SSE,
    X86_F_SSE2,
    X86_F_SSE3,
    X86_F_PCLMUL,
    X86_F_SSSE3,
    X86_F_CX16,
    X86_F_SSE41,
    X86_F_SSE42,
    X86_F_X2APIC,
    X86_F_MOVBE,
    X86_F_POPCNT,
    X86_F_TSC_DEADLINE,
    X86_F_AES,
    X86_F_XSAVE,
    X86_F_RDRAND,
    X86_F_HYPERVISOR,
    X86_F_FSGSBASE,
    X86_F_TSC_ADJUST,
    X86_F_SMEP,
    X86_F_ERMS,
    X86_F_RDSEED,
    X86_F_ADX,
    X86_F_CLFLUSHOPT,
    X86_F_SHA,
    X86_F_UMIP,
    X86_F_FSRM,
    X86_F_SPEC_CTRL,
    X86_F_ARCH_CAP,
    X86_F_XSAVEOPT,
    X86_F_XSAVEC,
    X86_F_XGETBV1,
    X86_F_LAHF,
    X86_F_PREFETCHW,
    X86_F_SYSCALL,
    X86_F_NX,
    X86_F_PDPE1GB,
    X86_F_RDTSCP,
    X86_F_LM,
    X86_F_INVTSC,
    0,
};
static const uint8_t v3[] = {X86_F_AVX,  X86_F_AVX2, X86_F_FMA,   X86_F_F16C,
                             X86_F_BMI1, X86_F_BMI2, X86_F_LZCNT, 0};
static const uint8_t rest[] = {X86_F_RDPID, X86_F_CLWB, 0};
static const uint8_t nothing[] = {0};
/* Absent on the host, these may go missing from a model without a word. */
static const uint8_t extras[] = {X86_F_SHA, X86_F_AES, X86_F_PCLMUL, 0};

static const struct preset {
    const char *name;
    const uint8_t *add, *add_more; /* to `common` */
    uint32_t signature;            /* outside Linux's lists of processors with bugs */
    bool best_effort;              /* leave out what the host lacks */
} presets[] = {
    {"x86-64-v2", nothing, nothing, 0x106a5 /* Nehalem */, false},
    {"x86-64-v3", v3, nothing, 0x806f8 /* Sapphire Rapids */, false},
    {"host", v3, rest, 0x806f8, true},
};

static const char *const model_names[] = {"x86-64-v2", "x86-64-v3", "host", NULL};

const char *const *cpu_model_names(void)
{
    return model_names;
}

/* Case and the kind of separator do not matter: SSE4_1 is sse4.1. */
static bool same_name(const char *a, const char *b)
{
    for (; *a && *b; a++, b++) {
        bool mark_a = strchr("-_.", *a), mark_b = strchr("-_.", *b);

        if (mark_a != mark_b ||
            (!mark_a && tolower((unsigned char)*a) != tolower((unsigned char)*b)))
            return false;
    }
    return *a == *b;
}

static unsigned find_feature(const char *name)
{
    for (unsigned i = 0; feature_name[i]; i++)
        if (same_name(name, feature_name[i]))
            return i + 1;
    for (unsigned i = 0; i < ARRAY_SIZE(aliases); i++)
        if (same_name(name, aliases[i].alias))
            return aliases[i].feature;
    return 0;
}

static bool on_host(unsigned feature)
{
    return feature_how[feature] == SOFT || host_features()[feature];
}

static bool listed(const uint8_t *list, unsigned feature)
{
    while (*list && *list != feature)
        list++;
    return *list != 0;
}

static bool apply_list(struct cpu_model *model, const struct preset *p, const uint8_t *list,
                       const uint8_t *wish, struct err *err)
{
    for (; *list; list++) {
        if (on_host(*list))
            model->feature[*list] = 1;
        else if (!p->best_effort && wish[*list] != 2 && !listed(extras, *list))
            return err_set(
                err, ENOTSUP,
                "cpu model %s needs %s, which this host lacks: use x86-64-v2, host, or add -%s",
                p->name, feature_name[*list - 1], feature_name[*list - 1]);
    }
    return true;
}

static bool apply_preset(struct cpu_model *model, const char *name, const uint8_t *wish,
                         struct err *err)
{
    for (unsigned i = 0; i < ARRAY_SIZE(presets); i++) {
        const struct preset *p = &presets[i];

        if (!same_name(name, p->name))
            continue;
        snprintf(model->name, sizeof model->name, "%s", p->name);
        model->signature = p->signature;
        return apply_list(model, p, common, wish, err) && apply_list(model, p, p->add, wish, err) &&
               apply_list(model, p, p->add_more, wish, err);
    }
    if (nearest_word(name, model_names))
        return err_set(err, EINVAL, "unknown cpu model '%s': did you mean %s?", name,
                       nearest_word(name, model_names));
    return err_set(err, EINVAL, "unknown cpu model '%s': x86-64-v2, x86-64-v3 and host are known",
                   name);
}

/* One "+name" or "-name" into wish[]: 1 or 2. */
static bool read_wish(const char *word, uint8_t *wish, struct err *err)
{
    unsigned feature;

    if (*word != '+' && *word != '-')
        return err_set(err, EINVAL, "cpu feature '%s' needs + or - in front", word);
    feature = find_feature(word + 1);
    if (!feature && nearest_word(word + 1, feature_name))
        return err_set(err, EINVAL, "unknown cpu feature '%s': did you mean %s?", word + 1,
                       nearest_word(word + 1, feature_name));
    if (!feature)
        return err_set(err, EINVAL, "unknown cpu feature '%s'", word + 1);
    if (*word == '+' && !on_host(feature))
        return err_set(err, ENOTSUP, "cpu feature %s: this host lacks it",
                       feature_name[feature - 1]);
    if (wish[feature] && wish[feature] != (*word == '+' ? 1 : 2))
        return err_set(err, EINVAL, "cpu feature %s is both added and removed",
                       feature_name[feature - 1]);
    wish[feature] = *word == '+' ? 1 : 2;
    return true;
}

/* A feature that was asked for brings what it needs; one whose need was taken away goes with it. */
static bool settle_needs(struct cpu_model *model, uint8_t *wish, struct err *err)
{
    bool again = true;

    for (unsigned i = 1; i < X86_F_COUNT; i++)
        model->feature[i] = wish[i] ? wish[i] == 1 : model->feature[i];
    while (again) {
        again = false;
        for (unsigned i = 0; i < ARRAY_SIZE(needs); i++) {
            unsigned user = needs[i][0], need = needs[i][1];

            if (!model->feature[user] || model->feature[need])
                continue;
            if (wish[user] == 1 && (wish[need] == 2 || !on_host(need)))
                return err_set(err, EINVAL, "cpu feature %s needs %s", feature_name[user - 1],
                               feature_name[need - 1]);
            if (wish[user] == 1)
                model->feature[need] = wish[need] = 1;
            else
                model->feature[user] = 0;
            again = true;
        }
    }
    return true;
}

bool cpu_model_parse(struct cpu_model *model, const char *text, struct err *err)
{
    uint8_t wish[X86_F_COUNT] = {0};
    char copy[512], *next = copy, *name, *word;

    memset(model, 0, sizeof *model);
    if (!text || !*text)
        text = model_names[0];
    if (strlen(text) >= sizeof copy)
        return err_set(err, EINVAL, "cpu model: longer than %zu characters", sizeof copy - 1);
    strcpy(copy, text);
    name = strsep(&next, ",");
    while ((word = strsep(&next, ",")) != NULL)
        if (!read_wish(word, wish, err))
            return false;
    if (!apply_preset(model, name, wish, err))
        return false;
    if (!settle_needs(model, wish, err))
        return false;
    model->feature[X86_F_BASE] = 1;
    model->phys_bits = 40;
    model->linear_bits = 48;
    model->tsc_khz = 0;
    model->xcr0_mask = model->feature[X86_F_AVX] ? 7 : model->feature[X86_F_XSAVE] ? 3 : 0;
    return true;
}

struct cpu_model *cpu_model_new(const char *text, struct err *err)
{
    struct cpu_model *model = malloc(sizeof *model);

    if (!model) {
        err_set(err, ENOMEM, "no memory for a cpu model");
        return NULL;
    }
    if (!cpu_model_parse(model, text, err)) {
        free(model);
        return NULL;
    }
    return model;
}

void cpu_model_free(struct cpu_model *model)
{
    free(model);
}
