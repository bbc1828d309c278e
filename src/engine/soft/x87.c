/* SPDX-License-Identifier: MIT */
/* x87: the host's FPU is the guest's.
 *
 * The first x87 instruction loads cpu->xsave's x87 part into the host's registers; they stay there
 * (cpu->fpu_live) until something needs the image: FXSAVE, an MMX instruction, the end of the run
 * loop. Masks and rounding are the guest's, so results are exact. An unmasked exception only sets
 * FSW.ES; the host would fault at its next waiting instruction, so we look at ES before each of
 * those and raise the guest's #MF instead. FIP, FDP and FOP would show our addresses: the guest's
 * are kept in the image, whose bytes 6 to 23 are ours even while the registers are live. */
#include "engine/soft/quick.h"
#include "engine/soft/thunk.h"
#include "engine/soft/vec_ops.h"
#include "engine/soft/vector.h"
#include <string.h>

extern const uint8_t soft_x87_reg_thunk[], soft_x87_mem_thunk[];
void soft_x87_call(struct vec_args *args, const void *thunk);

enum { FSW_ES = 0x80, FSW_B = 0x8000, FCW_MASKS = 0x3f };
enum {
    ENV_FCW = 0,
    ENV_FSW = 4,
    ENV_FTW = 8,
    ENV_FIP = 12,
    ENV_FCS = 16,
    ENV_FOP = 18,
    ENV_FDP = 20,
    ENV_FDS = 24,
    ENV_SIZE = 28,
    ENV_REGS = 80
};

static uint16_t host_fsw(void)
{
    uint16_t fsw;

    __asm__ volatile("fnstsw %0" : "=a"(fsw));
    return fsw;
}

/* The image's control word stays right while the registers are live: who changes the host's says so
 * here. With everything masked nothing can be pending. */
static void note_control(struct soft_cpu *cpu)
{
    __asm__ volatile("fnstcw %0" : "=m"(*(uint16_t *)(void *)cpu->xsave));
}

static bool all_masked(const struct soft_cpu *cpu)
{
    return (cpu->xsave[0] & FCW_MASKS) == FCW_MASKS;
}

