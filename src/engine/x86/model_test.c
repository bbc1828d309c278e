/* SPDX-License-Identifier: MIT */
/* CPU models: names, features and their needs, and what CPUID answers. */
#include "base/clock.h"
#include "engine/x86/model.h"
#include "engine/x86/msr.h"
#include "tap.h"
#include <errno.h>

static bool parses(struct cpu_model *m, const char *text)
{
    struct err err = {0};
    bool good = cpu_model_parse(m, text, &err);

    if (!good)
        printf("# %s: %s\n", text, err.text);
    return good;
}

static void refuses(const char *text, const char *part)
{
    struct cpu_model m;
    struct err err = {0};

    ok(!cpu_model_parse(&m, text, &err) && strstr(err.text, part), "'%s' is refused: %s", text,
       err.text);
}

static void test_names(void)
{
    struct cpu_model m;

    ok(parses(&m, NULL) && !strcmp(m.name, "x86-64-v2"), "the default is x86-64-v2");
    ok(m.feature[X86_F_SSE42] && m.feature[X86_F_LM] && !m.feature[X86_F_AVX] &&
           !m.feature[X86_F_SMAP],
       "v2: SSE4.2, no AVX, no SMAP");
    ok(parses(&m, "host"), "host always works");
    ok(m.xcr0_mask == (m.feature[X86_F_AVX] ? 7u : 3u), "XCR0 follows AVX");
    ok(parses(&m, "x86_64_v2,-SSE4_2,-aes") && !m.feature[X86_F_SSE42] && !m.feature[X86_F_AES] &&
           m.feature[X86_F_SSE41],
       "separators and case do not matter");
    ok(parses(&m, "x86-64-v2,+smap,+pcid") && m.feature[X86_F_SMAP] && m.feature[X86_F_PCID],
       "features can be added");
    ok(parses(&m, "x86-64-v2,+invpcid") && m.feature[X86_F_PCID],
       "what is added brings what it needs");
    ok(parses(&m, "x86-64-v2,-sse3") && !m.feature[X86_F_SSE42] && m.feature[X86_F_SSE2],
       "what needs a removed feature goes too");
    for (const char *const *name = cpu_model_names(); *name; name++) {
        struct err err = {0};
        struct cpu_model *own = cpu_model_new(*name, &err);

        ok(own ? !strcmp(own->name, *name) : err.code == ENOTSUP, "%s: %s", *name,
           own ? "there" : err.text);
        cpu_model_free(own);
    }
    refuses("x86-64-v4", "x86-64-v");
    refuses("x86-64-v2,+avx512", "avx");
    refuses("x86-64-v2,erms", "+ or -");
    refuses("x86-64-v2,-pcid,+invpcid", "needs pcid");
    refuses("x86-64-v2,+erms,-erms", "both");
    refuses("x86-64-v2,+zzzzzzzzzz", "unknown");
    if (host_features()[X86_F_AVX2] && host_features()[X86_F_FMA]) {
        ok(parses(&m, "x86-64-v3") && m.feature[X86_F_AVX2] && m.feature[X86_F_BMI2] &&
               m.xcr0_mask == 7,
           "v3: AVX2");
        ok(parses(&m, "x86_64-v3,-avx2") && !m.feature[X86_F_AVX2] && m.feature[X86_F_AVX],
           "v3 without AVX2");
        ok(parses(&m, "x86-64-v3,-xsave") && !m.feature[X86_F_AVX] && !m.feature[X86_F_FMA] &&
               m.xcr0_mask == 0,
           "without XSAVE no AVX");
    } else {
        refuses("x86-64-v3", "this host lacks");
    }
}

static void ask(const struct cpu_model *m, const struct cpuid_context *c, uint32_t leaf,
                uint32_t sub, uint32_t out[4])
{
    cpu_model_cpuid(m, c, leaf, sub, out);
}

static void test_identity(void)
{
    struct cpuid_context c = {.cpu_count = 1};
    struct cpu_model m;
    uint32_t out[4];
    char text[49] = "";

    parses(&m, "x86-64-v2");
    ask(&m, &c, 0, 0, out);
    memcpy(text, &out[1], 4);
    memcpy(text + 4, &out[3], 4);
    memcpy(text + 8, &out[2], 4);
    ok(out[0] == 0x16 && !strcmp(text, "GenuineIntel"), "leaf 0: %s", text);
    for (unsigned i = 0; i < 3; i++) {
        ask(&m, &c, 0x80000002 + i, 0, out);
        memcpy(text + 16 * i, out, 16);
    }
    ok(!strcmp(text, "hull virtual CPU (x86-64-v2)"), "brand: %s", text);
    ask(&m, &c, 0x40000000, 0, out);
    ok(out[0] == 0x40000010 && !memcmp(&out[1], "KVMKVMKVM\0\0\0", 12), "KVM's signature");
    ask(&m, &c, 0x40000001, 0, out);
    ok((out[0] & 0x1000009) == 0x1000008, "kvmclock by the new MSRs, stable");
    ask(&m, &c, 0x80000008, 0, out);
    ok(out[0] == (48 << 8 | 40), "address sizes");
    ask(&m, &c, 0x12345678, 0, out);
    ok(out[0] == host_tsc_khz() / 1000, "beyond the limit: the highest basic leaf");
    ok((ARCH_CAPABILITIES & 4) == 0 && ARCH_CAPABILITIES & 1, "not vulnerable, and RSBA clear");
}

