/* SPDX-License-Identifier: MIT */
/* CPU models by name, and features by name on top: from words to struct cpu_model. What is in the
 * named models is in preset.c. */
#include "engine/x86/model.h"
#include "engine/x86/preset.h"
#include "field/field.h"
#include <ctype.h>
#include <errno.h>
#include <stdio.h>

enum { HOST, SOFT, VIRT }; /* feature.h says what they mean */

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

const struct cpuid_bit cpuid_bit[X86_F_COUNT] = {
#define X(name, text, leaf, sub, reg, bit, how) [X86_F_##name] = {leaf, sub, X86_##reg, bit},
    X86_FEATURES(X)
#undef X
};

const char *cpu_feature_name(unsigned feature)
{
    return feature_name[feature - 1];
}

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
    {X86_F_SSE, X86_F_FXSR},
    {X86_F_SSE2, X86_F_SSE},
    {X86_F_SSE3, X86_F_SSE2},
    {X86_F_SSSE3, X86_F_SSE3},
    {X86_F_SSE41, X86_F_SSSE3},
    {X86_F_SSE42, X86_F_SSE41},
    {X86_F_AES, X86_F_SSE2},
    {X86_F_PCLMUL, X86_F_SSE2},
    {X86_F_SHA, X86_F_SSSE3},
    {X86_F_MMX, X86_F_FPU},
    {X86_F_FXSR, X86_F_FPU},
    {X86_F_AVX, X86_F_XSAVE},
    {X86_F_AVX, X86_F_SSE42},
    {X86_F_AVX2, X86_F_AVX},
    {X86_F_FMA, X86_F_AVX},
    {X86_F_F16C, X86_F_AVX},
    {X86_F_XSAVE, X86_F_FXSR},
    {X86_F_XSAVEOPT, X86_F_XSAVE},
    {X86_F_XSAVEC, X86_F_XSAVE},
    {X86_F_XGETBV1, X86_F_XSAVE},
    {X86_F_CX16, X86_F_CX8},
    {X86_F_PSE36, X86_F_PSE},
    {X86_F_PAE, X86_F_CX8},
    {X86_F_NX, X86_F_PAE},
    {X86_F_LM, X86_F_PAE},
    {X86_F_LM, X86_F_MSR},
    {X86_F_LM, X86_F_SSE2},
    {X86_F_SYSCALL, X86_F_LM},
    {X86_F_PDPE1GB, X86_F_LM},
    {X86_F_FSGSBASE, X86_F_LM},
    {X86_F_X2APIC, X86_F_APIC},
    {X86_F_TSC_DEADLINE, X86_F_APIC},
    {X86_F_RDTSCP, X86_F_TSC},
    {X86_F_TSC_ADJUST, X86_F_TSC},
    {X86_F_INVTSC, X86_F_TSC},
    {X86_F_PCID, X86_F_LM},
    {X86_F_INVPCID, X86_F_PCID},
    {X86_F_FSRM, X86_F_ERMS},
    {X86_F_MCA, X86_F_MCE},
    {X86_F_ARCH_CAP, X86_F_MSR},
    {X86_F_GFNI, X86_F_SSE2},
    {X86_F_VAES, X86_F_AVX},
    {X86_F_VAES, X86_F_AES},
    {X86_F_VPCLMULQDQ, X86_F_AVX},
    {X86_F_AVX_VNNI, X86_F_AVX2},
    {X86_F_AVX_IFMA, X86_F_AVX2},
    {X86_F_AVX_VNNI_INT8, X86_F_AVX2},
    {X86_F_AVX_VNNI_INT16, X86_F_AVX2},
    {X86_F_AVX_NE_CONVERT, X86_F_AVX2},
    {X86_F_SHA512, X86_F_AVX},
    {X86_F_SM3, X86_F_AVX},
    {X86_F_SM4, X86_F_AVX},
    {X86_F_XOP, X86_F_AVX},
    {X86_F_FMA4, X86_F_AVX},
    {X86_F_XSAVES, X86_F_XSAVEC},
    {X86_F_XSAVEERPTR, X86_F_XSAVE},
    {X86_F_KVMCLOCK, X86_F_HYPERVISOR},
    {X86_F_KVMCLOCK_STABLE, X86_F_KVMCLOCK},
    {X86_F_KVM_NOP_IO_DELAY, X86_F_HYPERVISOR},
    {X86_F_KVM_ASYNCPF, X86_F_HYPERVISOR},
    {X86_F_KVM_ASYNCPF_INT, X86_F_KVM_ASYNCPF},
    {X86_F_KVM_STEAL_TIME, X86_F_HYPERVISOR},
    {X86_F_KVM_PV_EOI, X86_F_HYPERVISOR},
    {X86_F_KVM_PV_UNHALT, X86_F_HYPERVISOR},
    {X86_F_KVM_PV_TLB_FLUSH, X86_F_KVM_STEAL_TIME},
    {X86_F_KVM_PV_IPI, X86_F_HYPERVISOR},
    {X86_F_KVM_POLL_CONTROL, X86_F_HYPERVISOR},
    {X86_F_KVM_PV_SCHED_YIELD, X86_F_KVM_STEAL_TIME},
};

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