void soft_fpu_load(struct soft_cpu *cpu)
{
    uint8_t image[512] __attribute__((aligned(16))) = {0};
    uint32_t mxcsr = MXCSR_DEFAULT;

    if (cpu->fpu_live)
        return;
    memcpy(image, cpu->xsave, 6);
    memcpy(image + 24, &mxcsr, 4);
    memcpy(image + XSAVE_ST, cpu->xsave + XSAVE_ST, 128);
    __asm__ volatile("fxrstor64 %0"
                     :
                     : "m"(image)
                     : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
                       "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
    cpu->fpu_live = true;
}

void soft_fpu_save(struct soft_cpu *cpu)
{
    uint8_t image[512] __attribute__((aligned(16)));

    if (!cpu->fpu_live)
        return;
    __asm__ volatile("fxsave64 %0\n\tfninit" : "=m"(image));
    memcpy(cpu->xsave, image, 6);
    memcpy(cpu->xsave + XSAVE_ST, image + XSAVE_ST, 128);
    cpu->fpu_live = false;
}

void soft_fpu_normalise(struct soft_cpu *cpu)
{
    uint16_t fcw, fsw;

    memcpy(&fcw, cpu->xsave, 2);
    memcpy(&fsw, cpu->xsave + 2, 2);
    fcw = (fcw & 0x1f3f) | 0x40;
    fsw &= (uint16_t) ~(FSW_ES | FSW_B);
    if (fsw & ~fcw & FCW_MASKS)
        fsw |= FSW_ES | FSW_B;
    memcpy(cpu->xsave, &fcw, 2);
    memcpy(cpu->xsave + 2, &fsw, 2);
    cpu->xsave[5] = 0;
}

/* With CR0.NE clear a PC would raise IRQ 13 through its FERR pin; no system in use relies on that,
 * and the board has no such wire. */
void soft_fpu_wait(struct soft_cpu *cpu)
{
    uint16_t fsw;

    if (likely(all_masked(cpu)))
        return;
    if (cpu->fpu_live)
        fsw = host_fsw();
    else
        memcpy(&fsw, cpu->xsave + 2, 2);
    if (unlikely(fsw & FSW_ES))
        soft_raise(cpu, VEC_MF, NO_CODE);
}

static inline bool is_waiting(const struct insn *in)
{
    unsigned reg = (in->modrm >> 3) & 7;

    switch (in->opcode) {
    case 0xd9: return !(in->mem && reg >= 6);                          /* FNSTENV, FNSTCW */
    case 0xdb: return in->mem || in->modrm < 0xe0 || in->modrm > 0xe4; /* FNCLEX, FNINIT and kin */
    case 0xdd: return !(in->mem && reg >= 6);                          /* FNSAVE, FNSTSW */
    case 0xdf: return in->mem || in->modrm != 0xe0;                    /* FNSTSW AX */
    default: return true;
    }
}

/* FLDCW, FNCLEX and the like leave the pointers alone. */
static inline bool is_control(const struct insn *in)
{
    return !is_waiting(in) ||
           (in->mem && (in->opcode == 0xd9 || in->opcode == 0xdd) && ((in->modrm >> 3) & 7) >= 4);
}

static void note_pointers(struct soft_cpu *cpu, const struct insn *in, uint64_t data)
{
    uint16_t fop = (uint16_t)((in->opcode & 7) << 8 | in->modrm);

    memcpy(cpu->xsave + 6, &fop, 2);
    memcpy(cpu->xsave + 8, &cpu->rip, 8);
    if (in->mem)
        memcpy(cpu->xsave + 16, &data, 8);
}

static const void *thunk_of(const struct insn *in)
{
    unsigned op = in->opcode & 7;

    return in->mem ? soft_x87_mem_thunk + 4 * (op << 3 | ((in->modrm >> 3) & 7))
                   : soft_x87_reg_thunk + 4 * (op << 6 | (in->modrm & 63));
}

static inline void begin(struct soft_cpu *cpu, const struct insn *in)
{
    soft_vec_gate(cpu, X86_GATE_X87);
    if (unlikely(!cpu->fpu_live))
        soft_fpu_load(cpu);
    if (is_waiting(in))
        soft_fpu_wait(cpu);
}

static void x87_register(struct soft_cpu *cpu, const struct insn *in)
{
    struct vec_args a;

    a.rax = cpu->reg[0];
    a.arith = cpu->arith;
    soft_x87_call(&a, thunk_of(in));
    cpu->reg[0] = a.rax;
    if (x86_form[in->form].flags_written)
        cpu->arith = a.arith;
    if (!is_control(in))
        note_pointers(cpu, in, 0);
}

/* The operand through a buffer: devices, page crossings, faults. */
static void x87_memory_slow(struct soft_cpu *cpu, const struct insn *in, uint64_t ea, bool write)
{
    unsigned size = x86_mem_size(in);
    uint8_t buffer[16] __attribute__((aligned(16)));
    struct vec_args a;

    a.mem = buffer;
    if (write)
        soft_probe_write(cpu, in->seg, ea, size);
    /* An unmasked exception suppresses the store: then the same bytes go back. */
    if (!write || !all_masked(cpu))
        soft_load_bytes(cpu, in->seg, ea, buffer, size);
    soft_x87_call(&a, thunk_of(in));
    if (write)
        soft_store_bytes(cpu, in->seg, ea, buffer, size);
}

static void x87_memory(struct soft_cpu *cpu, const struct insn *in)
{
    bool write = x86_mem_access(in) & 2;
    uint64_t ea = soft_ea(cpu, in);
    struct vec_args a;

    a.mem = write ? quick_write(cpu, in, x86_mem_size(in))
                  : (void *)(uintptr_t)quick_read(cpu, in, x86_mem_size(in));
    if (likely(a.mem != NULL))
        soft_x87_call(&a, thunk_of(in));
    else
        x87_memory_slow(cpu, in, ea, write);
    if (!is_control(in))
        note_pointers(cpu, in, ea);
    else
        note_control(cpu);
}

void op_x87(struct soft_cpu *cpu, const struct insn *in)
{
    begin(cpu, in);
    if (in->mem)
        x87_memory(cpu, in);
    else
        x87_register(cpu, in);
}

void op_fwait(struct soft_cpu *cpu, const struct insn *in)
{
    if ((cpu->cr0 & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS))
        soft_raise(cpu, VEC_NM, NO_CODE);
    soft_fpu_wait(cpu);
}

/* ---- FNSTENV, FLDENV, FNSAVE, FRSTOR: the host uses the 32-bit protected-mode layout ---- */

static bool real_format(const struct soft_cpu *cpu)
{
    return !(cpu->cr0 & 1) || (cpu->rflags & FL_VM);
}

static void put16(uint8_t *p, uint64_t value)
{
    uint16_t v = (uint16_t)value;

    memcpy(p, &v, 2);
}

static void put32(uint8_t *p, uint64_t value)
{
    uint32_t v = (uint32_t)value;

    memcpy(p, &v, 4);
}

static uint64_t get16(const uint8_t *p)
{
    uint16_t v;

    memcpy(&v, p, 2);
    return v;
}

static uint64_t get32(const uint8_t *p)
{
    uint32_t v;

    memcpy(&v, p, 4);
    return v;
}

/* From the host's 28 bytes and our pointers to the guest's layout; its length. Unused halves are
 * ones. */
static unsigned env_to_guest(struct soft_cpu *cpu, const uint8_t *host, uint8_t *env,
                             unsigned opsize)
{
    uint64_t fip, fdp, fop = get16(cpu->xsave + 6) & 0x7ff;
    unsigned step = opsize == 2 ? 2 : 4;

    memcpy(&fip, cpu->xsave + 8, 8);
    memcpy(&fdp, cpu->xsave + 16, 8);
    memset(env, 0, ENV_SIZE);
    for (unsigned i = 0; i < 3; i++) {
        put32(env + step * i, 0xffff0000 | get16(host + 4 * i));
    }
    if (opsize == 2) {
        put16(env + 6, fip);
        put16(env + 8, real_format(cpu) ? ((fip >> 16) & 15) << 12 | fop : 0);
        put16(env + 10, fdp);
        put16(env + 12, real_format(cpu) ? ((fdp >> 16) & 15) << 12 : 0);
        return 14;
    }
    if (real_format(cpu)) {
        put32(env + 12, 0xffff0000 | (fip & 0xffff));
        put32(env + 16, ((fip >> 16) & 0xffff) << 12 | fop);
        put32(env + 20, 0xffff0000 | (fdp & 0xffff));
        put32(env + 24, ((fdp >> 16) & 0xffff) << 12);
    } else {
        put32(env + 12, fip);
        put32(env + 16, fop << 16);
        put32(env + 20, fdp);
        put32(env + 24, 0xffff0000);
    }
    return ENV_SIZE;
}

/* The reverse: fills the host's 28 bytes (pointers zero) and keeps the pointers ourselves. */
static void env_from_guest(struct soft_cpu *cpu, const uint8_t *env, uint8_t *host, unsigned opsize)
{
    unsigned step = opsize == 2 ? 2 : 4;
    uint64_t fip, fdp, fop;

    memset(host, 0, ENV_SIZE);
    for (unsigned i = 0; i < 3; i++)
        put32(host + 4 * i, 0xffff0000 | get16(env + step * i));
    if (opsize == 2) {
        fip = get16(env + 6), fdp = get16(env + 10), fop = get16(env + 8);
        if (real_format(cpu))
            fip |= (fop >> 12) << 16, fdp |= (get16(env + 12) >> 12) << 16;
        else
            fop = 0;
    } else if (real_format(cpu)) {
        fop = get32(env + 16);
        fip = get16(env + 12) | ((fop >> 12) & 0xffff) << 16;
        fdp = get16(env + 20) | ((get32(env + 24) >> 12) & 0xffff) << 16;
    } else {
        fip = get32(env + 12), fdp = get32(env + 20), fop = get16(env + 18);
    }
    put16(cpu->xsave + 6, fop & 0x7ff);
    memcpy(cpu->xsave + 8, &fip, 8);
    memcpy(cpu->xsave + 16, &fdp, 8);
}

static unsigned env_size(unsigned opsize)
{
    return opsize == 2 ? 14 : ENV_SIZE;
}

/* FNSTENV and FNSAVE. */
void op_x87_save_env(struct soft_cpu *cpu, const struct insn *in)
{
    uint8_t host[108], image[108];
    struct vec_args a = {.mem = host};
    uint64_t ea = soft_ea(cpu, in);
    bool all = in->opcode == 0xdd;
    unsigned size = env_size(in->opsize);

    begin(cpu, in);
    soft_probe_write(cpu, in->seg, ea, size + (all ? ENV_REGS : 0));
    soft_x87_call(&a, thunk_of(in)); /* also masks all exceptions, or initialises */
    env_to_guest(cpu, host, image, in->opsize);
    if (all)
        memcpy(image + size, host + ENV_SIZE, ENV_REGS);
    soft_store_bytes(cpu, in->seg, ea, image, size + (all ? ENV_REGS : 0));
    if (all)
        memset(cpu->xsave + 6, 0, 18);
    note_control(cpu);
}

/* FLDENV and FRSTOR. */
void op_x87_load_env(struct soft_cpu *cpu, const struct insn *in)
{
    uint8_t host[108], image[108];
    struct vec_args a = {.mem = host};
    bool all = in->opcode == 0xdd;
    unsigned size = env_size(in->opsize);

    begin(cpu, in);
    soft_load_bytes(cpu, in->seg, soft_ea(cpu, in), image, size + (all ? ENV_REGS : 0));
    env_from_guest(cpu, image, host, in->opsize);
    if (all)
        memcpy(host + ENV_SIZE, image + size, ENV_REGS);
    soft_x87_call(&a, thunk_of(in));
    note_control(cpu);
}

/* FNINIT also clears the pointers. */
void op_fninit(struct soft_cpu *cpu, const struct insn *in)
{
    begin(cpu, in);
    x87_register(cpu, in);
    memset(cpu->xsave + 6, 0, 18);
    note_control(cpu);
}
