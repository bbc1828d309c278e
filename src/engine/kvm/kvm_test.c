/* SPDX-License-Identifier: MIT */
/* The KVM engine on whatever this host has: without /dev/kvm it says what to do; with one, state
 * set on a vCPU comes back, a small guest runs, a kick ends it, and written pages are seen. */
#include "engine/choose.h"
#include "engine/kvm/kvm.h"
#include "tap.h"
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

static struct vm vm;
static struct mem mem;
static struct bus mmio, pio;
static struct cpu_model model;
static _Atomic unsigned written;
static struct region port, index_port;
static uint8_t order[8]; /* what was written to the index port, then 0xff for the other */
static unsigned order_count;

static void note(uint8_t value)
{
    if (order_count < sizeof order)
        order[order_count++] = value;
}

static void index_write(void *dev, uint64_t offset, uint64_t value, unsigned size)
{
    note((uint8_t)value);
}

static void port_write(void *dev, uint64_t offset, uint64_t value, unsigned size)
{
    note(0xff);
    atomic_store(&written, (unsigned)value);
}

static const struct region_ops port_ops = {NULL, port_write, 1, 1};
static const struct region_ops index_ops = {NULL, index_write, 1, 1};

static void on_end(struct vm *v, struct vcpu *cpu)
{
}

static void on_broken(struct vm *v, struct vcpu *cpu, const struct err *err)
{
    printf("# %s\n", err->text);
}

static const struct vm_events events = {.shutdown = on_end, .broken = on_broken};

static void test_choice(const struct err *refusal)
{
    struct engine_choice choice;
    struct err err;

    ok(engine_choose("auto", &choice, &err) && choice.reason[0], "auto always finds an engine");
    ok(engine_choose("soft", &choice, &err) && choice.ops == &soft_engine, "soft is soft");
    if (!refusal)
        ok(engine_choose("kvm", &choice, &err) && choice.ops == &kvm_engine, "kvm is KVM");
    else
        ok(!engine_choose("kvm", &choice, &err) && strstr(err.text, "--engine kvm: ") &&
               strstr(err.text, "/dev/kvm"),
           "kvm is refused: %s", err.text);
}

static bool open_vm(struct err *err)
{
    struct cpu_offer offer;

    mem_init(&mem);
    bus_init(&mmio, BIT(40));
    bus_init(&pio, 0x10000);
    vm_init(&vm);
    port = (struct region){.name = "port", .base = 0x402, .size = 1, .ops = &port_ops};
    index_port = (struct region){.name = "index", .base = 0x70, .size = 1, .ops = &index_ops};
    vm.events = &events;
    vm.mem = &mem;
    vm.mmio = &mmio;
    vm.pio = &pio;
    vm.model = &model;
    return kvm_engine_offer(&offer, err) && cpu_model_make(&model, "", &offer, err) &&
           mem_add(&mem, "ram", 0, MiB, false, err) &&
           mem_add(&mem, "big", 16 * MiB, 32 * MiB, false, err) && bus_add(&pio, &port, err) &&
           bus_add(&pio, &index_port, err) && vm_open(&vm, &kvm_engine, 1, err);
}

static void test_state(struct vcpu_state *a, struct vcpu_state *b)
{
    struct err err;

    vm.engine->get(vm.cpu[0], a);
    for (uint64_t i = 0; i < 16; i++)
        a->reg[i] = 0x1111111111111111u * i;
    a->dr[1] = 0x1234;
    a->lstar = 0xffffffff81000000;
    a->mtrr_fix[3] = 0x0606060606060606;
    a->xsave[32] = 0x55;  /* ST0 */
    a->xsave[160] = 0x77; /* XMM0 */
    a->nmi_blocked = true;
    ok(vm.engine->set(vm.cpu[0], a, &err), "state is set");
    vm.engine->get(vm.cpu[0], b);
    b->tsc = a->tsc; /* runs on */
    ok(!memcmp(a, b, sizeof *a), "and comes back whole");
    a->cr0 = 0x80000000; /* paging without protection */
    ok(!vm.engine->set(vm.cpu[0], a, &err), "an impossible state is refused");
}

