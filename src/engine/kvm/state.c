/* SPDX-License-Identifier: MIT */
/* struct vcpu_state from and to KVM, part by part. The kernel checks what is set: a state that no
 * guest can be in is refused there. Order of setting matters and is that of kvm_engine_set.
 *
 * The LAPIC's id is state only in name (it is the vCPU's number), and its timer travels as the time
 * that is left, as the soft engine has it. */
#include "engine/kvm/kvm.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#define XSAVE_KEPT 832 /* legacy area, header, upper halves of YMM */

enum { /* offsets in the LAPIC's page */
       LAPIC_ID = 0x20,
       LAPIC_TPR = 0x80,
       LAPIC_ISR = 0x100,
       LAPIC_IRR = 0x200,
       LAPIC_LVT_TIMER = 0x320,
       LAPIC_INITIAL = 0x380,
       LAPIC_CURRENT = 0x390,
       LAPIC_DIVIDE = 0x3e0,
       LAPIC_PERIODIC = 1 << 17,
       LAPIC_X2 = 1 << 10, /* in the base MSR */
};

static int cpu_fd(struct vcpu *vcpu)
{
    return ((const struct kvm_cpu *)vcpu->priv)->fd;
}

/* Setting: false with the reason. */
static bool put(struct vcpu *vcpu, unsigned long request, const void *arg, const char *what,
                struct err *err)
{
    return ioctl(cpu_fd(vcpu), request, arg) == 0 ||
           err_set(err, errno, "vCPU state: KVM refuses the %s: %s", what, strerror(errno));
}

/* ---- general and system registers ---- */

static void get_regs(struct vcpu *vcpu, struct vcpu_state *s)
{
    struct kvm_regs r = {0};

    (void)ioctl(cpu_fd(vcpu), KVM_GET_REGS, &r);
    memcpy(s->reg,
           (const uint64_t[]){r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9,
                              r.r10, r.r11, r.r12, r.r13, r.r14, r.r15},
           sizeof s->reg);
    s->rip = r.rip;
    s->rflags = r.rflags;
}

static bool put_regs(struct vcpu *vcpu, const struct vcpu_state *s, struct err *err)
{
    const uint64_t *g = s->reg;
    const struct kvm_regs r = {
        .rax = g[0],
        .rcx = g[1],
        .rdx = g[2],
        .rbx = g[3],
        .rsp = g[4],
        .rbp = g[5],
        .rsi = g[6],
        .rdi = g[7],
        .r8 = g[8],
        .r9 = g[9],
        .r10 = g[10],
        .r11 = g[11],
        .r12 = g[12],
        .r13 = g[13],
        .r14 = g[14],
        .r15 = g[15],
        .rip = s->rip,
        .rflags = s->rflags | 2,
    };

    return put(vcpu, KVM_SET_REGS, &r, "registers", err);
}

static struct x86_seg seg_from(const struct kvm_segment *k)
{
    unsigned present = k->present && !k->unusable;

    return (struct x86_seg){
        .base = k->base,
        .limit = k->limit,
        .sel = k->selector,
        .attr = (uint16_t)(k->type | k->s << 4 | k->dpl << 5 | present << 7 | k->avl << 12 |
                           k->l << 13 | k->db << 14 | k->g << 15),
    };
}

static struct kvm_segment seg_to(const struct x86_seg *s)
{
    return (struct kvm_segment){
        .base = s->base,
        .limit = s->limit,
        .selector = s->sel,
        .type = s->attr & SEG_TYPE,
        .s = (s->attr & SEG_S) != 0,
        .dpl = (s->attr & SEG_DPL) >> 5,
        .present = (s->attr & SEG_P) != 0,
        .unusable = !(s->attr & SEG_P),
        .avl = (s->attr & SEG_AVL) != 0,
        .l = (s->attr & SEG_L) != 0,
        .db = (s->attr & SEG_DB) != 0,
        .g = (s->attr & SEG_G) != 0,
    };
}

