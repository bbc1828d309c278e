/* SPDX-License-Identifier: MIT */
/* Decoder and formatter against binutils: random encodings of every form, and random bytes, in all
 * three modes. Lengths must agree everywhere; the text too, but for differences of taste listed
 * below. */
#include "engine/x86/encode.h"
#include "tap.h"
#include <stdlib.h>
#include <unistd.h>

#define STRIDE 24 /* the longest instruction, then filling that brings objdump back into step */
#define CASES  8192

struct sample {
    uint8_t bytes[X86_INSN_MAX];
    unsigned length, form; /* length 0: we call it invalid */
    bool plain;
    char text[120];
};

static struct sample sample[CASES];
static unsigned samples;

static bool starts(const char *text, const char *const *list, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (!strncmp(text, list[i], strlen(list[i])))
            return true;
    return false;
}
#define STARTS(text, list) starts(text, list, ARRAY_SIZE(list))

/* binutils knows these and we do not: extensions that no model offers, and AMD's old ones. */
static const char *const not_offered[] = {
    "pf",        "pi2f",      "pavgusb",   "pmulhrw",   "pswapd",    "femms",      "vfm",
    "vfnm",      "vpermil2",  "vpdp",      "vgf2p8",    "gf2p8",     "vaes",       "vpclmul",
    "kand",      "kor",       "kxor",      "kxnor",     "knot",      "kadd",       "kmov",
    "kshift",    "kunpck",    "ktest",     "vcvtne",    "vbcst",     "bnd",        "vm",
    "rsm",       "getsec",    "xrstors",   "xsaves",    "stgi",      "clgi",       "skinit",
    "inv",       "tlbsync",   "movnts",    "extrq",     "insertq",   "monitorx",   "mwaitx",
    "clzero",    "rdpru",     "mcommit",   "psmash",    "pvalidate", "rmp",        "enqcmd",
    "movdir",    "wrss",      "wruss",     "rstorssp",  "saveprev",  "setssbsy",   "clrssbsy",
    "incssp",    "senduipi",  "uiret",     "clui",      "stui",      "testui",     "um",
    "tpause",    "xbegin",    "xabort",    "xend",      "xtest",     "xsusldtrk",  "xresldtrk",
    "ldtilecfg", "sttilecfg", "tile",      "tdp",       "encl",      "hreset",     "serialize",
    "vpmadd52",  "ptwrite",   "rdpkru",    "wrpkru",    "encodekey", "aesencwide", "aesdecwide",
    "aesenc128", "aesenc256", "aesdec128", "aesdec256", "loadiwkey", "xstore",     "xcrypt",
    "montmul",   "xsha",      "pconfig",   "seam",      "aadd",      "aand",       "aor",
    "axor",
};

/* Ours only, each for a reason: undocumented x87 aliases, SALC, 8087 no-ops, fences whose ModRM.rm
 * processors ignore, hints that binutils reads as MPX, F2 and F3 where processors ignore them. */
static const char *const ours_only[] = {
    "fstp",   "fxch",   "fcom", "feni",   "fdisi", "fnsetpm", "salc", "mfence",
    "sfence", "lfence", "nop",  "wbinvd", "bsf",   "fwait",   "bsr",
};

/* Refused for more than the opcode: registers that do not exist, SYSCALL outside 64-bit mode,
 * prefixes that the XSAVE group does not take. */
static bool refused_rightly(const char *text, enum x86_mode mode)
{
    static const char *const registers[] = {"mov cs",  "mov cr",  "mov tr",   "mov dr",
                                            "xsave",   "xrstor",  "fxsave",   "fxrstor",
                                            "ldmxcsr", "stmxcsr", "pmovmskb", "vzero"};
    static const char *const long_mode[] = {"syscall", "sysret", "swapgs", "rdfs",
                                            "rdgs",    "wrfs",   "wrgs"};

    return strchr(text, '?') || STARTS(text, registers) ||
           (!strncmp(text, "mov", 3) && (strstr(text, ",cr") || strstr(text, ",tr"))) ||
           (mode != X86_MODE_64 && STARTS(text, long_mode)) ||
           (strlen(text) > 7 && strncmp(text, "cmp", 3) == 0 && strstr(text, "xadd"));
}

