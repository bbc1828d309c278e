/* SPDX-License-Identifier: MIT */
/* The decoder's rules one by one, decode-encode-decode for every form, prefixes of instructions,
 * and what the table's rows promise. */
#include "base/clock.h"
#include "engine/x86/encode.h"
#include "engine/x86/table.h"
#include "tap.h"

struct example {
    enum x86_mode mode;
    const char *bytes; /* hex, without blanks */
    const char *text;  /* NULL: invalid */
};

static const struct example examples[] = {
    {X86_MODE_64, "4889e5", "mov rbp,rsp"},
    {X86_MODE_32, "48", "dec eax"},
    {X86_MODE_16, "b83412", "mov ax,0x1234"},
    {X86_MODE_16, "66b878563412", "mov eax,0x12345678"},
    {X86_MODE_64, "48b8efcdab8967452301", "mov rax,0x123456789abcdef"},
    {X86_MODE_64, "48c7c0ffffffff", "mov rax,0xffffffffffffffff"},
    {X86_MODE_64, "83c0ff", "add eax,0xffffffff"},
    /* REX only directly before the opcode; REX.W over 66 */
    {X86_MODE_64, "486689c8", "mov ax,cx"},
    {X86_MODE_64, "664889c8", "mov rax,rcx"},
    {X86_MODE_64, "88e0", "mov al,ah"},
    {X86_MODE_64, "4088e0", "mov al,spl"},
    /* 64-bit defaults */
    {X86_MODE_64, "50", "push rax"},
    {X86_MODE_64, "6650", "push ax"},
    {X86_MODE_64, "ffd0", "call rax"},
    {X86_MODE_64, "66e800000000", "call 0x6"},
    {X86_MODE_64, "06", NULL},
    {X86_MODE_64, "9a000000000000", NULL},
    {X86_MODE_32, "9a785634121000", "call 0x10:0x12345678"},
    /* addressing */
    {X86_MODE_64, "8b0500000000", "mov eax,DWORD PTR [rip+0x0]"},
    {X86_MODE_32, "8b0578563412", "mov eax,DWORD PTR ds:0x12345678"},
    {X86_MODE_64, "8b042578563412", "mov eax,DWORD PTR ds:0x12345678"},
    {X86_MODE_64, "8b0424", "mov eax,DWORD PTR [rsp]"},
    {X86_MODE_64, "428b0424", "mov eax,DWORD PTR [rsp+r12*1]"},
    {X86_MODE_16, "8b42fe", "mov ax,WORD PTR [bp+si-0x2]"},
    {X86_MODE_16, "678b04b8", "mov ax,WORD PTR [eax+edi*4]"},
    {X86_MODE_64, "64488b042528000000", "mov rax,QWORD PTR fs:0x28"},
    {X86_MODE_64, "642e8b00", "mov eax,DWORD PTR fs:[rax]"}, /* CS does not cancel FS */
    {X86_MODE_32, "642e8b00", "mov eax,DWORD PTR cs:[eax]"},
    {X86_MODE_64, "a10807060504030201", "mov eax,ds:0x102030405060708"},
    {X86_MODE_64, "67a104030201", "mov eax,ds:0x1020304"},
    /* one opcode, several instructions */
    {X86_MODE_64, "90", "nop"},
    {X86_MODE_64, "4190", "xchg r8d,eax"},
    {X86_MODE_64, "f390", "pause"},
    {X86_MODE_64, "f30fb8c1", "popcnt eax,ecx"},
    {X86_MODE_64, "0fb8c1", NULL},
    {X86_MODE_64, "f30fbcc1", "tzcnt eax,ecx"},
    {X86_MODE_64, "0fbcc1", "bsf eax,ecx"},
    {X86_MODE_64, "63c1", "movsxd eax,ecx"},
    {X86_MODE_32, "63c1", "arpl cx,ax"},
    {X86_MODE_64, "f20f38f1c1", "crc32 eax,ecx"},
    {X86_MODE_64, "66f20f38f1c1", "crc32 eax,cx"},
    {X86_MODE_64, "0f38f101", "movbe DWORD PTR [rcx],eax"},
    {X86_MODE_64, "480fc70e", "cmpxchg16b XMMWORD PTR [rsi]"},
    {X86_MODE_64, "f30f1efa", "endbr64"},
    {X86_MODE_64, "0f01f8", "swapgs"},
    {X86_MODE_32, "0f01f8", NULL},
    {X86_MODE_64, "0f22e0", "mov cr4,rax"},
    {X86_MODE_64, "0f2220", "mov cr4,rax"}, /* ModRM.mod is ignored */
    {X86_MODE_64, "0f22c8", NULL},          /* CR1 */
    {X86_MODE_64, "8ec8", NULL},            /* MOV CS */
    /* LOCK */
    {X86_MODE_64, "f00108", "lock add DWORD PTR [rax],ecx"},
    {X86_MODE_64, "f001c8", NULL},
    {X86_MODE_64, "f08b08", NULL},
    {X86_MODE_64, "f03908", NULL},
    /* VEX, LES, LDS, EVEX, BOUND */
    {X86_MODE_64, "c5f877", "vzeroupper"},
    {X86_MODE_32, "c500", "lds eax,FWORD PTR [eax]"},
    {X86_MODE_32, "c5f877", "vzeroupper"},
    {X86_MODE_64, "66c5f877", NULL},
    {X86_MODE_64, "f3c5f877", NULL},
    {X86_MODE_64, "48c5f877", NULL},
    {X86_MODE_64, "f0c5f877", NULL},
    {X86_MODE_64, "c5f828c1", "vmovaps xmm0,xmm1"},
    {X86_MODE_64, "c5f028c1", NULL}, /* vvvv must be unused */
    {X86_MODE_64, "c4e37d4ac120", "vblendvps ymm0,ymm0,ymm1,ymm2"},
    {X86_MODE_64, "c4e2f990048d00000000", NULL}, /* destination equals mask */
    {X86_MODE_64, "c4e2e9900c8500000000", "vpgatherdq xmm1,QWORD PTR [xmm0*4+0x0],xmm2"},
    {X86_MODE_64, "c4e2f9920400", NULL},
    {X86_MODE_32, "6200", "bound eax,QWORD PTR [eax]"},
    {X86_MODE_32, "62c0", NULL},
    {X86_MODE_64, "62f17c4828c1", NULL}, /* EVEX */
    {X86_MODE_64, "c4e270f2c2", "andn eax,ecx,edx"},
    {X86_MODE_32, "c4e2f0f2c2", "andn eax,ecx,edx"}, /* W does not widen outside 64-bit mode */
    /* mandatory prefixes */
    {X86_MODE_64, "0f58c1", "addps xmm0,xmm1"},
    {X86_MODE_64, "660f58c1", "addpd xmm0,xmm1"},
    {X86_MODE_64, "f30f58c1", "addss xmm0,xmm1"},
    {X86_MODE_64, "66f20f58c1", "addsd xmm0,xmm1"},
    {X86_MODE_64, "f2f30f58c1", "addss xmm0,xmm1"}, /* the last of F2, F3 counts */
    {X86_MODE_64, "f30f7ec1", "movq xmm0,xmm1"},
    {X86_MODE_64, "66480f6ec0", "movq xmm0,rax"},
    /* strings, x87, system */
    {X86_MODE_64, "f348ab", "rep stos QWORD PTR es:[rdi],rax"},
    {X86_MODE_32, "f2ae", "repnz scas al,BYTE PTR es:[edi]"},
    {X86_MODE_64, "dec1", "faddp st(1),st"},
    {X86_MODE_64, "d9e8", "fld1"},
    {X86_MODE_64, "9b", "fwait"},
    {X86_MODE_64, "0f0b", "ud2"},
    {X86_MODE_16, "c8040001", "enter 0x4,0x1"},
    {X86_MODE_16, "67e3fe", "jecxz 0x1"},
};

