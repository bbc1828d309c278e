/* SPDX-License-Identifier: MIT */
/* CPUID: leaf by leaf, from a model alone. The host's CPUID is never asked here: it may take 5 us,
 * and a snapshot must find the same answers elsewhere. Intel SDM volume 2, CPUID; Linux
 * Documentation/virt/kvm/x86/cpuid.rst for 0x40000000. */
#include "engine/x86/model.h"

#define LEAF_KVM_MAX    0x40000010
#define LEAF_HYPERV_MAX 0x40000005

static bool is_amd(const struct cpu_model *model)
{
    return !strcmp(model->vendor, "AuthenticAMD") || !strcmp(model->vendor, "HygonGenuine");
}

/* The TSC's leaves 0x15 and 0x16 are Intel's. */
static uint32_t basic_max(const struct cpu_model *model)
{
    return is_amd(model) ? 0xd : 0x16;
}

static uint32_t extended_max(const struct cpu_model *model)
{
    return model->feature[X86_F_SVM] ? 0x8000000a : 0x80000008;
}

static void add_features(const struct cpu_model *model, uint32_t leaf, uint32_t sub,
                         uint32_t out[4])
{
    for (unsigned i = 1; i < X86_F_COUNT; i++)
        if (model->feature[i] && cpuid_bit[i].leaf == leaf && cpuid_bit[i].sub == sub)
            out[cpuid_bit[i].reg] |= 1u << cpuid_bit[i].bit;
}

/* APIC id bits that number the processors of the one package. */
static unsigned id_bits(unsigned cpus)
{
    unsigned bits = 0;

    while (1u << bits < cpus)
        bits++;
    return bits;
}

static void leaf_1(const struct cpu_model *model, const struct cpuid_context *c, uint32_t out[4])
{
    out[X86_EAX] = model->signature;
    out[X86_EBX] = (c->apic_id & 0xff) << 24 | (1u << id_bits(c->cpu_count) & 0xff) << 16 |
                   8 << 8; /* cache lines of 64 */
    add_features(model, 1, 0, out);
    if (c->osxsave && model->feature[X86_F_XSAVE])
        out[X86_ECX] |= 1u << 27;
    if (c->cpu_count > 1)
        out[X86_EDX] |= 1u << 28; /* HTT: more than one logical processor in the package */
}

static void leaf_caches(const struct cpuid_context *c, uint32_t sub, uint32_t out[4])
{
    static const struct {
        uint8_t type, level, ways; /* type 1: data, 2: code, 3: both */
        uint32_t sets;
    } cache[] = {{1, 1, 8, 64}, {2, 1, 8, 64}, {3, 2, 16, 2048}, {3, 3, 16, 16384}};
    unsigned package = 1u << id_bits(c->cpu_count);

    if (sub >= ARRAY_SIZE(cache))
        return;
    out[X86_EAX] = cache[sub].type | (unsigned)cache[sub].level << 5 | 1 << 8 |
                   (cache[sub].level == 3 ? package - 1 : 0) << 14 |
                   (package > 64 ? 63 : package - 1) << 26;
    out[X86_EBX] = 63 | (cache[sub].ways - 1u) << 22;
    out[X86_ECX] = cache[sub].sets - 1;
}

static void leaf_topology(const struct cpuid_context *c, uint32_t sub, uint32_t out[4])
{
    out[X86_ECX] = sub & 0xff;
    out[X86_EDX] = c->apic_id;
    if (sub == 0) { /* threads of a core: one */
        out[X86_EBX] = 1;
        out[X86_ECX] |= 1 << 8;
    } else if (sub == 1) { /* cores of the package */
        out[X86_EAX] = id_bits(c->cpu_count);
        out[X86_EBX] = c->cpu_count;
        out[X86_ECX] |= 2 << 8;
    }
}

unsigned x86_xsave_size(uint64_t xcr0)
{
    return xcr0 & 4 ? 832 : 576; /* legacy area, header, upper halves of YMM */
}

