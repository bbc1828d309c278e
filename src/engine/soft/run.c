/* SPDX-License-Identifier: MIT */
/* The run loop: blocks until something is pending, events, faults.
 *
 * setjmp is called once per run(). soft_raise comes back there with cpu->rip at the instruction
 * that faulted; the exception is delivered and the loop goes on. Delivery may itself fault. */
#include "engine/soft/det.h"
#include "engine/soft/block.h"
#include "engine/soft/jit/run.h"
#include "engine/soft/operand.h"
#include "engine/soft/ops.h"
#include "engine/soft/profile.h"
#include "engine/soft/tlb.h"
#include "engine/soft/trace.h"
#include "engine/soft/vector.h"

/* ---- single instructions ---- */

static void check_form(struct soft_cpu *cpu, const struct insn *in, const struct x86_form *form)
{
    if (unlikely(in->prefix & X86_P_LOCK) && !(form->lock && in->mem))
        soft_ud(cpu);
    if (unlikely(!soft_offered(cpu, form)))
        soft_ud(cpu);
    if (unlikely(form->cpl0) && cpu->cpl != 0)
        soft_gp(cpu, 0);
}

void soft_exec(struct soft_cpu *cpu, const struct insn *in)
{
    const struct x86_form *form = &x86_form[in->form];
    soft_op_fn *fn = soft_op[form->op];
    bool old_scan = false;

    if (unlikely(form->op == X86_TZCNT || form->op == X86_LZCNT) && !soft_offered(cpu, form)) {
        /* Older processors ignore the F3 prefix. */
        fn = form->op == X86_TZCNT ? soft_op_bsf : soft_op_bsr;
        old_scan = true;
    }
    cpu->next_rip = (cpu->rip + in->length) & ip_mask(cpu);
    if (!old_scan)
        check_form(cpu, in, form);
    if (unlikely(fn == NULL || form->class == X86_UNDEF))
        soft_ud(cpu);
    if (unlikely(soft_tracing & TRACE_INSN))
        trace_insn(cpu, in);
    fn(cpu, in);
    if (unlikely(cpu->code_stores))
        soft_code_stored(cpu);
}

/* A string instruction that has more to do. */
static bool unfinished(const struct soft_cpu *cpu, const struct insn *in)
{
    return x86_form[in->form].class == X86_STRING && cpu->next_rip == cpu->rip;
}

static void one_instruction(struct soft_cpu *cpu)
{
    struct insn in;

    soft_uncounted(cpu);
    soft_fetch(cpu, &in);
    soft_exec(cpu, &in);
    cpu->instructions += !unfinished(cpu, &in);
    cpu->rip = cpu->next_rip;
}

/* ---- counting ---- */

void soft_uncount(struct soft_cpu *cpu, const struct insn *done)
{
    unsigned behind = soft_behind(cpu);

    if (behind > 0)
        cpu->instructions -= behind - (done && !unfinished(cpu, done));
    soft_uncounted(cpu);
}

/* ---- uops that run instruction handlers ---- */

static inline void exec_uop(struct soft_cpu *cpu, const struct uop *u)
{
    cpu->rip = (cpu->block_rip + u->at) & ip_mask(cpu);
    cpu->uop = u;
    soft_exec(cpu, uop_insn(u));
}

/* Leaves the block for the next instruction. */
static const struct uop *leave(struct soft_cpu *cpu, const struct uop *u)
{
    soft_uncount(cpu, uop_insn(u));
    cpu->rip = cpu->block_rip = cpu->next_rip;
    if (unlikely(atomic_load_explicit(&cpu->pending, memory_order_relaxed)))
        return NULL;
    return soft_find(cpu);
}

const struct uop *uop_insn_end(struct soft_cpu *cpu, const struct uop *u)
{
    const struct uop *to;

    exec_uop(cpu, u);
    to = leave(cpu, u);
    if (to == NULL)
        return NULL;
    GOTO(to);
}

const struct uop *uop_insn_next(struct soft_cpu *cpu, const struct uop *u)
{
    exec_uop(cpu, u);
    if (unlikely(atomic_load_explicit(&cpu->pending, memory_order_relaxed) ||
                 soft_block_stale(u))) {
        soft_uncount(cpu, uop_insn(u));
        cpu->rip = cpu->block_rip = cpu->next_rip;
        return NULL;
    }
    NEXT;
}

const struct uop *uop_insn_plain(struct soft_cpu *cpu, const struct uop *u)
{
    const struct insn *in = uop_insn(u);

    cpu->rip = cpu->block_rip + u->at;
    cpu->next_rip = cpu->rip + in->length;
    cpu->uop = u;
    soft_op[in->op](cpu, in);
    NEXT;
}

