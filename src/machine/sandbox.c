/* SPDX-License-Identifier: MIT */
/* What a machine's process may still do once the guest runs: three fences, from outside in.
 *
 *   user      an unprivileged uid, if started as root with --user
 *   files     Landlock: none can be opened any more; our own socket may be removed
 *   calls     seccomp: the list below, each with its reason; nothing executable is ever mapped
 *
 * Everything else that the machine uses is open before. no-new-privs is set first. */
#include "machine/machine.h"
#include <asm/prctl.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/kvm.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <linux/vhost.h>
#include <pwd.h>
#include <seccomp.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

bool sandbox_drop_user(const char *user, struct err *err)
{
    const struct passwd *p = getpwnam(user);

    if (!p)
        return err_set(err, EINVAL, "--user %s: there is no such user", user);
    if (geteuid())
        return p->pw_uid == getuid() ||
               err_set(err, EPERM, "--user %s: only root can change to another user", user);
    if (setgroups(0, NULL) || setgid(p->pw_gid) || setuid(p->pw_uid))
        return err_set(err, errno, "--user %s: %s", user, strerror(errno));
    return true;
}

/* ---- files ---- */

static int landlock_open(uint64_t handled)
{
    struct landlock_ruleset_attr attr = {.handled_access_fs = handled};

    return (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof attr, 0);
}

static bool landlock_allow(int rules, const char *path, uint64_t access, struct err *err)
{
    struct landlock_path_beneath_attr attr = {.allowed_access = access};
    bool good;

    attr.parent_fd = open(path, O_PATH | O_CLOEXEC);
    if (attr.parent_fd < 0)
        return err_set(err, errno, "%s: %s", path, strerror(errno));
    good = !syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &attr, 0) ||
           err_set(err, errno, "%s: cannot allow it in the sandbox: %s", path, strerror(errno));
    close(attr.parent_fd);
    return good;
}

/* Removing our own sockets at the end is the one change to the file system that is left. */
static bool allow_socket_folder(int rules, const char *socket, struct err *err)
{
    char dir[CONFIG_PATH];
    char *slash;

    snprintf(dir, sizeof dir, "%s", socket);
    slash = strrchr(dir, '/');
    if (slash)
        slash[slash == dir] = 0;
    return landlock_allow(rules, slash ? dir : ".", LANDLOCK_ACCESS_FS_REMOVE_FILE, err);
}

static bool allow_stream(int rules, const char *spec, struct err *err)
{
    return strncmp(spec, "unix:", 5) || allow_socket_folder(rules, spec + 5, err);
}

static bool allow_sockets(int rules, const struct config *c, struct err *err)
{
    const uint64_t images = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE |
                            LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_REMOVE_FILE;
    bool good = !c->qmp[0] || allow_socket_folder(rules, c->qmp, err);

    good = good && (!c->image_dir[0] || landlock_allow(rules, c->image_dir, images, err));

    good = good && (!c->vsock_socket[0] || allow_socket_folder(rules, c->vsock_socket, err));
    good = good && allow_stream(rules, c->serial, err) && allow_stream(rules, c->console, err);
    for (unsigned i = 0; good && i < c->port_count; i++)
        good = allow_socket_folder(rules, c->port[i].socket, err);
    return good;
}

/* `config` NULL: no file is left at all. */
static bool fence(const struct config *config, struct err *err)
{
    /* All rights of Landlock's first version, which every kernel with Landlock knows. */
    const uint64_t handled = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1;
    int rules;
    bool good;

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        return err_set(err, errno, "cannot set no-new-privs: %s", strerror(errno));
    rules = landlock_open(handled);
    if (rules < 0 && config && config->image_dir[0])
        return err_set(
            err, ENOTSUP,
            "--image-dir %s: this kernel has no Landlock, so nothing would confine block "
            "commands to it; --no-sandbox runs without",
            config->image_dir);
    if (rules < 0) {
        log_info("this kernel has no Landlock: the machine's process is fenced by seccomp alone");
        return true;
    }
    good = !config || allow_sockets(rules, config, err);
    if (good && syscall(SYS_landlock_restrict_self, rules, 0))
        good = err_set(err, errno, "cannot enter the file fence: %s", strerror(errno));
    close(rules);
    return good;
}