static void test_features(void)
{
    struct cpuid_context c = {.cpu_count = 1};
    struct cpu_model m;
    uint32_t out[4];

    parses(&m, "x86-64-v2");
    ask(&m, &c, 1, 0, out);
    ok((out[3] & 0x1fffffff) == 0x078bfbfd && out[2] >> 31,
       "leaf 1: base features, hypervisor, one thread (%x)", out[3]);
    ok(!(out[2] >> 27 & 1), "OSXSAVE follows CR4");
    c.osxsave = true;
    ask(&m, &c, 1, 0, out);
    ok(out[2] >> 27 & 1, "... on");
    ask(&m, &c, 7, 0, out);
    ok(out[0] == 0 && out[1] >> 9 & 1 && out[3] >> 29 & 1 && !(out[1] >> 16 & 1),
       "leaf 7: ERMS, ARCH_CAPABILITIES, no AVX-512");
    ask(&m, &c, 7, 1, out);
    ok(!(out[0] | out[1] | out[2] | out[3]), "leaf 7 has one sub-leaf");
    c.xcr0 = 3;
    ask(&m, &c, 0xd, 0, out);
    ok(out[0] == 3 && out[1] == 576 && out[2] == 576, "leaf d: x87 and SSE");
    ask(&m, &c, 0xd, 1, out);
    ok((out[0] & 15) == 7, "XSAVEOPT, XSAVEC, XGETBV1, no XSAVES");
    if (parses(&m, "x86-64-v3")) {
        c.xcr0 = 3;
        ask(&m, &c, 0xd, 0, out);
        ok(out[0] == 7 && out[1] == 576 && out[2] == 832, "leaf d: AVX offered, not enabled");
        ask(&m, &c, 0xd, 2, out);
        ok(out[0] == 256 && out[1] == 576, "AVX state: where and how big");
    }
    ask(&m, &c, 0xa, 0, out);
    ok(!out[0], "no PMU");
}

static void test_topology(void)
{
    struct cpuid_context c = {.cpu_count = 6, .apic_id = 5};
    struct cpu_model m;
    uint32_t out[4];

    parses(&m, NULL);
    ask(&m, &c, 1, 0, out);
    ok(out[1] >> 24 == 5 && (out[1] >> 16 & 0xff) == 8 && out[3] >> 28 & 1,
       "leaf 1: APIC id 5, 8 ids, HTT");
    ask(&m, &c, 0xb, 0, out);
    ok(out[0] == 0 && out[1] == 1 && out[2] == 0x100 && out[3] == 5, "leaf b: one thread a core");
    ask(&m, &c, 0xb, 1, out);
    ok(out[0] == 3 && out[1] == 6 && out[2] == 0x201 && out[3] == 5,
       "leaf b: six cores in three bits");
    ask(&m, &c, 0xb, 2, out);
    ok(out[1] == 0 && out[2] == 2 && out[3] == 5, "leaf b ends");
    ask(&m, &c, 4, 0, out);
    ok((out[0] & 0x3ff) == 0x121 && out[0] >> 26 == 7 && out[1] == (63 | 7 << 22) && out[2] == 63,
       "leaf 4: 32 KiB of L1 data");
    ask(&m, &c, 4, 3, out);
    ok((out[0] >> 14 & 0xfff) == 7, "leaf 4: the L3 is shared");
    ask(&m, &c, 4, 4, out);
    ok(!(out[0] & 31), "leaf 4 ends");
}

static void test_clock(void)
{
    struct cpuid_context c = {.cpu_count = 1};
    struct cpu_model m;
    uint32_t out[4], linux_khz;

    parses(&m, NULL);
    ask(&m, &c, 0x15, 0, out);
    linux_khz = out[2] / 1000 * out[1] / out[0]; /* 32 bits, as the kernel computes it */
    ok(out[2] == X86_CRYSTAL_HZ && (uint64_t)linux_khz + 30 > host_tsc_khz() &&
           linux_khz < host_tsc_khz() + 30,
       "leaf 15: %u of %u kHz", linux_khz, host_tsc_khz());
    m.tsc_khz = 5200000;
    ask(&m, &c, 0x15, 0, out);
    linux_khz = out[2] / 1000 * out[1] / out[0];
    ok(linux_khz > 5199900 && linux_khz < 5200100, "leaf 15 at 5.2 GHz: %u kHz", linux_khz);
}

/* The TSC against the clock: 0.5 % leaves room for a busy machine. */
static void test_host_clock(void)
{
    uint64_t ns = now_ns(), tsc = __builtin_ia32_rdtsc(), khz;

    while (now_ns() - ns < 20000000) {
    }
    tsc = __builtin_ia32_rdtsc() - tsc;
    khz = mul_div(tsc, 1000000, now_ns() - ns);
    ok(khz * 1000 > host_tsc_khz() * 995ULL && khz * 1000 < host_tsc_khz() * 1005ULL,
       "host TSC: %u kHz, by this test's clock %llu", host_tsc_khz(), (unsigned long long)khz);
}

int main(void)
{
    test_names();
    test_identity();
    test_features();
    test_topology();
    test_clock();
    test_host_clock();
    return tap_done();
}