/* What the words ask for, before anybody looks at what is offered. */
struct wishes {
    uint8_t feature[X86_F_COUNT]; /* 1: added, 2: removed */
    bool hyperv, hyperv_said;
};

static bool read_hyperv(const char *word, struct wishes *w, struct err *err)
{
    bool on = !strcmp(word, "hyperv=on");

    if (!on && strcmp(word, "hyperv=off"))
        return err_set(err, EINVAL, "cpu option '%s': hyperv=on and hyperv=off are known", word);
    if (w->hyperv_said && w->hyperv != on)
        return err_set(err, EINVAL, "cpu option hyperv is both on and off");
    w->hyperv = on;
    w->hyperv_said = true;
    return true;
}

static bool read_wish(const char *word, struct wishes *w, struct err *err)
{
    unsigned feature;
    uint8_t wish = *word == '+' ? 1 : 2;

    if (!strncmp(word, "hyperv", 6))
        return read_hyperv(word, w, err);
    if (*word != '+' && *word != '-')
        return err_set(err, EINVAL, "cpu feature '%s' needs + or - in front", word);
    feature = find_feature(word + 1);
    if (!feature && nearest_word(word + 1, feature_name))
        return err_set(err, EINVAL, "unknown cpu feature '%s': did you mean %s?", word + 1,
                       nearest_word(word + 1, feature_name));
    if (!feature)
        return err_set(err, EINVAL, "unknown cpu feature '%s'", word + 1);
    if (w->feature[feature] && w->feature[feature] != wish)
        return err_set(err, EINVAL, "cpu feature %s is both added and removed",
                       cpu_feature_name(feature));
    w->feature[feature] = wish;
    return true;
}

static const struct cpu_preset *find_preset(const char *name, struct err *err)
{
    const char *near = nearest_word(name, cpu_model_names());

    for (const struct cpu_preset *p = cpu_presets; p->name; p++)
        if (same_name(name, p->name))
            return p;
    err_set(err, EINVAL,
            near ? "unknown cpu model '%s': did you mean %s?"
                 : "unknown cpu model '%s': hull info --cpu lists those known",
            name, near);
    return NULL;
}

static bool read_words(const char *text, const struct cpu_preset **preset, struct wishes *w,
                       struct err *err)
{
    char copy[512], *next = copy, *name, *word;

    memset(w, 0, sizeof *w);
    if (!text || !*text)
        text = cpu_presets[0].name;
    if (strlen(text) >= sizeof copy)
        return err_set(err, EINVAL, "cpu model: longer than %zu characters", sizeof copy - 1);
    strcpy(copy, text);
    name = strsep(&next, ",");
    while ((word = strsep(&next, ",")) != NULL)
        if (!read_wish(word, w, err))
            return false;
    *preset = find_preset(name, err);
    return *preset != NULL;
}

static bool is_paravirtual(unsigned feature)
{
    return cpuid_bit[feature].leaf == 0x40000001;
}

/* What the preset asks for: its needs whether offered or not, its extras if they are. */
static void want_preset(struct cpu_model *model, const struct cpu_preset *p,
                        const struct cpu_offer *offer)
{
    for (const uint8_t *const *list = p->needs; *list; list++)
        for (const uint8_t *f = *list; *f; f++)
            model->feature[*f] = 1;
    for (const uint8_t *const *list = p->extras; *list; list++)
        for (const uint8_t *f = *list; *f; f++)
            model->feature[*f] |= offer->feature[*f] == CPU_OFFERS;
    if (!p->signature)
        for (unsigned f = 1; f < X86_F_COUNT; f++)
            model->feature[f] = offer->feature[f] == CPU_OFFERS;
}

/* Guests choose between VMCALL and VMMCALL by the vendor, and KVM cannot rewrite the wrong one in
 * a kernel's read-only text. */
