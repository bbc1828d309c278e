/* SPDX-License-Identifier: MIT */
/* The soft engine's vCPU, and how its parts call each other.
 *
 * Fetch and decode happen once per block (block.c, lower.c); hot integer instructions become uops
 * with a specialised handler (interp_*.c), every other one a uop whose handler calls the
 * instruction handler `soft_op[op]`, a C function on the decoded struct insn. That same table
 * completes single instructions for KVM (soft_step).
 *
 * While an instruction handler runs: cpu->rip is this instruction's RIP (offset in CS),
 * cpu->next_rip the one that follows; a jump changes next_rip. A fault is soft_raise: it does not
 * return (longjmp to the run loop), so a handler checks everything, then changes state. Arithmetic
 * flags live in cpu->arith in the host's own format (LAHF in the high byte, OF as 0 or 1 in the low
 * byte); all other bits in cpu->rflags. */
#ifndef HULL_SOFT_H
#define HULL_SOFT_H

#include "engine/engine.h"
#include "engine/x86/form.h"
#include "engine/x86/insn.h"
#include <setjmp.h>

enum { /* rflags */
       FL_CF = 1,
       FL_FIXED = 2,
       FL_PF = 4,
       FL_AF = 0x10,
       FL_ZF = 0x40,
       FL_SF = 0x80,
       FL_TF = 0x100,
       FL_IF = 0x200,
       FL_DF = 0x400,
       FL_OF = 0x800,
       FL_IOPL = 0x3000,
       FL_NT = 0x4000,
       FL_RF = 0x10000,
       FL_VM = 0x20000,
       FL_AC = 0x40000,
       FL_VIF = 0x80000,
       FL_VIP = 0x100000,
       FL_ID = 0x200000,
       FL_ARITH = FL_CF | FL_PF | FL_AF | FL_ZF | FL_SF | FL_OF,
};

enum x86_vector {
    VEC_DE,
    VEC_DB,
    VEC_NMI,
    VEC_BP,
    VEC_OF,
    VEC_BR,
    VEC_UD,
    VEC_NM,
    VEC_DF,
    VEC_CSO,
    VEC_TS,
    VEC_NP,
    VEC_SS,
    VEC_GP,
    VEC_PF,
    VEC_MF = 16,
    VEC_AC,
    VEC_MC,
    VEC_XM,
};
#define NO_CODE UINT32_MAX /* soft_raise's `code` for vectors without an error code */

enum mem_access { ACCESS_READ, ACCESS_WRITE, ACCESS_FETCH };

/* Bits of cpu->pending: why the run loop must look up before the next block. Set with atomic or. */
enum {
    PEND_KICK = 1, /* leave run() */
    PEND_INTR = 2, /* LAPIC or PIC may have an interrupt: call soft_apic_pending */
    PEND_NMI = 4,
    PEND_INIT = 8,
    PEND_SIPI = 16,
    PEND_TIMER = 32,    /* the LAPIC timer's deadline passed */
    PEND_REQUEST = 64,  /* another vCPU asks for a TLB action: cpu->request */
    PEND_TRAP = 128,    /* #DB trap or single-step after this instruction */
    PEND_SHADOW = 256,  /* interrupt shadow: run one instruction, then look again */
    PEND_CODE = 512,    /* code changed somewhere: soft_jit_serve */
    PEND_SYNC = 1024,   /* deterministic: devices were touched, or it is time for something */
    PEND_TURN = 2048,   /* deterministic: this vCPU's turn */
    PEND_SAMPLE = 4096, /* someone asks where it is: soft_profile_take */
};

struct uop;         /* uop.h */
struct soft_det;    /* det.h */
struct soft_tlb;    /* tlb.h */
struct soft_blocks; /* block.h */
struct soft_apic;   /* apic.h */
struct jit;         /* jit/jit_int.h; NULL: interpreter only */
struct soft_vm;     /* shared by the vCPUs: code pages, TLB requests, clock */