static void leaf_xsave(const struct cpu_model *model, const struct cpuid_context *c, uint32_t sub,
                       uint32_t out[4])
{
    if (!model->feature[X86_F_XSAVE])
        return;
    if (sub == 0) {
        out[X86_EAX] = (uint32_t)model->xcr0_mask;
        out[X86_EBX] = x86_xsave_size(c->xcr0);
        out[X86_ECX] = x86_xsave_size(model->xcr0_mask);
        out[X86_EDX] = (uint32_t)(model->xcr0_mask >> 32);
    } else if (sub == 1) {
        add_features(model, 0xd, 1, out);
        if (model->feature[X86_F_XSAVEC])
            out[X86_EBX] = x86_xsave_size(c->xcr0); /* compacted: the same with these components */
    } else if (sub == 2 && model->xcr0_mask & 4) {
        out[X86_EAX] = 256;
        out[X86_EBX] = 576;
    }
}

static void leaf_7(const struct cpu_model *model, uint32_t sub, uint32_t out[4])
{
    add_features(model, 7, sub, out);
    for (unsigned i = 1; sub == 0 && i < X86_F_COUNT; i++)
        if (model->feature[i] && cpuid_bit[i].leaf == 7 && cpuid_bit[i].sub > out[X86_EAX])
            out[X86_EAX] = cpuid_bit[i].sub; /* the highest sub-leaf */
}

static uint32_t khz(const struct cpu_model *model)
{
    return model->tsc_khz ? model->tsc_khz : host_tsc_khz();
}

/* TSC = crystal * EBX / EAX. Linux multiplies in 32 bits: keep kHz * EAX below 2^32. */
static void leaf_tsc(const struct cpu_model *model, uint32_t out[4])
{
    unsigned denominator = 1000;

    while ((uint64_t)khz(model) * denominator >> 32)
        denominator /= 2;
    out[X86_EAX] = denominator;
    out[X86_EBX] = (uint32_t)(((uint64_t)khz(model) * denominator + X86_CRYSTAL_HZ / 2000) /
                              (X86_CRYSTAL_HZ / 1000));
    out[X86_ECX] = X86_CRYSTAL_HZ;
}

static void put_vendor(const struct cpu_model *model, uint32_t out[4])
{
    memcpy(&out[X86_EBX], model->vendor, 4);
    memcpy(&out[X86_EDX], model->vendor + 4, 4);
    memcpy(&out[X86_ECX], model->vendor + 8, 4);
}

static void basic_leaf(const struct cpu_model *model, const struct cpuid_context *c, uint32_t leaf,
                       uint32_t sub, uint32_t out[4])
{
    switch (leaf) {
    case 0:
        out[X86_EAX] = basic_max(model);
        put_vendor(model, out);
        break;
    case 1: leaf_1(model, c, out); break;
    case 2: out[X86_EAX] = is_amd(model) ? 0 : 0xff01; break; /* caches: see leaf 4 */
    case 4:
        if (!is_amd(model))
            leaf_caches(c, sub, out);
        break;
    case 6: out[X86_EAX] = 1 << 2; break; /* ARAT: the APIC timer never stops */
    case 7: leaf_7(model, sub, out); break;
    case 0xb: leaf_topology(c, sub, out); break;
    case 0xd: leaf_xsave(model, c, sub, out); break;
    case 0x15: leaf_tsc(model, out); break;
    case 0x16:
        out[X86_EAX] = out[X86_EBX] = khz(model) / 1000;
        out[X86_ECX] = 100;
        break;
    default: break;
    }
}