/* mov al, 42; mov dx, 0x402; out dx, al; mov [0x5000], al; jmp $ */
static const uint8_t code[] = {0xb0, 42, 0xba, 0x02, 0x04, 0xee, 0xa2, 0x00, 0x50, 0xeb, 0xfe};

static void test_run(struct vcpu_state *s)
{
    struct err err;
    unsigned set = 0;

    atomic_store(&written, 0);
    ok(mem_log_start(&mem, &err), "the dirty log starts");
    vm.engine->dirty(&vm, &mem.region[0]);
    ok(mem.region[0].dirty[0] == UINT64_MAX, "all pages count as dirty at first");
    memset(mem.region[0].dirty, 0, MiB / PAGE_SIZE / 8);
    vcpu_state_reset(s, true, 0);
    s->seg[1].base = s->seg[1].sel = 0;
    s->rip = 0x1000;
    ok(!mem_write(&mem, 0x1000, code, sizeof code) && vm.engine->set(vm.cpu[0], s, &err) &&
           vm_start(&vm, &err),
       "a guest starts");
    memset(mem.region[0].dirty, 0, MiB / PAGE_SIZE / 8);
    vm_resume(&vm);
    for (unsigned i = 0; i < 1000 && !atomic_load(&written); i++)
        usleep(1000);
    usleep(10000);
    vm_pause(&vm);
    ok(atomic_load(&written) == 42, "its port access arrives");
    vm.engine->get(vm.cpu[0], s);
    ok(s->rip == 0x1009, "a busy guest is paused where it loops (0x%llx)",
       (unsigned long long)s->rip);
    vm.engine->dirty(&vm, &mem.region[0]);
    for (unsigned i = 0; i < MiB / PAGE_SIZE / 64; i++)
        set += (unsigned)__builtin_popcountll(mem.region[0].dirty[i]);
    /* KVM may name a page too many (it does in test/kvm's nested machine), never one too few. */
    ok((mem.region[0].dirty[0] & BIT(5)) && set < 8, "the page it wrote is dirty, of few (%u)",
       set);
}

/* mov al, 1; out 0x70, al; inc al; out 0x70, al; mov dx, 0x402; mov al, 7; out dx, al; hlt */
static const uint8_t index_code[] = {0xb0, 1,    0xe6, 0x70, 0xfe, 0xc0, 0xe6, 0x70,
                                     0xba, 0x02, 0x04, 0xb0, 7,    0xee, 0xf4};

/* Goes on with other code. */
static void start_code(struct vcpu_state *s, const uint8_t *bytes, size_t len)
{
    struct err err;

    atomic_store(&written, 0);
    s->seg[1].base = s->seg[1].sel = 0;
    s->rip = 0x1000;
    if (!mem_write(&mem, 0x1000, bytes, len) && vm.engine->set(vm.cpu[0], s, &err))
        vm_resume(&vm);
}

/* Until the guest writes to port 0x402, then pauses; what it wrote. */
static unsigned wait_code(void)
{
    for (unsigned i = 0; i < 5000 && !atomic_load(&written); i++)
        usleep(1000);
    vm_pause(&vm);
    return atomic_load(&written);
}

static unsigned run_code(struct vcpu_state *s, const uint8_t *bytes, size_t len)
{
    vcpu_state_reset(s, true, 0);
    start_code(s, bytes, len);
    return wait_code();
}

static uint64_t counted(enum vcpu_count what)
{
    return atomic_load(&vm.cpu[0]->count[what]);
}

/* Nothing is lost or out of order, whether the kernel holds such writes back or not. */
static void test_deferred(struct vcpu_state *s)
{
    uint64_t ports = counted(COUNT_PORT), late = counted(COUNT_DEFERRED);

    vm.engine->defer(&vm, true, 0x70, 1);
    order_count = 0;
    run_code(s, index_code, sizeof index_code);
    ok(order_count == 3 && order[0] == 1 && order[1] == 2 && order[2] == 0xff,
       "deferred writes come before what follows them");
    late = counted(COUNT_DEFERRED) - late;
    ok((late == 2 || late == 0) && counted(COUNT_PORT) - ports == 3 - late,
       "and cost no exit: %llu of 2 were deferred", (unsigned long long)late);
}