struct soft_cpu {
    uint64_t reg[16];          /* offset 0: uops address registers by byte offset from cpu */
    uint64_t zero;             /* offset 128: reads as 0, for "no base" and "no index" */
    uint64_t block_rip;        /* RIP of the running block's first byte */
    struct tlb_table *rd, *wr; /* of the current class: memory uops look here */
    struct jump *jump;         /* the jump cache, and what its entries must carry to be current */
    uint64_t jump_tag[2];      /* by bit 63 of RIP */
    /* Completed, once soft_behind() is taken off: blocks count their instructions when entered. */
    uint64_t instructions;
    uint64_t limit; /* deterministic: no further than this many; else UINT64_MAX */
    uint16_t arith; /* OF in bits 0-7; SF ZF 0 AF 0 PF 1 CF in bits 8-15 */
    uint8_t cpl;
    uint8_t mode; /* enum x86_mode of CS */
    uint64_t rip, next_rip;
    uint64_t rflags; /* all but the arithmetic flags */
    _Atomic uint32_t pending;
    /* Tickets of the last request to drop write TLB entries, and of the last served. */
    _Atomic uint32_t request, request_done;
    _Atomic bool running; /* inside run(): others must wait for request_done */
    struct x86_seg seg[6], ldt, tr;
    struct x86_table gdt, idt;
    uint64_t cr0, cr2, cr3, cr4, efer, xcr0;
    uint64_t dr[4], dr6, dr7;
    uint64_t pdpte[4];
    struct vcpu_state *msr; /* the MSR values live in a vcpu_state: star, lstar, pat, mtrr_*, ... */
    bool shadow_sti, shadow_ss, nmi_blocked;
    uint8_t run;       /* enum vcpu_run */
    uint64_t a20_mask; /* ANDed to physical addresses; all ones normally */
    uint64_t tsc_offset;
    uint32_t mxcsr;                                   /* guest's; status bits accumulate here */
    uint8_t xsave[1024] __attribute__((aligned(64))); /* XMM, YMM: always here; x87: see fpu_live */
    bool fpu_live; /* x87/MMX state is in the host's registers, not in xsave */
    /* event delivery */
    bool delivering; /* an exception is being delivered: double-fault rules */
    uint8_t first_vector;
    uint8_t ext; /* 1 while a hardware event is delivered: EXT bit of error codes, else 0 */
    uint8_t fault_vector; /* what soft_raise raised: the run loop hands it to soft_deliver */
    uint32_t fault_code;
    bool intr_waiting; /* an interrupt is held back by IF or TPR: PEND_INTR again when they allow it
                        */
    bool stepping; /* TF was set when the last instruction began: #DB trap at the next boundary */
    uint64_t shadow_rip; /* shadow_sti and shadow_ss hold for the instruction here only */
    uint64_t rf_rip;     /* rflags.RF holds for the instruction here only */
    uint32_t
        trap_dr6; /* DR6 bits of data and I/O breakpoints met; who sets it sets PEND_TRAP too */
    _Atomic uint32_t sleeping; /* in engine_ops.sleep: who sets a pending bit must futex-wake */
    struct soft_clock *clock;  /* the VM's, clock.c */
    uint64_t apic_page;        /* physical page of the LAPIC's registers; 1: off, or x2APIC */
    uint32_t key;              /* block key of the current mode */
    unsigned jump_context;     /* what the jump cache depends on: block.c */
    uint64_t slow;             /* counter of slow ways taken */
    struct code_store { /* stores to pages with code, through soft_host_ptr, in this instruction */
        uint64_t phys;
        unsigned len;
    } code_store[2];
    unsigned code_stores;
    uint64_t random[32], random_state; /* op_random.c */
    unsigned random_left;
    uint32_t pauses;   /* PAUSE instructions so far */
    bool align_check;  /* unaligned accesses raise #AC */
    bool split_locked; /* this instruction holds soft_vm.split */
    struct jit *jit;
    uint64_t jit_rax, jit_tmp; /* scratch of translated code */
    uint32_t jit_from;         /* the last indirect branch there: number of its jit_meta */
    /* Where the handler that runs was called from: the uop, or how many instructions of the
     * translated block were counted already and have not completed. */
    const struct uop *uop;
    uint32_t behind;
    struct soft_det *det;  /* NULL: real time, vCPUs side by side */
    uint8_t jit_threshold; /* entries until a block is translated; 0: never */
    uint8_t vec_live;      /* JIT: the host's registers hold XMM, YMM, MXCSR; VEC_* below */
    bool jit_refused;      /* the host did not let this thread have GS */
    struct soft_tlb *tlb;
    struct soft_blocks *blocks;
    struct soft_apic *apic;
    struct soft_profile *profile; /* profile.h; NULL: none is kept */
    struct soft_vm *soft;
    struct vcpu *vcpu;
    struct vm *vm;
    jmp_buf *fault; /* where soft_raise goes */
};

/* ---- run.c, block.c (core) ---- */
/* Mode, CPL, CR0/CR4/EFER, CS/SS attributes changed: recompute block key, cpl, mode. */
void soft_mode_changed(struct soft_cpu *cpu);
/* Executes exactly one instruction (KVM's completion, tests); events are not delivered. */
enum vcpu_exit soft_step(struct soft_cpu *cpu);

/* ---- event.c (sys) ---- */
_Noreturn void soft_raise(struct soft_cpu *cpu, unsigned vector, uint32_t code);
#define soft_gp(cpu, code) soft_raise(cpu, VEC_GP, code)
#define soft_ud(cpu)       soft_raise(cpu, VEC_UD, NO_CODE)
/* Delivers an exception or interrupt through IDT or IVT. Called by the run loop after a fault
 * unwound, for pending interrupts, and by INT n. May itself fault (soft_raise): double-fault rules
 * apply. False: triple fault. */