/* Same instruction, other spelling: predicates in the mnemonic, REX.W shown as a 64-bit register
 * where the result is zero-extended anyway, sizes where an address alone matters. */
static const char *const other_text[] = {
    "cmp",      "vcmp",  "pclmul", "vpclmul", "nop",   "movmsk",  "vmovmsk",  "pmovmsk",
    "vpmovmsk", "lddqu", "vlddqu", "lar",     "lsl",   "invpcid", "prefetch", "sgdt",
    "sidt",     "lgdt",  "lidt",   "fcom",    "fstp",  "fxch",    "feni",     "fdisi",
    "fnsetpm",  "salc",  "mfence", "sfence",  "fwait", "wbinvd",  "pcmpestr", "vpcmpestr",
    "mov",      "lfs",   "lgs",    "lss",     "xchg",  "sysexit", "pextrw",
};

/* Prefixes that objdump prints as words; those that matter show in the operands too. */
static char *skip_prefixes(char *text)
{
    static const char *const words[] = {
        "rex.", "rex ", "data16 ", "data32 ", "addr32 ", "addr16 ",  "cs ",       "ds ",
        "es ",  "ss ",  "fs ",     "gs ",     "bnd ",    "notrack ", "xacquire ", "xrelease "};

    while (STARTS(text, words) && strchr(text, ' '))
        text = strchr(text, ' ') + 1;
    return text;
}

/* "mov    eax,[rip+0xff...f0]        # 0x10" -> "mov eax,[rip-0x10]" in `out`. */
static void normalise(char *text, char *out, size_t size)
{
    char *rip, *o = out;

    text[strcspn(text, "#\n")] = 0;
    for (text = skip_prefixes(text); *text && o + 1 < out + size; text++)
        if (*text != ' ' || (text[1] != ' ' && text[1]))
            *o++ = *text;
    *o = 0;
    rip = strstr(out, "ip+0xffffffff");
    if (rip) {
        char *end;
        unsigned long long disp = strtoull(rip + 3, &end, 16);
        char rest[64];

        snprintf(rest, sizeof rest, "%s", end);
        snprintf(rip + 2, size - (size_t)(rip + 2 - out), "-0x%llx%s", 0 - disp, rest);
    }
}

static const char *strip_rep(const char *text)
{
    static const char *const words[] = {"rep ", "repz ", "repnz ", "lock "};

    while (STARTS(text, words))
        text = skip_prefixes((char *)strchr(text, ' ') + 1);
    return text;
}

struct verdict {
    unsigned seen, length_bad, text_bad, ours_bad, theirs_bad;
};

static bool they_reject(const char *text)
{
    return strstr(text, "(bad)") || !*text || strstr(text, ".byte") ||
           STARTS(text, ((const char *const[]){"rex", "data", "addr", "{"})) ||
           (strlen(text) == 2 && text[1] == 's') || !strcmp(text, "lock") ||
           !strncmp(text, "rep", 3);
}

static void complain(const char *what, const struct sample *s, unsigned length, const char *text)
{
    printf("# %s:", what);
    for (unsigned i = 0; i < (s->length ? s->length : 8); i++)
        printf(" %02x", s->bytes[i]);
    printf("  ours %u '%s'  objdump %u '%s'\n", s->length, s->text, length, text);
}

static void judge(const struct sample *s, unsigned length, char *text, enum x86_mode mode,
                  struct verdict *v)
{
    char theirs[160];
    const char *core, *ours = strip_rep(s->text);
    bool reject;