static unsigned from_hex(const char *hex, uint8_t *out)
{
    unsigned n = 0, byte;

    while (n < X86_INSN_MAX && sscanf(hex + 2 * n, "%2x", &byte) == 1)
        out[n++] = (uint8_t)byte;
    return n;
}

static void test_examples(void)
{
    for (unsigned i = 0; i < ARRAY_SIZE(examples); i++) {
        const struct example *e = &examples[i];
        uint8_t bytes[X86_INSN_MAX];
        unsigned len = from_hex(e->bytes, bytes);
        struct insn in;
        enum x86_decode_result result = x86_decode(&in, bytes, len, e->mode);
        char text[120] = "";

        if (result == X86_DECODED)
            x86_format(&in, 0, text, sizeof text);
        if (e->text)
            ok(result == X86_DECODED && in.length == len && !strcmp(text, e->text),
               "%s in mode %d is %s (%s)", e->bytes, e->mode, e->text, text);
        else
            ok(result == X86_INVALID, "%s in mode %d is invalid (%d %s)", e->bytes, e->mode, result,
               text);
    }
}

static void test_lengths(void)
{
    static const uint8_t fifteen[16] = {0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
                                        0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90, 0x90};
    static const uint8_t sixteen[16] = {0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
                                        0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90};
    struct insn in;

    ok(x86_decode(&in, fifteen, 16, X86_MODE_64) == X86_DECODED && in.length == 15,
       "15 bytes are allowed");
    ok(x86_decode(&in, sixteen, 16, X86_MODE_64) == X86_TOO_LONG, "16 are not");
    ok(x86_decode(&in, sixteen, 14, X86_MODE_64) == X86_NEED_MORE,
       "14 prefixes may still become an instruction");
    ok(x86_decode(&in, sixteen, 0, X86_MODE_64) == X86_NEED_MORE, "no bytes at all");
}

/* What must survive: everything but the bytes' own look. */
static bool same(struct insn a, struct insn b)
{
    a.length = b.length = 0;
    a.rex = b.rex = 0;
    a.modrm = b.modrm = 0;
    return !memcmp(&a, &b, sizeof a);
}