enum event_kind {
    EVENT_FAULT,
    EVENT_TRAP,
    EVENT_EXTERNAL,
    EVENT_SOFT_INT,
    EVENT_SOFT_TRAP /* INT3, INTO */,
    EVENT_NMI,
    EVENT_INT1
};
bool soft_deliver(struct soft_cpu *cpu, enum event_kind kind, unsigned vector, uint32_t code);
/* At an instruction boundary (cpu->rip is the next instruction) with cpu->pending set, in
 * architectural order: INIT, SIPI, traps, NMI, interrupts. Returns VCPU_KICKED to go on running, or
 * VCPU_HALT, VCPU_SHUTDOWN; PEND_KICK sets *leave. PEND_REQUEST is not its business. May
 * soft_raise. If it leaves PEND_SHADOW set, the run loop clears that bit, runs exactly one
 * instruction and comes back: interrupt shadows, TF and instruction breakpoints are done that way.
 * run() begins with a call whenever cpu->run is not VCPU_RUNNABLE. HLT sets cpu->run and PEND_INTR.
 */
enum vcpu_exit soft_events(struct soft_cpu *cpu, bool *leave);
/* All of RFLAGS, merged from arith and rflags; and back. */
uint64_t soft_rflags(const struct soft_cpu *cpu);
void soft_set_rflags(struct soft_cpu *cpu,
                     uint64_t rflags); /* no privilege checks; updates pending for TF, IF */

/* ---- walk.c, tlb.c (core) ---- */
/* Effective address of the memory operand: offset in its segment, truncated to adsize. */
uint64_t soft_ea(struct soft_cpu *cpu, const struct insn *in);
/* Segment checks (limit, type, canonical): linear address, or #GP/#SS. */
uint64_t soft_linear(struct soft_cpu *cpu, unsigned seg, uint64_t offset, unsigned size,
                     enum mem_access access);
/* Loads and stores with paging and segmentation at the current CPL; size 1, 2, 4, 8. May fault. */
uint64_t soft_load(struct soft_cpu *cpu, unsigned seg, uint64_t offset, unsigned size);
void soft_store(struct soft_cpu *cpu, unsigned seg, uint64_t offset, unsigned size, uint64_t value);
/* Any length up to 4096, all or nothing as far as faults go (both pages are checked first). */
void soft_load_bytes(struct soft_cpu *cpu, unsigned seg, uint64_t offset, void *dst, size_t len);
void soft_store_bytes(struct soft_cpu *cpu, unsigned seg, uint64_t offset, const void *src,
                      size_t len);
/* Faults as a write of `len` bytes would, and changes nothing. */
void soft_probe_write(struct soft_cpu *cpu, unsigned seg, uint64_t offset, size_t len);
/* Linear addresses, as the processor itself does for descriptor tables and TSS: `system` means
 * supervisor whatever the CPL. */
uint64_t soft_load_linear(struct soft_cpu *cpu, uint64_t linear, unsigned size, bool system);
void soft_store_linear(struct soft_cpu *cpu, uint64_t linear, unsigned size, uint64_t value,
                       bool system);
/* Compare-and-swap on guest memory in one piece, for descriptor accessed/busy bits and LOCK slow
 * paths. */
void *soft_host_ptr(struct soft_cpu *cpu, uint64_t linear, unsigned size, enum mem_access access,
                    bool system); /* NULL: MMIO or page-crossing; faults if not mapped */
void soft_tlb_flush(struct soft_cpu *cpu, bool global); /* CR3 load: false keeps global pages */
void soft_tlb_invlpg(struct soft_cpu *cpu, uint64_t linear);
/* Walks without side effects or faults, for debuggers: false if unmapped. */
bool soft_translate(struct soft_cpu *cpu, uint64_t linear, uint64_t *physical);

/* #GP(0) unless I/O privilege or the TSS's map allows the ports. */
void soft_io_check(struct soft_cpu *cpu, uint16_t port, unsigned size);

/* ---- segment.c, task.c (sys) ---- */
void soft_load_seg(struct soft_cpu *cpu, unsigned seg,
                   uint16_t sel); /* MOV, POP, LDS...: with all checks */
void soft_push(struct soft_cpu *cpu, unsigned size,
               uint64_t value); /* faults before changing RSP */
uint64_t soft_pop(struct soft_cpu *cpu, unsigned size);
uint64_t soft_sp_mask(const struct soft_cpu *cpu); /* by SS.B and mode */

