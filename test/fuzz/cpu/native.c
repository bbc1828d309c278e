/* SPDX-License-Identifier: MIT */
/* The host CPU as oracle: runs a case in this very process.
 *
 * The test's pages are mapped at their fixed addresses (an address of theirs is never the program's
 * own), a second view lets us fill them. IRETQ enters; every end is a signal, and the kernel's
 * signal frame holds the whole state: registers, vector, error code, CR2 and the XSAVE image. A
 * system call from test code would be real: seccomp turns it into a signal. */
#include "fuzz.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <asm/ldt.h>
#include <asm/prctl.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

/* In the order in which native_enter pops; the last five are IRETQ's. */
struct native_entry {
    uint64_t rax, rcx, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15;
    uint64_t rip, cs, rflags, rsp, ss;
};
void native_enter(const struct native_entry *regs, const void *xsave)
    __attribute__((visibility("hidden")));
_Noreturn void native_leave(void) __attribute__((visibility("hidden")));
void native_landing(void) __attribute__((visibility("hidden")));
void native_landed(void) __attribute__((visibility("hidden")));
void native_signal(int sig, siginfo_t *info, void *context) __attribute__((visibility("hidden")));
void native_on_signal(int sig, siginfo_t *info, void *context)
    __attribute__((visibility("hidden")));
extern const uint64_t native_landing_regs[17] __attribute__((visibility("hidden")));
extern const uint8_t native_landing_xsave[832] __attribute__((visibility("hidden")));

const uint8_t fuzz_perm[FUZZ_PAGES] = {
    [PAGE_CODE] = PERM_READ | PERM_EXEC,
    [PAGE_CODE + 1] = PERM_READ | PERM_EXEC,
    [PAGE_DATA] = PERM_READ | PERM_WRITE,
    [PAGE_DATA + 1] = PERM_READ | PERM_WRITE,
    [PAGE_RO] = PERM_READ,
    [PAGE_RW] = PERM_READ | PERM_WRITE,
    [PAGE_RO2] = PERM_READ,
    [PAGE_STACK] = PERM_READ | PERM_WRITE,
    [PAGE_STACK + 1] = PERM_READ | PERM_WRITE,
};

static struct native {
    uint8_t *view; /* all pages, writable */
    uint8_t *alt_stack;
    size_t alt_size;
    bool looked;
    uint16_t cs32;    /* selector for 32-bit code, 0: none */
    uint64_t fs_base; /* the program's own: TLS */
    uint64_t landing; /* where the running case's code ends: as if the fetch there had faulted */
    enum x86_mode landing_mode; /* which code the landing page holds */
    volatile bool fs_moved;     /* FS may be the test's; set before it is, cleared after it was */
    volatile bool running;
    volatile unsigned runs, ticked_run;
    struct fuzz_state *end;
} native = {.landing_mode = X86_MODE_16}; /* none written yet */

/* Without errno, so also where FS is the test's. */
static long raw_arch_prctl(int op, uint64_t value)
{
    long ret;

    __asm__ volatile("syscall"
                     : "=a"(ret)
                     : "0"((long)SYS_arch_prctl), "D"((long)op), "S"(value)
                     : "rcx", "r11", "memory");
    return ret;
}

void native_set_gs(uint64_t base)
{
    if (getauxval(AT_HWCAP2) & 2) /* FSGSBASE is for programs too */
        __asm__ volatile("wrgsbase %0" : : "r"(base));
    else
        raw_arch_prctl(ARCH_SET_GS, base);
}

static void copy_registers(struct fuzz_state *end, const greg_t *g)
{
    static const uint8_t from[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                     REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                     REG_R12, REG_R13, REG_R14, REG_R15};

    for (unsigned i = 0; i < 16; i++)
        end->reg[i] = (uint64_t)g[from[i]];
    end->rip = (uint64_t)g[REG_RIP];
    end->rflags = (uint64_t)g[REG_EFL];
    end->cs = (uint16_t)g[REG_CSGSFS];
    end->ss = (uint16_t)((uint64_t)g[REG_CSGSFS] >> 48);
}

/* The frame's XSAVE image. A component in its initial state may be left unwritten by the kernel. */
static void copy_fpu(struct fuzz_state *end, const uint8_t *image)
{
    uint64_t present;

    memcpy(&present, image + 512, 8);
    memcpy(end->xsave, image, 416);
    memset(end->xsave + 416, 0, sizeof end->xsave - 416);
    if (!(present & 1)) {
        memset(end->xsave, 0, 24);
        end->xsave[0] = 0x7f;
        end->xsave[1] = 0x03;
        memset(end->xsave + 32, 0, 128);
    }
    if (!(present & 2))
        memset(end->xsave + 160, 0, 256);
    if (present & 4)
        memcpy(end->xsave + 576, image + 576, 256);
}

/* A tick may come between any two instructions, so what FS holds is asked of the CPU: a flag alone
 * would be wrong on one side of the call that moves FS. Returns what it held. */