bool sandbox_fence(const struct config *config, struct err *err)
{
    return fence(config, err);
}

/* ---- system calls ---- */

static const struct {
    int call;
    const char *why;
} allowed[] = {
    /* the loop */
    {SCMP_SYS(epoll_wait), "waiting for events"},
    {SCMP_SYS(epoll_pwait), "the same"},
    {SCMP_SYS(epoll_pwait2), "the same, with nanoseconds"},
    {SCMP_SYS(epoll_ctl), "watching sockets as clients come and go"},
    {SCMP_SYS(timerfd_settime), "timers"},
    {SCMP_SYS(ppoll), "waiting for one descriptor"},
    {SCMP_SYS(poll), "the same"},
    /* data */
    {SCMP_SYS(read), "eventfds, signals, consoles, sockets"},
    {SCMP_SYS(write), "the same, and messages on stderr"},
    {SCMP_SYS(readv), "frames from the network"},
    {SCMP_SYS(writev), "frames to the network"},
    {SCMP_SYS(pread64), "disks without io_uring; the kernel file at a reboot"},
    {SCMP_SYS(preadv), "disks without io_uring"},
    {SCMP_SYS(pwrite64), "disks without io_uring"},
    {SCMP_SYS(pwritev), "disks without io_uring"},
    {SCMP_SYS(fdatasync), "flush without io_uring"},
    {SCMP_SYS(fsync), "flush"},
    {SCMP_SYS(fallocate), "discard"},
    {SCMP_SYS(ftruncate), "the files of a snapshot"},
    {SCMP_SYS(lseek), "loading the kernel at a reboot"},
    {SCMP_SYS(sendfile), "the same"},
    {SCMP_SYS(io_uring_enter), "disk I/O"},
    {SCMP_SYS(recvfrom), "QMP and console clients"},
    {SCMP_SYS(recvmsg), "the same"},
    {SCMP_SYS(sendto), "the same"},
    {SCMP_SYS(sendmsg), "the same"},
    {SCMP_SYS(accept4), "QMP and console clients"},
    {SCMP_SYS(shutdown), "ending a client's connection"},
    {SCMP_SYS(close), "clients that left"},
    {SCMP_SYS(unlink), "our own sockets at the end"},
    /* files that are open already */
    {SCMP_SYS(fstat), "the kernel file's size at a reboot"},
    {SCMP_SYS(newfstatat), "a disk's use of space for query-block"},
    {SCMP_SYS(fcntl), "descriptor flags of clients"},
    /* memory */
    {SCMP_SYS(brk), "malloc"},
    {SCMP_SYS(munmap), "malloc"},
    {SCMP_SYS(mremap), "malloc"},
    {SCMP_SYS(madvise), "memory given back by the balloon and by malloc"},
    /* threads */
    {SCMP_SYS(futex), "locks, sleeping vCPUs"},
    {SCMP_SYS(sched_yield), "spinning vCPUs"},
    {SCMP_SYS(set_robust_list), "a vCPU's thread that is still starting"},
    {SCMP_SYS(rseq), "the same"},
    {SCMP_SYS(membarrier), "ordering between vCPUs"},
    {SCMP_SYS(rt_sigaction), "the C library's abort path"},
    {SCMP_SYS(rt_sigprocmask), "thread start and abort"},
    {SCMP_SYS(rt_sigreturn), "returning from a handler"},
    {SCMP_SYS(sigaltstack), "the same"},
    {SCMP_SYS(restart_syscall), "a call that a stop interrupted"},
    {SCMP_SYS(exit), "a thread's end"},
    {SCMP_SYS(exit_group), "the process's end"},
    {SCMP_SYS(getpid), "abort"},
    {SCMP_SYS(gettid), "abort, and naming threads"},
    /* time and chance */
    {SCMP_SYS(clock_gettime), "where the vDSO cannot answer"},
    {SCMP_SYS(gettimeofday), "the same"},
    {SCMP_SYS(clock_nanosleep), "sleeping vCPUs"},
    {SCMP_SYS(nanosleep), "the same"},
    {SCMP_SYS(getrandom), "the guest's entropy"},
};