/* Sets pending bits of any vCPU from any thread, and wakes it if it sleeps. */
void soft_pend(struct soft_cpu *cpu, uint32_t bits);
/* While it is stopped: INIT and SIPI that have come since become part of its state. */
void soft_settle(struct soft_cpu *cpu);

/* ---- engine.c (sys): the soft_engine table, opening and closing, sleep, kick, get and set. It
 * calls what core provides: ---- */
bool soft_core_open(struct vm *vm, struct soft_vm **soft,
                    struct err *err);                      /* struct soft_vm, blocks */
void soft_core_close(struct vm *vm, struct soft_vm *soft); /* accepts NULL */
bool soft_cpu_open(struct soft_cpu *cpu,
                   struct err *err);        /* cpu->tlb, cpu->blocks; cpu, vm, soft are set */
void soft_cpu_close(struct soft_cpu *cpu);  /* accepts a half-open one */
enum vcpu_exit soft_run(struct vcpu *vcpu); /* engine_ops.run */
void soft_dirty(struct vm *vm,
                struct mem_region *r); /* engine_ops.dirty; vm->priv is the soft_vm */

/* ---- apic.c, clock.c (sys) ---- */
bool soft_apic_open(struct soft_cpu *cpu, struct err *err);
void soft_apic_close(struct soft_cpu *cpu);
void soft_apic_reset(struct soft_cpu *cpu);
int soft_apic_pending(
    struct soft_cpu *cpu); /* vector to deliver now by priority, or -1; does not ack */
int soft_apic_ack(struct soft_cpu *cpu); /* moves it to the ISR; vector (or the PIC's), -1: gone */
void soft_apic_msi(struct vm *vm, const struct msi *msi);
uint64_t soft_apic_mmio_read(struct soft_cpu *cpu, uint32_t offset, unsigned size);
void soft_apic_mmio_write(struct soft_cpu *cpu, uint32_t offset, unsigned size, uint32_t value);
/* False: the access is #GP. */
bool soft_apic_msr_read(struct soft_cpu *cpu, uint32_t msr, uint64_t *value);
bool soft_apic_msr_write(struct soft_cpu *cpu, uint32_t msr, uint64_t value);
void soft_apic_init(struct soft_cpu *cpu);  /* the APIC's part of INIT */
void soft_apic_timer(struct soft_cpu *cpu); /* PEND_TIMER: the deadline may have passed */
void soft_apic_tsc_moved(struct soft_cpu *cpu);
uint8_t soft_apic_sipi_vector(struct soft_cpu *cpu);
uint64_t soft_apic_cr8(struct soft_cpu *cpu);
void soft_apic_set_cr8(struct soft_cpu *cpu, unsigned cr8);
void soft_apic_pic(struct soft_cpu *cpu, bool level); /* the 8259 pair's output; any thread */
void soft_apic_get(struct soft_cpu *cpu, struct lapic_state *state);
bool soft_apic_check(const struct lapic_state *state, unsigned phys_bits, struct err *err);
void soft_apic_set(struct soft_cpu *cpu,
                   const struct lapic_state *state); /* after soft_apic_check */
uint64_t soft_tsc(const struct soft_cpu *cpu);
uint64_t soft_tsc_hz(const struct soft_cpu *cpu);
uint64_t soft_now_ns(const struct soft_cpu *cpu); /* what the APIC's timers go by */
/* NULL on error. Without its thread, timers never fire. */
struct soft_clock *soft_clock_open(bool thread, bool virtual_time, struct err *err);
/* From when its APIC is open, until it closes. */
void soft_clock_watch(struct soft_cpu *cpu, bool on);
void soft_clock_close(struct soft_clock *clock); /* accepts NULL */
uint64_t soft_clock_offset(struct soft_cpu *cpu, uint64_t tsc, uint64_t adjust);
void soft_clock_set(struct vm *vm, uint64_t tsc); /* engine_ops.set_tsc */
void soft_sleep(struct vcpu *vcpu);               /* engine_ops.sleep */

/* ---- x87.c, xsave.c (vec) ---- */
/* Moves the x87 state back to cpu->xsave: before the thread leaves the run loop; nothing to do is
 * fine. */
void soft_fpu_save(struct soft_cpu *cpu);
/* The whole state as a standard XSAVE image of sizeof cpu->xsave bytes, out and in. The image was
 * checked: MXCSR's and the header's reserved bits are clear. */
void soft_xsave_get(struct soft_cpu *cpu, uint8_t *image);
void soft_xsave_set(struct soft_cpu *cpu, const uint8_t *image);

/* ---- instruction handlers, by enum x86_op; NULL: no handler, raises #UD ---- */
typedef void soft_op_fn(struct soft_cpu *cpu, const struct insn *in);
extern soft_op_fn *const soft_op[X86_OP_COUNT]; /* ops.c: assembled from the lists of each file */

#endif