static void get_sregs(struct vcpu *vcpu, struct vcpu_state *s)
{
    struct kvm_sregs2 r = {0};

    (void)ioctl(cpu_fd(vcpu), KVM_GET_SREGS2, &r);
    s->seg[0] = seg_from(&r.es);
    s->seg[1] = seg_from(&r.cs);
    s->seg[2] = seg_from(&r.ss);
    s->seg[3] = seg_from(&r.ds);
    s->seg[4] = seg_from(&r.fs);
    s->seg[5] = seg_from(&r.gs);
    s->ldt = seg_from(&r.ldt);
    s->tr = seg_from(&r.tr);
    s->gdt = (struct x86_table){.base = r.gdt.base, .limit = r.gdt.limit};
    s->idt = (struct x86_table){.base = r.idt.base, .limit = r.idt.limit};
    s->cr0 = r.cr0;
    s->cr2 = r.cr2;
    s->cr3 = r.cr3;
    s->cr4 = r.cr4;
    s->cr8 = r.cr8;
    s->efer = r.efer;
    s->lapic.base_msr = r.apic_base;
    if (r.flags & KVM_SREGS2_FLAGS_PDPTRS_VALID)
        for (unsigned i = 0; i < 4; i++)
            s->pdpte[i] = r.pdptrs[i];
}

static bool put_sregs(struct vcpu *vcpu, const struct vcpu_state *s, struct err *err)
{
    struct kvm_sregs2 r = {
        .es = seg_to(&s->seg[0]),
        .cs = seg_to(&s->seg[1]),
        .ss = seg_to(&s->seg[2]),
        .ds = seg_to(&s->seg[3]),
        .fs = seg_to(&s->seg[4]),
        .gs = seg_to(&s->seg[5]),
        .ldt = seg_to(&s->ldt),
        .tr = seg_to(&s->tr),
        .gdt = {.base = s->gdt.base, .limit = s->gdt.limit},
        .idt = {.base = s->idt.base, .limit = s->idt.limit},
        .cr0 = s->cr0 | 0x10,
        .cr2 = s->cr2,
        .cr3 = s->cr3,
        .cr4 = s->cr4,
        .cr8 = s->lapic.regs[LAPIC_TPR] >> 4,
        .efer = s->efer,
        .apic_base = s->lapic.base_msr,
    };

    /* PAE paging, and not long mode: CR0.PG, CR4.PAE, EFER.LMA */
    if ((s->cr0 >> 31 & 1) && (s->cr4 & 0x20) && !(s->efer & 0x400)) {
        r.flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
        for (unsigned i = 0; i < 4; i++)
            r.pdptrs[i] = s->pdpte[i];
    }
    return put(vcpu, KVM_SET_SREGS2, &r, "system registers", err);
}

/* ---- vector state, XCR0, debug registers ---- */

static void get_vectors(struct vcpu *vcpu, struct vcpu_state *s)
{
    struct kvm_xcrs xcrs = {0};
    struct kvm_xsave x = {0};
    uint64_t present;

    (void)ioctl(cpu_fd(vcpu), KVM_GET_XSAVE, &x);
    memcpy(s->xsave, x.region, XSAVE_KEPT);
    memset(s->xsave + 464, 0, 48); /* left to software: the kernel keeps notes there */
    present = le64(s->xsave + 512) & 7;
    memset(s->xsave + 512, 0, 64);
    put_le64(s->xsave + 512, present);
    s->xcr0 = 1;
    if (ioctl(cpu_fd(vcpu), KVM_GET_XCRS, &xcrs))
        return;
    for (unsigned i = 0; i < xcrs.nr_xcrs; i++)
        if (xcrs.xcrs[i].xcr == 0)
            s->xcr0 = xcrs.xcrs[i].value;
}

static bool put_vectors(struct vcpu *vcpu, const struct vcpu_state *s, struct err *err)
{
    const struct kvm_xcrs xcrs = {.nr_xcrs = 1, .xcrs[0] = {.xcr = 0, .value = s->xcr0}};
    struct kvm_xsave x = {0};

    memcpy(x.region, s->xsave, XSAVE_KEPT);
    return put(vcpu, KVM_SET_XSAVE, &x, "vector state", err) &&
           (ioctl(cpu_fd(vcpu), KVM_SET_XCRS, &xcrs) == 0 || s->xcr0 == 1 ||
            err_set(err, errno, "vCPU state: KVM refuses XCR0 0x%llx",
                    (unsigned long long)s->xcr0));
}

static void get_debug(struct vcpu *vcpu, struct vcpu_state *s)
{
    struct kvm_debugregs d = {0};

    (void)ioctl(cpu_fd(vcpu), KVM_GET_DEBUGREGS, &d);
    for (unsigned i = 0; i < 4; i++)
        s->dr[i] = d.db[i];
    s->dr6 = d.dr6;
    s->dr7 = d.dr7;
}

static bool put_debug(struct vcpu *vcpu, const struct vcpu_state *s, struct err *err)
{
    const struct kvm_debugregs d = {
        .db = {s->dr[0], s->dr[1], s->dr[2], s->dr[3]}, .dr6 = s->dr6, .dr7 = s->dr7};

    return put(vcpu, KVM_SET_DEBUGREGS, &d, "debug registers", err);
}