/* AMD repeats leaf 1's features and tells the number of processors. */
static void amd_leaf(const struct cpu_model *model, const struct cpuid_context *c, uint32_t leaf,
                     uint32_t out[4])
{
    uint32_t basic[4] = {0};

    if (leaf == 0x80000000) {
        put_vendor(model, out);
    } else if (leaf == 0x80000001) {
        add_features(model, 1, 0, basic);
        out[X86_EDX] |= basic[X86_EDX] & 0x0183f3ff;
        out[X86_ECX] |= c->cpu_count > 1 ? 2 : 0;
    } else if (leaf == 0x80000005) { /* L1 data and code: KiB, ways, lines, bytes */
        out[X86_ECX] = out[X86_EDX] = 32u << 24 | 8 << 16 | 1 << 8 | 64;
    } else if (leaf == 0x80000008) {
        out[X86_ECX] = id_bits(c->cpu_count) << 12 | (c->cpu_count ? c->cpu_count - 1 : 0);
    }
}

static void extended_leaf(const struct cpu_model *model, const struct cpuid_context *c,
                          uint32_t leaf, uint32_t out[4])
{
    add_features(model, leaf, 0, out);
    switch (leaf) {
    case 0x80000000: out[X86_EAX] = extended_max(model); break;
    case 0x80000002:
    case 0x80000003:
    case 0x80000004: memcpy(out, model->brand + 16 * (leaf - 0x80000002), 16); break;
    case 0x80000006: out[X86_ECX] = 2048u << 16 | 8 << 12 | 64; break; /* L2: KiB, 16 ways, line */
    case 0x80000008: out[X86_EAX] = model->phys_bits | (unsigned)model->linear_bits << 8; break;
    case 0x8000000a: memcpy(out, model->svm, sizeof model->svm); break;
    default: break;
    }
    if (is_amd(model))
        amd_leaf(model, c, leaf, out);
}

static void kvm_leaf(const struct cpu_model *model, uint32_t leaf, uint32_t out[4])
{
    add_features(model, leaf, 0, out);
    if (leaf == 0x40000000) {
        out[X86_EAX] = LEAF_KVM_MAX;
        memcpy(&out[X86_EBX], "KVMKVMKVM\0\0\0", 12);
    } else if (leaf == 0x40000010) {
        out[X86_EAX] = khz(model);
        out[X86_EBX] = X86_CRYSTAL_HZ / 1000;
    }
}

/* Hyper-V's TLFS, section 2.4: the vendor, the interface "Hv#1", a version (10.0.14393), rights,
 * advice, limits. */
static void hyperv_leaf(const struct cpu_model *model, uint32_t leaf, uint32_t out[4])
{
    switch (leaf) {
    case 0x40000000:
        out[X86_EAX] = LEAF_HYPERV_MAX;
        memcpy(&out[X86_EBX], "Microsoft Hv", 12);
        break;
    case 0x40000001: memcpy(&out[X86_EAX], "Hv#1", 4); break;
    case 0x40000002:
        out[X86_EAX] = 14393;
        out[X86_EBX] = 10 << 16;
        break;
    case 0x40000003:
        out[X86_EAX] = model->hv.access;
        out[X86_EDX] = model->hv.misc;
        break;
    case 0x40000004:
        out[X86_EAX] = model->hv.advice;
        out[X86_EBX] = model->hv.spins;
        break;
    case 0x40000005: out[X86_EAX] = out[X86_EBX] = 64; break;
    default: break;
    }
}

unsigned cpu_model_subleaves(uint32_t leaf)
{
    return leaf == 4 ? 5 : leaf == 7 || leaf == 0xb || leaf == 0xd ? 3 : 0;
}

void cpu_model_cpuid(const struct cpu_model *model, const struct cpuid_context *context,
                     uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    memset(out, 0, 4 * sizeof out[0]);
    if (leaf >= 0x40000000 && leaf <= 0x400000ff && model->feature[X86_F_HYPERVISOR])
        (model->hyperv ? hyperv_leaf : kvm_leaf)(model, leaf, out);
    else if (leaf >= 0x80000000 && leaf <= extended_max(model))
        extended_leaf(model, context, leaf, out);
    else if (leaf <= basic_max(model))
        basic_leaf(model, context, leaf, subleaf, out);
    else if (!is_amd(model)) /* above the limits, Intel answers as for the highest basic leaf */
        basic_leaf(model, context, basic_max(model), subleaf, out);
}