/* mov ax, 0xffff; mov ds, ax; mov [0x10], al; mov [0x14], ax; mov dx, 0x402; mov al, 3; out dx, al;
 * hlt: two writes from 0x100000, where there is no memory */
static const uint8_t bell_code[] = {0xb8, 0xff, 0xff, 0x8e, 0xd8, 0xa2, 0x10, 0x00, 0xa3,
                                    0x14, 0x00, 0xba, 0x02, 0x04, 0xb0, 3,    0xee, 0xf4};

static void test_bells(struct vcpu_state *s)
{
    int fd = eventfd(0, EFD_NONBLOCK);
    uint64_t count = 0, exits = counted(COUNT_MMIO);

    ok(vm.engine->bell(&vm, MiB, fd, true), "a bell is put up");
    ok(run_code(s, bell_code, sizeof bell_code) == 3 && read(fd, &count, 8) == 8 && count == 1 &&
           counted(COUNT_MMIO) - exits == 1,
       "a write there rings it without an exit, one beside it comes to us");
    ok(vm.engine->bell(&vm, MiB, fd, false) && run_code(s, bell_code, sizeof bell_code) == 3 &&
           read(fd, &count, 8) < 0 && counted(COUNT_MMIO) - exits == 3,
       "taken off, it rings no more");
    close(fd);
}

/* sti; hlt; jmp -3 */
static const uint8_t sleeper[] = {0xfb, 0xf4, 0xeb, 0xfd};
/* The handlers of vectors 0x40 and 0x41: mov dx, 0x402; mov al, 5 or 6; out dx, al; hlt */
static const uint8_t handler[] = {0xba, 0x02, 0x04, 0xb0, 5, 0xee, 0xf4,
                                  0xba, 0x02, 0x04, 0xb0, 6, 0xee, 0xf4};

/* A sleeping guest with its LAPIC on; what the interrupt that `fd` then sends makes it write. */
static unsigned interrupted(struct vcpu_state *s, int fd)
{
    const uint16_t ivt[] = {0x2000, 0, 0x2007, 0};
    uint64_t one = 1;

    vcpu_state_reset(s, true, 0);
    put_le32(s->lapic.regs + 0xf0, 0x1ff);
    if (mem_write(&mem, 0x100, ivt, sizeof ivt) || mem_write(&mem, 0x2000, handler, sizeof handler))
        return 0;
    start_code(s, sleeper, sizeof sleeper);
    if (fd >= 0)
        (void)!write(fd, &one, sizeof one);
    return wait_code();
}

static void test_lines(struct vcpu_state *s)
{
    struct msi msi = {.address = 0xfee00000, .data = 0x40};
    int fd = eventfd(0, EFD_NONBLOCK), other = eventfd(0, EFD_NONBLOCK);
    uint64_t count;

    ok(vm.engine->msi_fd(&vm, fd, &msi), "an eventfd gets a message");
    ok(interrupted(s, fd) == 5, "a write to it interrupts the guest");
    msi.data = 0x41;
    ok(vm.engine->msi_fd(&vm, fd, &msi) && interrupted(s, fd) == 6, "the message may change");
    msi.data = 0x40;
    ok(vm.engine->msi_fd(&vm, other, &msi) && interrupted(s, other) == 5 && interrupted(s, fd) == 6,
       "two have their own");
    ok(vm.engine->msi_fd(&vm, fd, NULL) && write(fd, &(uint64_t){1}, 8) == 8 &&
           read(fd, &count, 8) == 8,
       "without a message, what is written stays in it");
    (void)!write(fd, &(uint64_t){1}, 8);
    msi.data = 0x41;
    vcpu_state_reset(s, true, 0);
    put_le32(s->lapic.regs + 0xf0, 0x1ff);
    start_code(s, sleeper, sizeof sleeper);
    ok(vm.engine->msi_fd(&vm, fd, &msi) && wait_code() == 6, "and is sent when it gets one");
    vm.engine->msi_fd(&vm, other, NULL);
    close(fd); /* still bound: the engine's end must not mind */
    close(other);
}