    normalise(text, theirs, sizeof theirs);
    core = strip_rep(theirs);
    reject = they_reject(core);
    v->seen++;
    if (!s->length && !reject && !STARTS(core, not_offered) && !refused_rightly(core, mode)) {
        if (v->ours_bad++ < 20)
            complain("only objdump knows", s, length, theirs);
    } else if (s->length && reject && !STARTS(ours, ours_only)) {
        if (v->theirs_bad++ < 20)
            complain("only we know", s, length, theirs);
    } else if (s->length && !reject && s->length != length) {
        if (v->length_bad++ < 20)
            complain("length", s, length, theirs);
    } else if (s->length && !reject && s->plain && strcmp(ours, core) &&
               !STARTS(ours, other_text) && !strstr(core, "eiz") &&
               x86_form[s->form].class != X86_FLOW) {
        if (v->text_bad++ < 20)
            complain("text", s, length, theirs);
    }
}

/* "   1c0:\t48 89 e5             \tmov    rbp,rsp" */
static bool parse_line(char *line, unsigned long *at, unsigned *length, char **text)
{
    char *end, *p;

    *at = strtoul(line, &end, 16);
    if (end == line || end[0] != ':' || end[1] != '\t')
        return false;
    *length = 0;
    for (p = end + 2; p[0] && p[1] && p[0] != ' ' && p[0] != '\t' && p[2] == ' '; p += 3)
        ++*length;
    p = strchr(p, '\t');
    *text = p ? p + 1 : line + strlen(line);
    return *length != 0;
}

static bool write_samples(const char *path)
{
    FILE *f = fopen(path, "wb");

    if (!f)
        return false;
    for (unsigned i = 0; i < samples; i++) {
        uint8_t cell[STRIDE];

        memset(cell, 0x90, sizeof cell);
        memcpy(cell, sample[i].bytes, X86_INSN_MAX);
        fwrite(cell, 1, sizeof cell, f);
    }
    return fclose(f) == 0;
}

static void compare(enum x86_mode mode, const char *what)
{
    static const char *const machine[] = {"i386 -M i8086", "i386", "i386:x86-64"};
    char path[] = "/tmp/hull-objdump-XXXXXX", command[200], line[400];
    struct verdict v = {0};
    int fd = mkstemp(path);
    FILE *f;

    if (!ok(fd >= 0 && write_samples(path), "samples written"))
        return;
    close(fd);
    snprintf(command, sizeof command,
             "objdump -D -z -b binary --insn-width=16 -M intel,intel64 -m %s %s", machine[mode],
             path);
    f = popen(command, "r");
    while (f && fgets(line, sizeof line, f)) {
        unsigned long at;
        unsigned length;
        char *text;

        if (parse_line(line, &at, &length, &text) && at % STRIDE == 0 && at / STRIDE < samples)
            judge(&sample[at / STRIDE], length, text, mode, &v);
    }
    ok(f && pclose(f) == 0, "objdump ran");
    unlink(path);
    ok(v.seen > samples * 9 / 10, "%s, mode %d: %u of %u samples compared", what, mode, v.seen,
       samples);
    ok(!v.length_bad, "%s, mode %d: lengths agree (%u differ)", what, mode, v.length_bad);
    ok(!v.text_bad, "%s, mode %d: text agrees (%u differ)", what, mode, v.text_bad);
    ok(!v.ours_bad && !v.theirs_bad, "%s, mode %d: both accept the same (%u, %u)", what, mode,
       v.ours_bad, v.theirs_bad);
}

static void add(const uint8_t *bytes, unsigned len, enum x86_mode mode, bool plain)
{
    struct sample *s = &sample[samples];
    struct insn in;

    memset(s, 0, sizeof *s);
    memset(s->bytes, 0x90, sizeof s->bytes);
    memcpy(s->bytes, bytes, len);
    s->plain = plain;
    if (x86_decode(&in, s->bytes, X86_INSN_MAX, mode) == X86_DECODED) {
        s->length = in.length;
        s->form = in.form;
        x86_format(&in, samples * STRIDE, s->text, sizeof s->text);
    }
    samples++;
}

