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
        bool good = cpu_model_parse(&m, *name, &err);

        ok(good ? !strcmp(m.name, *name) : err.code == ENOTSUP, "%s: %s", *name,
           good ? cpu_model_about(*name) : err.text);
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
        refuses("x86-64-v3", "this host lacks avx");
    }
}

/* An offer of our own: what KVM gives differs from host to host. */
static bool makes(struct cpu_model *m, const char *text, const struct cpu_offer *offer,
                  const char *part)
{
    struct err err = {0};
    bool good = cpu_model_make(m, text, offer, &err);

    if (!good && part && err.code == ENOTSUP && strstr(err.text, part))
        return true;
    if (!good || part)
        printf("# %s: %s\n", text, good ? "no error" : err.text);
    return good && !part;
}

static struct cpu_offer everything(const char *vendor)
{
    struct cpu_offer offer = {.who = "this test",
                              .signature = 0xa20f12,
                              .phys_bits = 39,
                              .xcr0_mask = 7,
                              .svm = {1, 2, 3, 4},
                              .brand = "A processor"};

    strcpy(offer.vendor, vendor);
    memset(offer.feature, CPU_OFFERS, sizeof offer.feature);
    offer.feature[X86_F_SVM] = offer.feature[X86_F_VMX] = CPU_ON_REQUEST;
    offer.hv = (struct cpu_hyperv){HV_ACCESS_HYPERCALL | HV_ACCESS_VP_INDEX, HV_MISC_FREQUENCY,
                                   HV_ADVICE_RELAXED, UINT32_MAX};
    return offer;
}

static void test_missing(void)
{
    struct cpu_offer offer = everything("GenuineIntel");
    struct cpu_model m;

    offer.feature[X86_F_SSE41] = offer.feature[X86_F_POPCNT] = offer.feature[X86_F_SHA] = 0;
    ok(makes(&m, "x86-64-v2", &offer, "this test lacks sse4.1 popcnt;"),
       "all that is missing is listed");
    ok(makes(&m, "x86-64-v2,-sse4.1,-popcnt", &offer, NULL) && !m.feature[X86_F_SSE42] &&
           !m.feature[X86_F_SHA],
       "what is taken off is not missed, extras never are");
    ok(makes(&m, "x86-64-v2,-sse4.1,-popcnt,+sha", &offer, "lacks sha; leave it out"),
       "an extra that was asked for is");
    memset(offer.feature, CPU_LACKS, sizeof offer.feature);
    ok(makes(&m, "Skylake", &offer, " more; "), "a long list is cut and says so");
    offer = everything("GenuineIntel");
    offer.feature[X86_F_AES] = 0;
    ok(makes(&m, "Westmere", &offer, "lacks aes"), "models named after processors are exact");
    ok(makes(&m, "haswell", &offer, "lacks aes") && !strcmp(m.name, "Haswell"),
       "their case does not matter");
}

static void test_kvm_offer(void)
{
    struct cpu_offer offer = everything("AuthenticAMD");
    struct cpuid_context c = {.cpu_count = 3, .apic_id = 2};
    struct cpu_model m;
    uint32_t out[4], basic[4];

    ok(makes(&m, "x86-64-v2", &offer, NULL) && !m.feature[X86_F_KVM_PV_IPI] &&
           !m.feature[X86_F_KVM_PV_UNHALT] && m.feature[X86_F_KVM_PV_EOI] && m.phys_bits == 39,
       "another vendor's model offers no hypercalls");
    ok(makes(&m, "x86-64-v2,+kvm-pv-ipi", &offer, "vendor"), "... nor on request");
    ok(makes(&m, "x86-64-v2,+svm", &offer, "AMD model"), "SVM only on AMD's");
    ok(makes(&m, "host", &offer, NULL) && m.feature[X86_F_KVM_PV_IPI] && !m.feature[X86_F_SVM] &&
           m.feature[X86_F_SSE4A],
       "host: all but what must be asked for");
    cpu_model_cpuid(&m, &c, 0, 0, out);
    ok(out[0] == 0xd && out[2] == 0x444d4163, "its vendor is the host's");
    cpu_model_cpuid(&m, &c, 0x80000000, 0, out);
    ok(out[0] == 0x80000008 && out[2] == 0x444d4163, "... there as well");
    cpu_model_cpuid(&m, &c, 0x80000002, 0, out);
    ok(!memcmp(out, "A processor", 12), "its name too");
    cpu_model_cpuid(&m, &c, 0x80000001, 0, out);
    cpu_model_cpuid(&m, &c, 1, 0, basic);
    ok((out[3] & basic[3] & 0x0183f3ff) == (basic[3] & 0x0183f3ff) && out[2] & 2,
       "AMD repeats leaf 1");
    cpu_model_cpuid(&m, &c, 0x80000008, 0, out);
    ok(out[2] == (2 << 12 | 2) && out[0] == (48 << 8 | 39), "three cores in two bits");
    cpu_model_cpuid(&m, &c, 7, 0, out);
    ok(out[0] == 2, "leaf 7 has two sub-leaves with these features");
    cpu_model_cpuid(&m, &c, 0x40000001, 0, out);
    ok(out[0] == 0x01007afa, "KVM's features (%x)", out[0]);
    ok(makes(&m, "host,+svm", &offer, NULL), "nested virtualization when asked for");
    cpu_model_cpuid(&m, &c, 0x8000000a, 0, out);
    ok(out[0] == 1 && out[3] == 4, "with its leaf");
    offer.feature[X86_F_SVM] = CPU_LACKS;
    ok(makes(&m, "host,+svm", &offer, "nested=1"), "or what it takes");
    refuses("host,+svm", "--engine kvm");
}

static void test_hyperv(void)
{
    struct cpu_offer offer = everything("GenuineIntel");
    struct cpuid_context c = {.cpu_count = 1};
    struct cpu_model m;
    uint32_t out[4];

    ok(makes(&m, "host,hyperv=on", &offer, NULL) && m.hyperv && !m.feature[X86_F_KVMCLOCK],
       "Hyper-V's leaves instead of KVM's");
    cpu_model_cpuid(&m, &c, 0x40000000, 0, out);
    ok(out[0] == 0x40000005 && !memcmp(&out[1], "Microsoft Hv", 12), "its vendor");
    cpu_model_cpuid(&m, &c, 0x40000001, 0, out);
    ok(out[0] == 0x31237648, "its interface");
    cpu_model_cpuid(&m, &c, 0x40000004, 0, out);
    ok(out[0] == HV_ADVICE_RELAXED && out[1] == UINT32_MAX, "its advice");
    refuses("host,hyperv=on,hyperv=off", "both");
    refuses("host,hyperv", "hyperv=on");
    refuses("host,hyperv=on,+kvmclock", "does not go with");
    offer.hv.access = 0;
    ok(makes(&m, "host,hyperv=on", &offer, "no Hyper-V"), "no interface is an error");
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
    test_missing();
    test_kvm_offer();
    test_hyperv();
    test_identity();
    test_features();
    test_topology();
    test_clock();
    test_host_clock();
    return tap_done();
}