/* mov edi, 0x1000000; mov ecx, 8192; 1: mov byte [edi], 1; add edi, 0x1000; dec ecx; jnz 1b; mov
 * dx, 0x402; mov al, 9; out dx, al; hlt */
static const uint8_t many_code[] = {
    0x66, 0xbf, 0, 0,    0, 1, 0x66, 0xb9, 0,    0x20, 0,    0,    0x67, 0xc6, 0x07, 0x01, 0x66,
    0x81, 0xc7, 0, 0x10, 0, 0, 0x66, 0x49, 0x75, 0xf1, 0xba, 0x02, 0x04, 0xb0, 9,    0xee, 0xf4};

static unsigned dirty_count(const struct mem_region *r)
{
    unsigned n = 0;

    for (unsigned i = 0; i < r->size / PAGE_SIZE / 64; i++)
        n += (unsigned)__builtin_popcountll(r->dirty[i]);
    return n;
}

/* More pages than a ring has entries. */
static void test_many_pages(struct vcpu_state *s)
{
    struct mem_region *r = &mem.region[1];

    vm.engine->dirty(&vm, r);
    memset(r->dirty, 0, r->size / PAGE_SIZE / 8);
    vcpu_state_reset(s, true, 0);
    s->seg[3].limit = 0xffffffff;
    start_code(s, many_code, sizeof many_code);
    ok(wait_code() == 9, "a guest writes 8192 pages");
    vm.engine->dirty(&vm, r);
    ok(dirty_count(r) == 8192, "all of them are dirty (%u), after %llu full lists", dirty_count(r),
       (unsigned long long)counted(COUNT_DIRTY));
    memset(r->dirty, 0, r->size / PAGE_SIZE / 8);
    vm.engine->dirty(&vm, r);
    ok(dirty_count(r) < 8, "and told once (%u)", dirty_count(r));
    vcpu_state_reset(s, true, 0);
    s->seg[3].limit = 0xffffffff;
    start_code(s, many_code, sizeof many_code);
    wait_code();
    vm.engine->dirty(&vm, r);
    ok(dirty_count(r) == 8192, "written again, they are dirty again");
    mem_log_stop(&mem);
    vm.engine->dirty(&vm, r);
    s->rip = 0x1000;
    start_code(s, many_code, sizeof many_code);
    ok(wait_code() == 9, "without a log the guest runs on");
}

/* mov ecx, 0x179; rdmsr; mov edi, eax; mov ecx, 0xce; rdmsr; or edi, eax; mov ecx, 0x3a; rdmsr; mov
 * esi, eax; mov ecx, 0x1234; rdmsr */
static const uint8_t msr_code[] = {0x66, 0xb9, 0x79, 1,    0, 0, 0x0f, 0x32, 0x66, 0x89, 0xc7,
                                   0x66, 0xb9, 0xce, 0,    0, 0, 0x0f, 0x32, 0x66, 0x09, 0xc7,
                                   0x66, 0xb9, 0x3a, 0,    0, 0, 0x0f, 0x32, 0x66, 0x89, 0xc6,
                                   0x66, 0xb9, 0x34, 0x12, 0, 0, 0x0f, 0x32};

/* MSRs that the kernel would answer otherwise: no banks of machine check, feature control locked.
 */
static void test_msrs(struct vcpu_state *s)
{
    const uint16_t ivt[] = {0x2000, 0};
    uint64_t exits = counted(COUNT_MSR);

    mem_write(&mem, 13 * 4, ivt, sizeof ivt);
    mem_write(&mem, 0x2000, handler, sizeof handler);
    ok(run_code(s, msr_code, sizeof msr_code) == 5, "an MSR that is not there is #GP");
    vm.engine->get(vm.cpu[0], s);
    ok((uint32_t)s->reg[7] == 0 && s->reg[6] == 1 && counted(COUNT_MSR) - exits == 4,
       "others answer as on the soft engine (%llx %llx)", (unsigned long long)s->reg[7],
       (unsigned long long)s->reg[6]);
}