static void every_form(enum x86_mode mode, struct x86_rng *rng)
{
    samples = 0;
    for (unsigned form = 0; form < x86_form_count; form++)
        for (unsigned i = 0; i < 4 && samples < CASES; i++) {
            uint8_t bytes[X86_INSN_MAX];
            unsigned len = x86_random(form, rng, mode, i < 3 ? X86_WISH_PLAIN : 0, bytes);

            if (len)
                add(bytes, len, mode, i < 3);
        }
    compare(mode, "every form");
}

/* objdump splits a REX that a prefix follows, and lines of several prefixes: keep to what it joins.
 */
static bool orderly(const uint8_t *b, enum x86_mode mode)
{
    unsigned i = 0, seen = 0;

    while (i < 4 && (b[i] == 0x66 || b[i] == 0x67 || b[i] == 0xf2 || b[i] == 0xf3 ||
                     (b[i] & 0xe7) == 0x26 || (b[i] & 0xfe) == 0x64)) {
        unsigned bit = b[i] == 0x66 ? 1 : b[i] == 0x67 ? 2 : b[i] >= 0xf0 ? 4 : 8;

        if (seen & bit)
            return false;
        seen |= bit;
        i++;
    }
    if (mode == X86_MODE_64 && b[i] >= 0x40 && b[i] <= 0x4f && i++ < 4 &&
        ((b[i] >= 0x40 && b[i] <= 0x4f) || (b[i] & 0xfe) == 0x66 || (b[i] & 0xfe) == 0xf2 ||
         (b[i] & 0xe7) == 0x26 || (b[i] & 0xfe) == 0x64 || b[i] == 0x9b))
        return false;
    if ((i || mode == X86_MODE_64 || b[1] >= 0xc0) &&
        (b[i] == 0x62 || (b[i] == 0x8f && b[i + 1] & 0x38)))
        return false; /* EVEX, XOP: neither offered nor told apart */
    return b[i] != 0xf0 && b[i] != 0x9b && !(i && (b[i] == 0xc4 || b[i] == 0xc5));
}

static void random_bytes(enum x86_mode mode, struct x86_rng *rng)
{
    static const uint8_t start[] = {0x66, 0xf2, 0xf3, 0x0f, 0x0f, 0x0f,
                                    0x48, 0x41, 0xc4, 0xc5, 0x67, 0x64};

    samples = 0;
    while (samples < CASES) {
        uint8_t bytes[16];
        uint64_t dice = x86_rng_next(rng);

        put_le64(bytes, x86_rng_next(rng));
        put_le64(bytes + 8, x86_rng_next(rng));
        for (unsigned i = 0; i < (dice & 3); i++)
            bytes[i] = start[(dice >> (8 + 8 * i) & 0xff) % ARRAY_SIZE(start)];
        if (bytes[0] == 0xc4)
            bytes[1] = (uint8_t)((bytes[1] & 0xe0) | (1 + (bytes[1] & 0x1f) % 3));
        if (orderly(bytes, mode))
            add(bytes, X86_INSN_MAX, mode, false);
    }
    compare(mode, "random bytes");
}

/* An argument is a seed, for longer hunts than the test's own. */
int main(int argc, char **argv)
{
    struct x86_rng rng = {argc > 1 ? strtoull(argv[1], NULL, 0) : 20261124};

    if (system("objdump --version >/dev/null 2>&1")) {
        tap_skip("decoder against objdump", "no objdump: apt-get install binutils");
        return tap_done();
    }
    for (unsigned mode = X86_MODE_16; mode <= X86_MODE_64; mode++) {
        every_form(mode, &rng);
        random_bytes(mode, &rng);
    }
    return tap_done();
}
