/* SPDX-License-Identifier: MIT */
/* CPUID: leaf by leaf, from a model alone. The host's CPUID is never asked here: it may take 5 us,
 * and a snapshot must find the same answers elsewhere. Intel SDM volume 2, CPUID; Linux
 * Documentation/virt/kvm/x86/cpuid.rst for 0x40000000. */
#include "engine/x86/model.h"
#include <stdio.h>

#define LEAF_MAX            0x16
#define LEAF_EXTENDED_MAX   0x80000008
#define LEAF_HYPERVISOR_MAX 0x40000010

enum { /* KVM's feature bits in 0x40000001 EAX */
       KVM_NOP_IO_DELAY = 1 << 1,
       KVM_CLOCKSOURCE2 = 1 << 3,
       KVM_CLOCKSOURCE_STABLE = 1 << 24,
};

static const struct {
    uint32_t leaf;
    uint8_t sub, reg, bit;
} feature_bit[X86_F_COUNT] = {
#define X(name, text, leaf, sub, reg, bit, how) [X86_F_##name] = {leaf, sub, X86_##reg, bit},
    X86_FEATURES(X)
#undef X
};

static void add_features(const struct cpu_model *model, uint32_t leaf, uint32_t sub,
                         uint32_t out[4])
{
    for (unsigned i = 1; i < X86_F_COUNT; i++)
        if (model->feature[i] && feature_bit[i].leaf == leaf && feature_bit[i].sub == sub)
            out[feature_bit[i].reg] |= 1u << feature_bit[i].bit;
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

static void basic_leaf(const struct cpu_model *model, const struct cpuid_context *c, uint32_t leaf,
                       uint32_t sub, uint32_t out[4])
{
    switch (leaf) {
    case 0:
        out[X86_EAX] = LEAF_MAX;
        memcpy(&out[X86_EBX], "Genu", 4);
        memcpy(&out[X86_EDX], "ineI", 4);
        memcpy(&out[X86_ECX], "ntel", 4);
        break;
    case 1: leaf_1(model, c, out); break;
    case 2: out[X86_EAX] = 0xff01; break; /* caches: see leaf 4 */
    case 4: leaf_caches(c, sub, out); break;
    case 6: out[X86_EAX] = 1 << 2; break; /* ARAT: the APIC timer never stops */
    case 7:
        if (sub == 0)
            add_features(model, 7, 0, out);
        break;
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

static void extended_leaf(const struct cpu_model *model, uint32_t leaf, uint32_t out[4])
{
    char brand[48] = {0};

    switch (leaf) {
    case 0x80000000: out[X86_EAX] = LEAF_EXTENDED_MAX; break;
    case 0x80000001: add_features(model, leaf, 0, out); break;
    case 0x80000002:
    case 0x80000003:
    case 0x80000004:
        snprintf(brand, sizeof brand, "hull virtual CPU (%s)", model->name);
        memcpy(out, brand + 16 * (leaf - 0x80000002), 16);
        break;
    case 0x80000006: out[X86_ECX] = 2048u << 16 | 8 << 12 | 64; break; /* L2: KiB, 16 ways, line */
    case 0x80000007: add_features(model, leaf, 0, out); break;
    case 0x80000008: out[X86_EAX] = model->phys_bits | (unsigned)model->linear_bits << 8; break;
    default: break;
    }
}

static void hypervisor_leaf(const struct cpu_model *model, uint32_t leaf, uint32_t out[4])
{
    switch (leaf) {
    case 0x40000000:
        out[X86_EAX] = LEAF_HYPERVISOR_MAX;
        memcpy(&out[X86_EBX], "KVMK", 4);
        memcpy(&out[X86_ECX], "VMKV", 4);
        memcpy(&out[X86_EDX], "M\0\0\0", 4);
        break;
    case 0x40000001:
        out[X86_EAX] = KVM_NOP_IO_DELAY | KVM_CLOCKSOURCE2 | KVM_CLOCKSOURCE_STABLE;
        break;
    case 0x40000010:
        out[X86_EAX] = khz(model);
        out[X86_EBX] = X86_CRYSTAL_HZ / 1000;
        break;
    default: break;
    }
}

void cpu_model_cpuid(const struct cpu_model *model, const struct cpuid_context *context,
                     uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    memset(out, 0, 4 * sizeof out[0]);
    if (leaf >= 0x40000000 && leaf <= 0x400000ff && model->feature[X86_F_HYPERVISOR])
        hypervisor_leaf(model, leaf, out);
    else if (leaf >= 0x80000000 && leaf <= LEAF_EXTENDED_MAX)
        extended_leaf(model, leaf, out);
    else /* above the limits, Intel answers as for the highest basic leaf */
        basic_leaf(model, context, leaf <= LEAF_MAX ? leaf : LEAF_MAX, subleaf, out);
}