__attribute__((no_stack_protector)) static uint64_t take_fs(void)
{
    uint64_t was = 0;

    if (!native.fs_moved)
        return native.fs_base;

    raw_arch_prctl(ARCH_GET_FS, (uint64_t)&was);
    if (was != native.fs_base)
        raw_arch_prctl(ARCH_SET_FS, native.fs_base);
    return was;
}

__attribute__((no_stack_protector)) void native_on_signal(int sig, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    greg_t *g = uc->uc_mcontext.gregs;
    struct fuzz_state *end = native.end;
    uint64_t fs = take_fs();

    (void)info;
    if (sig == SIGALRM) { /* two ticks within one run: it loops */
        bool stuck = native.ticked_run == native.runs;

        native.ticked_run = native.runs;
        if (stuck && !native.running)
            guest_kick();
        if (!stuck || !native.running) {
            if (fs != native.fs_base)
                raw_arch_prctl(ARCH_SET_FS, fs);
            return;
        }
    } else if (!native.running && guest_died()) { /* in translated code: a difference to report */
        return;
    } else if (!native.running) { /* a fault of our own: let it kill us where it is */
        signal(sig, SIG_DFL);
        return;
    }
    native.running = false;
    copy_registers(end, g);
    copy_fpu(end, (const uint8_t *)uc->uc_mcontext.fpregs);
    end->vector = sig == SIGALRM  ? FUZZ_TIMEOUT
                  : sig == SIGSYS ? FUZZ_LOST
                                  : (uint8_t)g[REG_TRAPNO];
    end->error = (uint32_t)g[REG_ERR];
    end->cr2 = end->vector == 14 ? (uint64_t)g[REG_CR2] : 0;
    if (end->vector == 1 &&
        end->rip == (uint64_t)native_landing) { /* TF met our jump, not the fetch fault */
        end->rip = end->cr2 = native.landing;
        end->vector = 14;
        end->error = 0x14;
    }
    native_leave();
}

/* From native_landing: what the fault at the first byte behind the code would have shown. */
__attribute__((no_stack_protector)) void native_landed(void)
{
    static const uint8_t order[16] = {0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 4};
    struct fuzz_state *end = native.end;

    take_fs();
    native.running = false;
    end->rflags = native_landing_regs[0];
    for (unsigned i = 0; i < 16; i++)
        end->reg[order[i]] = native_landing_regs[1 + i];
    copy_fpu(end, native_landing_xsave);
    end->rip = end->cr2 = native.landing;
    end->vector = 14;
    end->error = 0x14;
    end->ss = FUZZ_DS;
    end->cs = native.landing_mode == X86_MODE_64 ? FUZZ_CS64 : native.cs32;
}

/* The page behind the code: in 64-bit mode a jump to native_landing, else a far jump to one. */
static void write_landing(enum x86_mode mode)
{
    uint8_t *page = native.view + (PAGE_CODE + 2) * 4096;
    uint64_t to = (uint64_t)native_landing;
    uint32_t low = (uint32_t)FUZZ_LOW + (PAGE_CODE + 2) * 4096 + 64;
    static const uint8_t jump[6] = {0xff, 0x25, 0, 0, 0, 0};

    if (native.landing_mode == mode)
        return;
    memset(page, 0xcc, 128);
    memcpy(page, jump, 6);
    memcpy(page + 6, &to, 8);
    if (mode != X86_MODE_64) {
        memcpy(page + 64, page, 14);
        page[0] = 0xea;
        memcpy(page + 1, &low, 4);
        page[5] = FUZZ_CS64, page[6] = 0;
    }
    native.landing_mode = mode;
}

static bool map_pages(int fd, uint64_t at, struct err *err)
{
    for (unsigned i = 0; i < FUZZ_PAGES; i++) {
        unsigned p = i == PAGE_CODE + 2 ? PERM_READ | PERM_EXEC : fuzz_perm[i];
        int prot = (p & PERM_READ ? PROT_READ : 0) | (p & PERM_WRITE ? PROT_WRITE : 0) |
                   (p & PERM_EXEC ? PROT_EXEC : 0);

        if (!p)
            continue;
        if (mmap((void *)(at + i * 4096), 4096, prot,
                 MAP_SHARED | MAP_FIXED_NOREPLACE | MAP_POPULATE, fd, i * 4096) == MAP_FAILED)
            return err_set(err, errno, "cannot map the test's pages at %#lx", (unsigned long)at);
    }
    return true;
}

/* System calls by code inside the test's pages raise SIGSYS; all others pass. */
static bool install_filter(struct err *err)
{
    const uint32_t ip = offsetof(struct seccomp_data, instruction_pointer);
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, ip),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xff000000u),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)FUZZ_LOW, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, ip + 4),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(FUZZ_HIGH >> 32), 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
    };
    struct sock_fprog program = {.len = sizeof code / sizeof code[0], .filter = code};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
        return err_set(err, errno, "cannot install the system call filter");
    return true;
}