/* ---- the local APIC ---- */

/* The timer's ticks are 1, 2, 4 ... 128 periods of the bus: SDM 3, figure 11-10. */
static uint64_t timer_tick_ns(struct vcpu *vcpu, const struct lapic_state *a)
{
    uint32_t divide = le32(a->regs + LAPIC_DIVIDE);
    unsigned shift = ((divide & 3) | (divide >> 1 & 4)) + 1;

    return (uint64_t)kvm_of(vcpu->vm)->apic_bus_ns << (shift & 7);
}

static void get_lapic(struct vcpu *vcpu, struct vcpu_state *s)
{
    struct kvm_lapic_state k;

    if (ioctl(cpu_fd(vcpu), KVM_GET_LAPIC, &k))
        return;
    memcpy(s->lapic.regs, k.regs, sizeof s->lapic.regs);
    s->lapic.timer_left_ns = le32(s->lapic.regs + LAPIC_CURRENT) * timer_tick_ns(vcpu, &s->lapic);
    put_le32(s->lapic.regs + LAPIC_CURRENT, 0);
    if (s->lapic.base_msr & LAPIC_X2)
        put_le32(s->lapic.regs + LAPIC_ID, vcpu->id);
}

static bool put_lapic(struct vcpu *vcpu, const struct vcpu_state *s, struct err *err)
{
    uint64_t left = s->lapic.timer_left_ns / timer_tick_ns(vcpu, &s->lapic);
    struct kvm_lapic_state k;
    uint8_t regs[sizeof k.regs];

    memcpy(regs, s->lapic.regs, sizeof regs);
    put_le32(regs + LAPIC_ID, vcpu->id << 24);
    put_le32(regs + LAPIC_CURRENT, (uint32_t)min_u64(left, UINT32_MAX));
    /* A one-shot timer that has fired: with its start value there, KVM would fire it again. */
    if (!left && !(le32(regs + LAPIC_LVT_TIMER) & LAPIC_PERIODIC))
        put_le32(regs + LAPIC_INITIAL, 0);
    memcpy(k.regs, regs, sizeof regs);
    return put(vcpu, KVM_SET_LAPIC, &k, "local APIC", err);
}

/* ---- what is between instructions ---- */

/* An interrupt that was taken from the LAPIC but has not reached the guest goes back to it. One of
 * the PICs', which has been acknowledged there, travels as it is. */
static void give_back(struct vcpu_state *s, uint8_t vector)
{
    unsigned at = vector / 32 * 16;
    uint32_t bit = (uint32_t)BIT(vector % 32), isr = le32(s->lapic.regs + LAPIC_ISR + at);

    if (!(isr & bit)) {
        s->interrupt_pending = true;
        s->interrupt_vector = vector;
        return;
    }
    put_le32(s->lapic.regs + LAPIC_ISR + at, isr & ~bit);
    put_le32(s->lapic.regs + LAPIC_IRR + at, le32(s->lapic.regs + LAPIC_IRR + at) | bit);
}

static void get_events(struct vcpu *vcpu, struct vcpu_state *s)
{
    struct kvm_vcpu_events e = {0};
    struct kvm_mp_state mp = {0};

    (void)ioctl(cpu_fd(vcpu), KVM_GET_VCPU_EVENTS, &e);
    (void)ioctl(cpu_fd(vcpu), KVM_GET_MP_STATE, &mp);
    s->shadow_sti = e.interrupt.shadow & KVM_X86_SHADOW_INT_STI;
    s->shadow_ss = e.interrupt.shadow & KVM_X86_SHADOW_INT_MOV_SS;
    s->nmi_blocked = e.nmi.masked;
    s->nmi_pending = e.nmi.pending || e.nmi.injected;
    s->exception_pending = e.exception.injected || e.exception.pending;
    if (s->exception_pending) {
        s->exception_vector = e.exception.nr & 31;
        s->exception_has_code = e.exception.has_error_code;
        s->exception_code = e.exception.error_code;
    }
    if (e.interrupt.injected && !e.interrupt.soft)
        give_back(s, e.interrupt.nr);
    switch (mp.mp_state) {
    case KVM_MP_STATE_HALTED: s->run = VCPU_HALTED; break;
    case KVM_MP_STATE_UNINITIALIZED:
    case KVM_MP_STATE_INIT_RECEIVED: s->run = VCPU_WAIT_SIPI; break;
    default: s->run = VCPU_RUNNABLE; break;
    }
}