static bool check_one(const uint8_t *bytes, unsigned len, unsigned form, enum x86_mode mode)
{
    struct insn in, again, part;
    uint8_t out[X86_INSN_MAX];
    unsigned n;

    if (x86_decode(&in, bytes, len, mode) != X86_DECODED || in.form != form || in.length != len)
        return false;
    for (unsigned i = 0; i < len; i++)
        if (x86_decode(&part, bytes, i, mode) != X86_NEED_MORE)
            return false;
    n = x86_encode(&in, mode, out);
    return n && x86_decode(&again, out, n, mode) == X86_DECODED && again.length == n &&
           same(in, again);
}

static void test_round_trip(void)
{
    static const unsigned wishes[] = {0, 0, 0, X86_WISH_PLAIN, X86_WISH_MEM, X86_WISH_REG};
    struct x86_rng rng = {4711};
    unsigned made = 0, failed = 0, without = 0;

    for (unsigned form = 0; form < x86_form_count; form++)
        for (unsigned mode = 0; mode < 3; mode++) {
            unsigned here = 0;

            for (unsigned i = 0; i < 24; i++) {
                uint8_t bytes[X86_INSN_MAX];
                unsigned len = x86_random(form, &rng, mode, wishes[i % ARRAY_SIZE(wishes)], bytes);

                here += len != 0;
                if (len && !check_one(bytes, len, form, mode) && failed++ < 10)
                    printf("# form %u (%s) mode %u\n", form, x86_op_name[x86_form[form].op], mode);
            }
            made += here;
            if (!here && x86_form[form].modes >> mode & 1 && without++ < 10)
                printf("# nothing for form %u (%s) in mode %u\n", form,
                       x86_op_name[x86_form[form].op], mode);
        }
    ok(made > 90000 && !failed, "decode, encode, decode: %u instructions, %u failed", made, failed);
    ok(!without, "every form has encodings in each of its modes (%u have not)", without);
}

static void test_rows(void)
{
    unsigned bad = 0, thunks = 0;

    for (unsigned i = 0; i < x86_form_count; i++) {
        const struct x86_form *f = &x86_form[i];
        bool vector = f->gate >= X86_GATE_X87 && f->gate <= X86_GATE_FN;

        bad += f->flags_written & f->flags_undefined ? 1 : 0;
        bad += f->lock && !(f->access[0] & 2);
        bad += (f->thunk != 0) != (f->class == X86_COPY && vector);
        bad += f->op >= X86_OP_COUNT || !f->modes;
        bad += f->align && !is_power_of_2(f->align);
        for (unsigned o = 0; o < 3; o++)
            bad += !f->operand[o] && f->operand[o + 1];
        thunks += f->thunk != 0;
    }
    ok(!bad, "rows are consistent (%u are not)", bad);
    ok(thunks == x86_thunk_count, "thunks are numbered 1 to %u", x86_thunk_count);
    ok(X86_JG - X86_JO == 15 && X86_SETG - X86_SETO == 15 && X86_CMOVG - X86_CMOVO == 15,
       "conditions are in the order of their codes");
}

static void test_memory_operand(void)
{
    static const uint8_t bytes[] = {0x48, 0x8b, 0x44, 0x24, 0x08}; /* mov rax,[rsp+8] */
    struct insn in, again;
    uint8_t out[X86_INSN_MAX];
    unsigned len;

    x86_decode(&in, bytes, sizeof bytes, X86_MODE_64);
    ok(in.seg == SEG_SS && x86_mem_size(&in) == 8 && x86_mem_access(&in) == 1,
       "a stack load: SS, 8 bytes, read");
    x86_set_mem(&in, 10, 11, 0, 0);
    len = x86_encode(&in, X86_MODE_64, out);
    ok(len == 4 && x86_decode(&again, out, len, X86_MODE_64) == X86_DECODED && again.base == 10 &&
           again.index == 11 && again.reg == 0,
       "moved to [r10+r11]");
    in.base = 20;
    ok(x86_encode(&in, X86_MODE_64, out) == 0, "a register that does not exist has no encoding");
}

/* Not a check: machines differ. The number goes into notes. */
static void show_speed(void)
{
    enum { COUNT = 4096, ROUNDS = 50 };
    static uint8_t bytes[COUNT][16];
    struct x86_rng rng = {99};
    uint64_t start, took, sum = 0;
    struct insn in;

    for (unsigned i = 0; i < COUNT; i++)
        while (!x86_random((unsigned)(x86_rng_next(&rng) % 440), &rng, X86_MODE_64, X86_WISH_PLAIN,
                           bytes[i])) {
        }
    start = now_ns();
    for (unsigned r = 0; r < ROUNDS; r++)
        for (unsigned i = 0; i < COUNT; i++) {
            x86_decode(&in, bytes[i], 15, X86_MODE_64);
            sum += in.length;
        }
    took = now_ns() - start;
    printf("# decode: %.1f ns per instruction (%.1f bytes each)\n", (double)took / (COUNT * ROUNDS),
           (double)sum / (COUNT * ROUNDS));
}

int main(void)
{
    test_examples();
    test_lengths();
    test_round_trip();
    test_rows();
    test_memory_operand();
    show_speed();
    return tap_done();
}