static bool drop_hypercalls(struct cpu_model *model, const struct wishes *w,
                            const struct cpu_offer *offer, struct err *err)
{
    static const uint8_t hypercalls[] = {X86_F_KVM_PV_UNHALT, X86_F_KVM_PV_IPI,
                                         X86_F_KVM_PV_SCHED_YIELD};

    for (unsigned i = 0; i < ARRAY_SIZE(hypercalls); i++) {
        if (w->feature[hypercalls[i]] == 1 && strcmp(model->vendor, offer->vendor))
            return err_set(err, ENOTSUP, "cpu feature %s needs a model of this host's vendor: host",
                           cpu_feature_name(hypercalls[i]));
        if (strcmp(model->vendor, offer->vendor))
            model->feature[hypercalls[i]] = 0;
    }
    return true;
}

/* A feature that was asked for brings what it needs; one whose need was taken away goes with it. */
static bool settle_needs(struct cpu_model *model, struct wishes *w, struct err *err)
{
    bool again = true;

    for (unsigned i = 1; i < X86_F_COUNT; i++)
        model->feature[i] = w->feature[i] ? w->feature[i] == 1 : model->feature[i];
    while (again) {
        again = false;
        for (unsigned i = 0; i < ARRAY_SIZE(needs); i++) {
            unsigned user = needs[i][0], need = needs[i][1];

            if (!model->feature[user] || model->feature[need])
                continue;
            if (w->feature[user] == 1 && w->feature[need] == 2)
                return err_set(err, EINVAL, "cpu feature %s needs %s", cpu_feature_name(user),
                               cpu_feature_name(need));
            if (w->feature[user] == 1)
                model->feature[need] = w->feature[need] = 1;
            else
                model->feature[user] = 0;
            again = true;
        }
    }
    return true;
}

/* Appends as many words as fit, and says how many did not. */
static void append(char *text, size_t room, unsigned *left_out, const char *word)
{
    size_t len = strlen(text);

    if (*left_out || len + strlen(word) + 2 > room)
        (*left_out)++;
    else
        snprintf(text + len, room - len, "%s%s", len ? " " : "", word);
}

static bool nothing_missing(const struct cpu_model *model, const struct wishes *w,
                            const struct cpu_offer *offer, struct err *err)
{
    char missing[120] = "", more[24] = "";
    const char *fix = "use x86-64-v2 or host, or take them off with -FEATURE";
    unsigned left_out = 0;

    for (unsigned f = 1; f < X86_F_COUNT; f++) {
        if (!model->feature[f] || offer->feature[f] != CPU_LACKS)
            continue;
        append(missing, sizeof missing, &left_out, cpu_feature_name(f));
        if (f == X86_F_VMX || f == X86_F_SVM)
            fix = "it takes --engine kvm and the kernel's module loaded with nested=1";
        else if (w->feature[f] == 1)
            fix = "leave it out";
    }
    if (left_out)
        snprintf(more, sizeof more, " and %u more", left_out);
    return !missing[0] || err_set(err, ENOTSUP, "cpu model %s: %s lacks %s%s; %s", model->name,
                                  offer->who, missing, more, fix);
}

static bool check_nested(const struct cpu_model *model, struct err *err)
{
    if (model->feature[X86_F_SVM] && strcmp(model->vendor, "AuthenticAMD"))
        return err_set(err, ENOTSUP, "cpu feature svm: only with an AMD model: host, on AMD's");
    if (model->feature[X86_F_VMX] && strcmp(model->vendor, "GenuineIntel"))
        return err_set(err, ENOTSUP, "cpu feature vmx: only with an Intel model");
    return true;
}

/* A guest looks for one hypervisor: with Hyper-V's leaves, KVM's are gone. */
static bool apply_hyperv(struct cpu_model *model, const struct wishes *w,
                         const struct cpu_offer *offer, struct err *err)
{
    const uint32_t least = HV_ACCESS_HYPERCALL | HV_ACCESS_VP_INDEX;

    if (!w->hyperv)
        return true;
    for (unsigned f = 1; f < X86_F_COUNT; f++) {
        if (is_paravirtual(f) && w->feature[f] == 1)
            return err_set(err, EINVAL, "cpu feature %s does not go with hyperv=on",
                           cpu_feature_name(f));
        if (is_paravirtual(f))
            model->feature[f] = 0;
    }
    if (!model->feature[X86_F_HYPERVISOR])
        return err_set(err, EINVAL, "cpu option hyperv=on needs the feature hypervisor");
    if ((offer->hv.access & least) != least)
        return err_set(err, ENOTSUP, "cpu option hyperv=on: %s offers no Hyper-V interface",
                       offer->who);
    model->hyperv = true;
    model->hv = offer->hv;
    return true;
}