static bool put_events(struct vcpu *vcpu, const struct vcpu_state *s, struct err *err)
{
    static const uint32_t mp_state[] = {
        [VCPU_RUNNABLE] = KVM_MP_STATE_RUNNABLE,
        [VCPU_HALTED] = KVM_MP_STATE_HALTED,
        [VCPU_WAIT_INIT] = KVM_MP_STATE_UNINITIALIZED,
        [VCPU_WAIT_SIPI] = KVM_MP_STATE_INIT_RECEIVED,
    };
    const struct kvm_vcpu_events e = {
        .flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW,
        .exception = {.injected = s->exception_pending,
                      .nr = s->exception_vector,
                      .has_error_code = s->exception_has_code,
                      .error_code = s->exception_code},
        .interrupt.injected = s->interrupt_pending,
        .interrupt.nr = s->interrupt_vector,
        .interrupt.shadow = (uint8_t)((s->shadow_sti ? KVM_X86_SHADOW_INT_STI : 0) |
                                      (s->shadow_ss ? KVM_X86_SHADOW_INT_MOV_SS : 0)),
        .nmi = {.pending = s->nmi_pending, .masked = s->nmi_blocked},
    };
    struct kvm_mp_state mp;

    if (s->run >= ARRAY_SIZE(mp_state))
        return err_set(err, EINVAL, "vCPU state: run state %u is impossible", s->run);
    mp.mp_state = mp_state[s->run];
    return put(vcpu, KVM_SET_VCPU_EVENTS, &e, "pending events", err) &&
           put(vcpu, KVM_SET_MP_STATE, &mp, "run state", err);
}

/* ---- after one instruction ---- */

/* Parts of the vector state that struct vcpu_state does not hold stay as they are. */
static bool put_vectors_kept(struct vcpu *vcpu, const struct vcpu_state *s, struct err *err)
{
    struct kvm_xsave x = {0};
    uint8_t *image = (uint8_t *)x.region;
    uint64_t others;

    if (ioctl(cpu_fd(vcpu), KVM_GET_XSAVE, &x))
        return err_set(err, errno, "KVM does not give the vector state: %s", strerror(errno));
    others = le64(image + 512) & ~7ull;
    memcpy(image, s->xsave, 464);
    memcpy(image + 576, s->xsave + 576, XSAVE_KEPT - 576);
    put_le64(image + 512, others | (le64(s->xsave + 512) & 7));
    return put(vcpu, KVM_SET_XSAVE, &x, "vector state", err);
}

static bool put_events_kept(struct vcpu *vcpu, const struct vcpu_state *s, struct err *err)
{
    struct kvm_vcpu_events e = {0};

    if (ioctl(cpu_fd(vcpu), KVM_GET_VCPU_EVENTS, &e))
        return err_set(err, errno, "KVM does not give the pending events: %s", strerror(errno));
    memset(&e.exception, 0, sizeof e.exception);
    e.interrupt.shadow = (uint8_t)((s->shadow_sti ? KVM_X86_SHADOW_INT_STI : 0) |
                                   (s->shadow_ss ? KVM_X86_SHADOW_INT_MOV_SS : 0));
    e.nmi.masked = s->nmi_blocked;
    e.flags = KVM_VCPUEVENT_VALID_SHADOW;
    return put(vcpu, KVM_SET_VCPU_EVENTS, &e, "pending events", err);
}

bool kvm_put_completed(struct vcpu *vcpu, const struct vcpu_state *s, struct err *err)
{
    return put_sregs(vcpu, s, err) && put_regs(vcpu, s, err) && put_vectors_kept(vcpu, s, err) &&
           put_debug(vcpu, s, err) && put_events_kept(vcpu, s, err);
}

/* ---- all of it ---- */

void kvm_engine_get(struct vcpu *vcpu, struct vcpu_state *s)
{
    memset(s, 0, sizeof *s);
    get_regs(vcpu, s);
    get_sregs(vcpu, s);
    get_vectors(vcpu, s);
    get_debug(vcpu, s);
    get_lapic(vcpu, s);
    kvm_get_msrs(vcpu, s);
    get_events(vcpu, s);
}

bool kvm_engine_set(struct vcpu *vcpu, const struct vcpu_state *s, struct err *err)
{
    return put_sregs(vcpu, s, err) && put_regs(vcpu, s, err) && put_vectors(vcpu, s, err) &&
           put_debug(vcpu, s, err) && kvm_set_msrs(vcpu, s, err) && put_lapic(vcpu, s, err) &&
           kvm_set_deadline(vcpu, s, err) && put_events(vcpu, s, err);
}