static bool install_handlers(struct err *err)
{
    static const int signals[] = {SIGSEGV, SIGILL, SIGFPE, SIGTRAP, SIGBUS, SIGSYS, SIGALRM};
    struct sigaction sa = {.sa_sigaction = native_signal,
                           .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER | SA_RESTART};
    struct itimerval tick = {.it_interval.tv_usec = 100000, .it_value.tv_usec = 100000};
    stack_t stack;

    native.alt_size = 256 << 10;
    native.alt_stack =
        mmap(NULL, native.alt_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (native.alt_stack == MAP_FAILED)
        return err_set(err, errno, "no memory for the signal stack");
    stack = (stack_t){.ss_sp = native.alt_stack, .ss_size = native.alt_size};
    if (sigaltstack(&stack, NULL))
        return err_set(err, errno, "cannot use the signal stack");
    for (unsigned i = 0; i < sizeof signals / sizeof signals[0]; i++)
        if (sigaction(signals[i], &sa, NULL))
            return err_set(err, errno, "cannot catch signal %d", signals[i]);
    if (setitimer(ITIMER_REAL, &tick, NULL))
        return err_set(err, errno, "cannot start the watchdog");
    return true;
}

static bool selector_exists(unsigned selector)
{
    unsigned rights;
    bool exists;

    __asm__ volatile("lar %2, %0\n\tsetz %1" : "=r"(rights), "=q"(exists) : "r"(selector) : "cc");
    return exists;
}

/* A 32-bit code segment: the kernel's own, or one in an LDT. Some virtual machines have neither. */
static uint16_t find_cs32(void)
{
    struct user_desc code = {.entry_number = FUZZ_CS32_LDT >> 3,
                             .limit = 0xfffff,
                             .seg_32bit = 1,
                             .contents = MODIFY_LDT_CONTENTS_CODE,
                             .limit_in_pages = 1,
                             .useable = 1};

    if (selector_exists(FUZZ_CS32))
        return FUZZ_CS32;
    if (!syscall(SYS_modify_ldt, 1, &code, sizeof code) && selector_exists(FUZZ_CS32_LDT))
        return FUZZ_CS32_LDT;
    return 0;
}

uint16_t native_cs32(void)
{
    if (!native.looked) {
        native.looked = true;
        native.cs32 = find_cs32();
    }
    return native.cs32;
}

bool native_open(struct err *err)
{
    int fd = memfd_create("fuzz-cpu", MFD_CLOEXEC);
    bool good = false;

    native_cs32();
    if (fd < 0 || ftruncate(fd, FUZZ_PAGES * 4096))
        return err_set(err, errno, "cannot make the test's memory");
    native.view =
        mmap(NULL, FUZZ_PAGES * 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (native.view == MAP_FAILED) {
        err_set(err, errno, "cannot map the test's memory");
        goto close_fd;
    }
    if (raw_arch_prctl(ARCH_GET_FS, (uint64_t)&native.fs_base) ||
        raw_arch_prctl(ARCH_SET_GS, FUZZ_GS_BASE)) {
        err_set(err, EPERM, "cannot set the GS base");
        goto close_fd;
    }
    good = map_pages(fd, FUZZ_LOW, err) && map_pages(fd, FUZZ_HIGH, err) && install_handlers(err) &&
           install_filter(err);
close_fd:
    close(fd);
    return good;
}

void native_close(void)
{
    struct itimerval off = {0};

    setitimer(ITIMER_REAL, &off, NULL);
}

uint8_t *native_memory(void)
{
    return native.view;
}

void native_run(const struct fuzz_case *c, struct fuzz_state *end)
{
    const struct fuzz_state *s = &c->start;
    const struct native_entry entry = {
        .rax = s->reg[0],
        .rcx = s->reg[1],
        .rdx = s->reg[2],
        .rbx = s->reg[3],
        .rsp = s->reg[4],
        .rbp = s->reg[5],
        .rsi = s->reg[6],
        .rdi = s->reg[7],
        .r8 = s->reg[8],
        .r9 = s->reg[9],
        .r10 = s->reg[10],
        .r11 = s->reg[11],
        .r12 = s->reg[12],
        .r13 = s->reg[13],
        .r14 = s->reg[14],
        .r15 = s->reg[15],
        .rip = s->rip,
        .rflags = s->rflags,
        .cs = c->mode == X86_MODE_64 ? FUZZ_CS64 : native.cs32,
        .ss = FUZZ_DS,
    };

    native.end = end;
    native.runs++;
    native.landing = c->base + (PAGE_CODE + 2) * 4096;
    write_landing(c->mode);
    if (c->broken == FUZZ_BAD_CUT) /* it must not find its other half in the landing page */
        mprotect((void *)native.landing, 4096, PROT_NONE);
    native.fs_moved = c->use_fs;
    if (c->use_fs) /* FS is wrong from here to the end: nothing may use TLS */
        raw_arch_prctl(ARCH_SET_FS, FUZZ_FS_BASE);
    native.running = true;
    native_enter(&entry, s->xsave);
    native.fs_moved = false;
    if (c->broken == FUZZ_BAD_CUT)
        mprotect((void *)native.landing, 4096, PROT_READ | PROT_EXEC);
}