/* Memory may be mapped, never with PROT_EXEC. */
static int allow_memory(scmp_filter_ctx f)
{
    const struct scmp_arg_cmp no_exec = SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0);

    return seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1, no_exec) |
           seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1, no_exec);
}

/* Stands for our process id in a filter that was made before the process was. No process has it. */
#define OWN_PID 0x7ffffff1u

/* Signals only to ourselves: abort's tgkill, and kicking vCPU threads. */
static int allow_own_signals(scmp_filter_ctx f)
{
    const struct scmp_arg_cmp own = SCMP_A0(SCMP_CMP_EQ, OWN_PID);

    return seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1, own);
}

/* A vCPU's thread, which may still be starting, names itself and asks for precise timers. */
static int allow_prctl(scmp_filter_ctx f)
{
    return seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1,
                            SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME)) |
           seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1,
                            SCMP_A0(SCMP_CMP_EQ, PR_SET_TIMERSLACK));
}

/* The soft engine's translated code finds its vCPU through GS. */
static int allow_gs(scmp_filter_ctx f)
{
    return seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(arch_prctl), 1,
                            SCMP_A0(SCMP_CMP_EQ, ARCH_SET_GS));
}

static const uint32_t allowed_ioctls[] = {
    0x400454d0, /* TUNSETOFFLOAD: the guest's driver chose its offloads */
    0x400454d9, /* TUNSETQUEUE: multi-queue taps */
    0x5421,     /* FIONBIO */
    0x1277,     /* BLKDISCARD */
    0x127f,     /* BLKZEROOUT */
};

/* A machine on KVM: running, interrupts, eventfds of queues as their drivers come and go, dirty
 * pages, and the state of vCPUs for pause and reset. */
static const unsigned long kvm_ioctls[] = {
    KVM_RUN,
    KVM_INTERRUPT,
    KVM_SIGNAL_MSI,
    KVM_NMI,
    KVM_SET_GSI_ROUTING,
    KVM_SET_USER_MEMORY_REGION,
    KVM_RESET_DIRTY_RINGS,
    KVM_IRQFD,
    KVM_IOEVENTFD,
    KVM_GET_DIRTY_LOG,
    KVM_GET_REGS,
    KVM_SET_REGS,
    KVM_GET_SREGS,
    KVM_GET_SREGS2,
    KVM_SET_SREGS2,
    KVM_GET_XSAVE,
    KVM_SET_XSAVE,
    KVM_GET_XCRS,
    KVM_SET_XCRS,
    KVM_GET_DEBUGREGS,
    KVM_SET_DEBUGREGS,
    KVM_GET_LAPIC,
    KVM_SET_LAPIC,
    KVM_GET_MSRS,
    KVM_SET_MSRS,
    KVM_GET_VCPU_EVENTS,
    KVM_SET_VCPU_EVENTS,
    KVM_GET_MP_STATE,
    KVM_SET_MP_STATE,
};

/* Queues that the kernel serves: given to it and taken back as the driver comes and goes. */
static const unsigned long vhost_ioctls[] = {
    VHOST_SET_FEATURES,   VHOST_SET_MEM_TABLE,   VHOST_SET_VRING_NUM,     VHOST_SET_VRING_BASE,
    VHOST_GET_VRING_BASE, VHOST_SET_VRING_ADDR,  VHOST_SET_VRING_KICK,    VHOST_SET_VRING_CALL,
    VHOST_SET_VRING_ERR,  VHOST_NET_SET_BACKEND, VHOST_VSOCK_SET_RUNNING,
};

static int allow_list(scmp_filter_ctx f, const unsigned long *request, unsigned count)
{
    int bad = 0;

    for (unsigned i = 0; i < count; i++)
        bad |= seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
                                SCMP_A1(SCMP_CMP_EQ, request[i]));
    return bad;
}

static int allow_ioctls(scmp_filter_ctx f)
{
    int bad = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(allowed_ioctls); i++)
        bad |= seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
                                SCMP_A1(SCMP_CMP_EQ, allowed_ioctls[i]));
    return bad;
}

/* Images that block commands open: Landlock says which. */
static int allow_files(scmp_filter_ctx f)
{
    static const unsigned long ioctls[] = {0x80081272 /* BLKGETSIZE64 */, 0x127b /* BLKPBSZGET */,
                                           0x1268 /* BLKSSZGET */};

    return seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(openat), 0) |
           seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(statx), 0) |
           allow_list(f, ioctls, ARRAY_SIZE(ioctls));
}