static void identify(struct cpu_model *model, const struct cpu_preset *p,
                     const struct cpu_offer *offer)
{
    snprintf(model->name, sizeof model->name, "%s", p->name);
    snprintf(model->vendor, sizeof model->vendor, "%s",
             p->signature ? "GenuineIntel" : offer->vendor);
    snprintf(model->brand, sizeof model->brand, "hull virtual CPU (%s)", p->name);
    if (!p->signature && offer->brand[0])
        snprintf(model->brand, sizeof model->brand, "%s", offer->brand);
    model->signature = p->signature ? p->signature : offer->signature;
}

bool cpu_model_make(struct cpu_model *model, const char *text, const struct cpu_offer *offer,
                    struct err *err)
{
    const struct cpu_preset *preset;
    struct wishes w;

    memset(model, 0, sizeof *model);
    if (!read_words(text, &preset, &w, err))
        return false;
    identify(model, preset, offer);
    want_preset(model, preset, offer);
    if (!drop_hypercalls(model, &w, offer, err) || !apply_hyperv(model, &w, offer, err) ||
        !settle_needs(model, &w, err) || !nothing_missing(model, &w, offer, err) ||
        !check_nested(model, err))
        return false;
    model->feature[X86_F_BASE] = 1;
    model->phys_bits = offer->phys_bits;
    model->linear_bits = 48;
    model->xcr0_mask = model->feature[X86_F_AVX] ? 7 : model->feature[X86_F_XSAVE] ? 3 : 0;
    model->xcr0_mask &= offer->xcr0_mask;
    memcpy(model->svm, offer->svm, sizeof model->svm);
    return true;
}

bool cpu_model_parse(struct cpu_model *model, const char *text, struct err *err)
{
    struct cpu_offer offer;

    cpu_offer_soft(&offer);
    return cpu_model_make(model, text, &offer, err);
}

bool cpu_model_check(const char *text, struct err *err)
{
    const struct cpu_preset *preset;
    struct wishes w;

    return read_words(text, &preset, &w, err);
}

/* Paravirtual features and what no soft engine has are no gaps of a model. */
bool cpu_model_gaps(const char *name, const struct cpu_offer *offer, uint8_t lacks[X86_F_COUNT],
                    uint8_t without[X86_F_COUNT])
{
    struct err err;
    const struct cpu_preset *p = find_preset(name, &err);

    memset(lacks, 0, X86_F_COUNT);
    memset(without, 0, X86_F_COUNT);
    if (!p)
        return false;
    for (const uint8_t *const *list = p->needs; *list; list++)
        for (const uint8_t *f = *list; *f; f++)
            lacks[*f] = offer->feature[*f] == CPU_LACKS;
    for (const uint8_t *const *list = p->extras; *list; list++)
        for (const uint8_t *f = *list; *f; f++)
            without[*f] = offer->feature[*f] == CPU_LACKS && !lacks[*f] && !is_paravirtual(*f) &&
                          feature_how[*f] != VIRT;
    return true;
}

void cpu_offer_soft(struct cpu_offer *offer)
{
    /* The first three cost the soft engine more than they give. The others are for machines that
     * come from KVM: their registers are there, and the host never uses them. */
    static const uint8_t on_request[] = {
        X86_F_PCID,        X86_F_INVPCID,          X86_F_SMAP,
        X86_F_KVM_ASYNCPF, X86_F_KVM_ASYNCPF_INT,  X86_F_KVM_STEAL_TIME,
        X86_F_KVM_PV_EOI,  X86_F_KVM_PV_TLB_FLUSH, X86_F_KVM_POLL_CONTROL,
    };

    *offer = (struct cpu_offer){
        .who = "the soft engine on this host",
        .vendor = "GenuineIntel",
        .signature = 0x806f8, /* Sapphire Rapids: outside Linux's lists of processors with bugs */
        .phys_bits = X86_PHYS_BITS,
        .xcr0_mask = 7,
    };
    for (unsigned f = 1; f < X86_F_COUNT; f++)
        offer->feature[f] =
            feature_how[f] == SOFT || (feature_how[f] == HOST && host_features()[f]);
    for (unsigned i = 0; i < ARRAY_SIZE(on_request); i++)
        offer->feature[on_request[i]] = CPU_ON_REQUEST;
    offer->hv = (struct cpu_hyperv){
        .access = HV_ACCESS_REF_COUNT | HV_ACCESS_APIC | HV_ACCESS_HYPERCALL | HV_ACCESS_VP_INDEX |
                  HV_ACCESS_REF_TSC | HV_ACCESS_FREQUENCY,
        .misc = HV_MISC_FREQUENCY,
        .advice = HV_ADVICE_RELAXED,
        .spins = UINT32_MAX,
    };
}