const struct uop *soft_slow(struct soft_cpu *cpu, const struct uop *u)
{
    cpu->slow++;
    exec_uop(cpu, u);
    /* A branch, be it to the next instruction, or the last one: what follows in the block is not
     * for us. */
    if (unlikely(x86_form[uop_insn(u)->form].class == X86_FLOW ||
                 cpu->next_rip != ((cpu->block_rip + u->at + u->length) & ip_mask(cpu)) ||
                 u[1].fn == uop_fall || u[1].fn == uop_link || u[1].fn == uop_find ||
                 atomic_load_explicit(&cpu->pending, memory_order_relaxed) ||
                 soft_block_stale(u))) {
        const struct uop *to = leave(cpu, u);

        if (to == NULL)
            return NULL;
        GOTO(to);
    }
    NEXT;
}

const struct uop *uop_fall(struct soft_cpu *cpu, const struct uop *u)
{
    cpu->block_rip = (cpu->block_rip + (uint64_t)(int64_t)u->disp) & ip_mask(cpu);
    GOTO((const struct uop *)u->imm);
}

/* ---- the loop ---- */

/* Runs uops until something is pending. cpu->rip is right before and after. */
static void run_blocks(struct soft_cpu *cpu)
{
    const struct uop *u;

    cpu->block_rip = cpu->rip;
    for (u = soft_find(cpu); u != NULL;)
        u = u->fn(cpu, u);
}

/* What is pending, at an instruction boundary. False: leave run() with *exit. */
static bool look_up(struct soft_cpu *cpu, enum vcpu_exit *exit)
{
    bool leave_run = false;

    if (atomic_load(&cpu->pending) & PEND_REQUEST)
        soft_serve(cpu);
    if (atomic_load(&cpu->pending) & PEND_CODE)
        soft_jit_serve(cpu);
    if (atomic_load(&cpu->pending) & PEND_SAMPLE)
        soft_profile_take(cpu);
    *exit = soft_events(cpu, &leave_run);
    return *exit == VCPU_KICKED && !leave_run;
}

/* The last instructions before the limit, if that is why blocks ended. */
static void to_limit(struct soft_cpu *cpu)
{
    while (cpu->instructions < cpu->limit && !atomic_load(&cpu->pending))
        one_instruction(cpu);
    if (cpu->instructions >= cpu->limit)
        atomic_fetch_or(&cpu->pending, PEND_SYNC);
}

static enum vcpu_exit loop(struct soft_cpu *cpu)
{
    enum vcpu_exit exit = VCPU_KICKED;

    for (;;) {
        if (atomic_load(&cpu->pending) || cpu->run != VCPU_RUNNABLE || cpu->stepping) {
            if (!look_up(cpu, &exit))
                return exit;
            if (atomic_load(&cpu->pending) & PEND_SHADOW) {
                atomic_fetch_and(&cpu->pending, ~(uint32_t)PEND_SHADOW);
                one_instruction(cpu);
                if (!look_up(cpu, &exit))
                    return exit;
                continue;
            }
            if (atomic_load(&cpu->pending))
                continue;
        }
        run_blocks(cpu);
        soft_uncounted(cpu);
        if (unlikely(cpu->limit != UINT64_MAX))
            to_limit(cpu);
    }
}

/* After soft_raise: leaves nothing of the broken-off instruction behind, delivers. False: shutdown.
 */
static bool deliver_fault(struct soft_cpu *cpu)
{
    operand_unlock(cpu);
    soft_uncount(cpu, NULL);
    if (cpu->code_stores)
        soft_code_stored(cpu);
    if (unlikely(soft_tracing & TRACE_INT))
        trace_fault(cpu);
    return soft_deliver(cpu, EVENT_FAULT, cpu->fault_vector, cpu->fault_code);
}

enum vcpu_exit soft_run(struct vcpu *vcpu)
{
    struct soft_cpu *cpu = vcpu->priv;
    enum vcpu_exit exit;
    jmp_buf env;

    if (cpu->det && !det_enter(cpu))
        return VCPU_KICKED;
    atomic_store(&cpu->running, true);
    if (atomic_load(&cpu->request) != atomic_load(&cpu->request_done))
        soft_serve(cpu);
    soft_jit_thread(cpu);
    cpu->fault = &env;
    if (_setjmp(env) != 0 && !deliver_fault(cpu))
        exit = VCPU_SHUTDOWN;
    else
        exit = loop(cpu);
    cpu->fault = NULL;
    soft_fpu_save(cpu);
    atomic_store(&vcpu->instructions, cpu->instructions);
    soft_profile_publish(cpu);
    atomic_store(&cpu->running, false);
    return exit;
}

enum vcpu_exit soft_step(struct soft_cpu *cpu)
{
    enum vcpu_exit exit = VCPU_KICKED;
    jmp_buf env;

    cpu->fault = &env;
    if (_setjmp(env) == 0)
        one_instruction(cpu);
    else if (!deliver_fault(cpu))
        exit = VCPU_SHUTDOWN;
    cpu->fault = NULL;
    soft_fpu_save(cpu);
    return exit;
}