static struct sandbox_needs made_for;
static struct sock_fprog program; /* len 0: not made yet */

static scmp_filter_ctx make_rules(const struct sandbox_needs *needs, int *bad)
{
    /* A refused call kills: it can only come from a hijacked process or a bug that tests must show.
     */
    scmp_filter_ctx f = seccomp_init(SCMP_ACT_KILL_PROCESS);

    *bad = f ? 0 : -ENOMEM;
    for (unsigned i = 0; !*bad && i < ARRAY_SIZE(allowed); i++)
        *bad = seccomp_rule_add(f, SCMP_ACT_ALLOW, allowed[i].call, 0);
    if (!*bad)
        *bad =
            allow_memory(f) | allow_own_signals(f) | allow_prctl(f) | allow_gs(f) | allow_ioctls(f);
    if (!*bad && needs->kvm)
        *bad = allow_list(f, kvm_ioctls, ARRAY_SIZE(kvm_ioctls));
    if (!*bad && needs->vhost)
        *bad = allow_list(f, vhost_ioctls, ARRAY_SIZE(vhost_ioctls));
    if (!*bad && needs->files)
        *bad = allow_files(f);
    return f;
}

/* libseccomp writes its program to a file only. */
static int export_program(scmp_filter_ctx f)
{
    int fd = memfd_create("hull-filter", MFD_CLOEXEC), bad = fd < 0 ? -errno : 0;
    off_t size;

    if (!bad)
        bad = seccomp_export_bpf(f, fd);
    size = bad ? 0 : lseek(fd, 0, SEEK_END);
    program.filter = size > 0 ? malloc((size_t)size) : NULL;
    if (program.filter && pread(fd, program.filter, (size_t)size, 0) == size)
        program.len = (unsigned short)((size_t)size / sizeof *program.filter);
    else if (!bad)
        bad = -ENOMEM;
    if (fd >= 0)
        close(fd);
    return bad;
}

bool sandbox_prepare(const struct sandbox_needs *needs, struct err *err)
{
    scmp_filter_ctx f;
    int bad;

    if (program.len && !memcmp(&made_for, needs, sizeof made_for))
        return true;
    free(program.filter);
    program = (struct sock_fprog){0};
    f = make_rules(needs, &bad);
    if (!bad)
        bad = export_program(f);
    seccomp_release(f);
    made_for = *needs;
    return !bad ||
           err_set(err, -bad, "cannot make the system call filter: %s; --no-sandbox runs without",
                   strerror(-bad));
}

bool sandbox_filter(const struct sandbox_needs *needs, struct err *err)
{
    if (!sandbox_prepare(needs, err))
        return false;
    for (unsigned i = 0; i < program.len; i++)
        if (program.filter[i].k == OWN_PID)
            program.filter[i].k = (uint32_t)getpid();
    return !syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) ||
           err_set(err, errno, "cannot enter the system call filter: %s; --no-sandbox runs without",
                   strerror(errno));
}

/* Landlock says nothing about connecting to a UNIX socket, so the dialer's code is what limits it;
 * the filter keeps that code to sockets of this family. */
bool sandbox_dialer(struct err *err)
{
    static const int calls[] = {SCMP_SYS(recvfrom),   SCMP_SYS(sendmsg),
                                SCMP_SYS(connect),    SCMP_SYS(close),
                                SCMP_SYS(exit_group), SCMP_SYS(restart_syscall)};
    scmp_filter_ctx f;
    int bad;

    if (!fence(NULL, err))
        return false;
    f = seccomp_init(SCMP_ACT_KILL_PROCESS);
    bad =
        f ? seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1, SCMP_A0(SCMP_CMP_EQ, AF_UNIX))
          : -ENOMEM;
    for (unsigned i = 0; !bad && i < ARRAY_SIZE(calls); i++)
        bad = seccomp_rule_add(f, SCMP_ACT_ALLOW, calls[i], 0);
    if (!bad)
        bad = seccomp_load(f);
    seccomp_release(f);
    return !bad || err_set(err, -bad, "no filter for the dialer: %s", strerror(-bad));
}