/* What the PICs had handed over reaches the guest, though the state went out and in. */
static void test_acknowledged(struct vcpu_state *s)
{
    const uint16_t ivt[] = {0x2007, 0};

    mem_write(&mem, 0x30 * 4, ivt, sizeof ivt);
    mem_write(&mem, 0x2000, handler, sizeof handler);
    vcpu_state_reset(s, true, 0);
    s->rflags |= 0x200;
    s->interrupt_pending = true;
    s->interrupt_vector = 0x30;
    s->rip = 0x1000;
    vm.engine->set(vm.cpu[0], s, &(struct err){0});
    vm.engine->get(vm.cpu[0], s);
    ok(s->interrupt_pending && s->interrupt_vector == 0x30, "an acknowledged interrupt is state");
    start_code(s, sleeper, sizeof sleeper);
    ok(wait_code() == 6, "and is delivered");
}

static void test_tsc(struct vcpu_state *s)
{
    uint64_t before;

    usleep(1300000); /* KVM takes what is within a second for the same clock */
    vm.engine->get(vm.cpu[0], s);
    before = s->tsc;
    vcpu_state_reset(s, true, 0);
    vm.engine->set(vm.cpu[0], s, &(struct err){0});
    vm.engine->get(vm.cpu[0], s);
    ok(s->tsc < before, "a reset starts the TSC again (%llu, was %llu)", (unsigned long long)s->tsc,
       (unsigned long long)before);
}

static void close_vm(void)
{
    vm_close(&vm);
    mem_close(&mem);
    bus_close(&mmio);
    bus_close(&pio);
}

/* Older kernels have no ring of written pages. */
static void test_log(struct vcpu_state *s)
{
    struct err err;

    kvm_without_ring = true;
    ok(open_vm(&err), "a machine without a ring opens");
    test_run(s);
    test_many_pages(s);
    close_vm();
}

/* What is wrong with a host is one line that says what to do. */
static void test_refusals(bool device)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC), status = -1;
    struct err err;
    pid_t child;

    ok(!kvm_check_version(null, &err) && strstr(err.text, "is not KVM"), "no KVM: %s", err.text);
    ok(!kvm_check_capabilities(null, &err) && strstr(err.text, "no split irqchip") &&
           strstr(err.text, "too old"),
       "an old one: %s", err.text);
    ok(!kvm_refused(EBUSY, &err) && strstr(err.text, "another hypervisor"), "busy: %s", err.text);
    close(null);
    if (!device || getuid()) {
        ok(true, "a user who may not # SKIP needs /dev/kvm and root");
        return;
    }
    child = fork();
    if (child == 0) {
        bool refused =
            !setgroups(0, NULL) && !setgid(65534) && !setuid(65534) && kvm_open_device(&err) < 0;

        _exit(refused && strstr(err.text, "group kvm") ? 0
              : access("/dev/kvm", R_OK | W_OK)        ? 1
                                                       : 2);
    }
    waitpid(child, &status, 0);
    ok(status == 0 || (WIFEXITED(status) && WEXITSTATUS(status) == 2),
       "a user who may not open it is told the group%s", status ? " (here everyone may)" : "");
}

int main(void)
{
    struct vcpu_state *a = calloc(2, sizeof *a);
    struct err err, refusal;
    int fd = kvm_open_device(&refusal);

    test_choice(fd < 0 ? &refusal : NULL);
    test_refusals(fd >= 0);
    if (fd >= 0) {
        close(fd);
        ok(open_vm(&err), "a machine opens");
        test_state(a, a + 1);
        test_run(a);
        test_deferred(a);
        test_bells(a);
        test_lines(a);
        test_msrs(a);
        test_acknowledged(a);
        test_tsc(a);
        test_many_pages(a);
        close_vm();
        test_log(a);
    }
    free(a);
    return tap_done();
}
