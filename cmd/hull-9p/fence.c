/* SPDX-License-Identifier: MIT */
/* The fence around hull-9p, entered before the first request of the guest:
 *
 *   1. started by root with --user: become that user; without: keep root's rights over files and
 *      owners, and no others
 *   2. files: Landlock leaves what is below the directory, without the right to run anything or to
 *      make device nodes; and root also has it for its root directory
 *   3. no new privileges
 *   4. a system call filter: an allow-list
 *
 * None of these is what keeps the guest in its directory: server.h says what does. They are for the
 * day when that fails. */
#include "fence.h"
#include "base/log.h"
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <pwd.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Rights that are newer than the headers of Debian 12. */
#define FS_REFER     (1ULL << 13)
#define FS_TRUNCATE  (1ULL << 14)
#define FS_IOCTL_DEV (1ULL << 15)

/* ---- rights ---- */

static bool become(const char *user, const struct passwd *p, struct err *err)
{
    if (geteuid())
        return p->pw_uid == getuid() ||
               err_set(err, EPERM, "--user %s: only root can change to another user", user);
    if (setgroups(0, NULL) || setgid(p->pw_gid) || setuid(p->pw_uid))
        return err_set(err, errno, "--user %s: %s", user, strerror(errno));
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a change of user clears it */
    return true;
}

/* Root keeps what it needs to act for all users of the guest. */
static bool drop_capabilities(struct err *err)
{
    const uint32_t kept =
        geteuid() ? 0
                  : 1u << CAP_CHOWN | 1u << CAP_DAC_OVERRIDE | 1u << CAP_FOWNER | 1u << CAP_FSETID;
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct sets[2] = {{.effective = kept, .permitted = kept}};

    if (syscall(SYS_capset, &header, sets) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        return err_set(err, errno, "cannot drop capabilities: %s", strerror(errno));
    return true;
}

/* ---- files ---- */

static bool restrict_files(int root, bool readonly, struct err *err)
{
    const uint64_t read_only = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR;
    const uint64_t change = LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_DIR |
                            LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_DIR |
                            LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_SOCK |
                            LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_SYM | FS_REFER |
                            FS_TRUNCATE;
    long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    struct landlock_ruleset_attr attr = {.handled_access_fs =
                                             (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1};
    struct landlock_path_beneath_attr beneath = {.parent_fd = root};
    int rules;
    bool good;

    /* The first version has no right to move files between directories, only a ban on it. */
    if (version < 2) {
        log_info("this kernel has no Landlock that allows renaming: files are fenced by our code "
                 "and the filter only");
        return true;
    }
    attr.handled_access_fs |=
        FS_REFER | (version >= 3 ? FS_TRUNCATE : 0) | (version >= 5 ? FS_IOCTL_DEV : 0);
    beneath.allowed_access = (readonly ? read_only : read_only | change) & attr.handled_access_fs;
    rules = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof attr, 0);
    good = rules >= 0 &&
           !syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &beneath, 0) &&
           !syscall(SYS_landlock_restrict_self, rules, 0);
    if (rules >= 0)
        close(rules);
    return good || err_set(err, errno, "cannot enter the file fence: %s", strerror(errno));
}

/* /proc/self/fd stays the working directory: its names still work there, below a new root. */
bool fence_files(int root, bool readonly, const char *user, struct err *err)
{
    const struct passwd *p = user ? getpwnam(user) : NULL;
    int work = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);

    if (user && !p)
        return err_set(err, EINVAL, "--user %s: there is no such user", user);
    if (!geteuid() && (fchdir(root) || chroot(".") || fchdir(work)))
        log_info("cannot change the root directory: %s", strerror(errno));
    close(work);
    if (p && !become(user, p, err))
        return false;
    return drop_capabilities(err) && restrict_files(root, readonly, err);
}

/* ---- system calls ---- */

static const int allowed[] = {
    /* the link */
    SCMP_SYS(recvfrom),
    SCMP_SYS(sendto),
    /* walking: the flags and names are ours, what it may reach is the kernel's promise */
    SCMP_SYS(openat2),
    SCMP_SYS(close),
    SCMP_SYS(fstat),
    SCMP_SYS(newfstatat),
    SCMP_SYS(statx),
    SCMP_SYS(fstatfs),
    SCMP_SYS(readlinkat),
    /* contents */
    SCMP_SYS(pread64),
    SCMP_SYS(pwrite64),
    SCMP_SYS(ftruncate),
    SCMP_SYS(fsync),
    SCMP_SYS(fdatasync),
    SCMP_SYS(lseek),
    SCMP_SYS(getdents64),
    /* names */
    SCMP_SYS(mkdirat),
    SCMP_SYS(mknodat),
    SCMP_SYS(symlinkat),
    SCMP_SYS(linkat),
    SCMP_SYS(renameat),
    SCMP_SYS(unlinkat),
    /* attributes */
    SCMP_SYS(fchmodat),
    SCMP_SYS(fchownat),
    SCMP_SYS(fchown),
    SCMP_SYS(utimensat),
    SCMP_SYS(getxattr),
    SCMP_SYS(setxattr),
    SCMP_SYS(listxattr),
    SCMP_SYS(removexattr),
    /* messages on stderr, and the C library's */
    SCMP_SYS(write),
    SCMP_SYS(brk),
    SCMP_SYS(munmap),
    SCMP_SYS(mremap),
    SCMP_SYS(madvise),
    SCMP_SYS(futex),
    SCMP_SYS(clock_gettime),
    SCMP_SYS(set_robust_list), /* a thread that is still starting */
    SCMP_SYS(rseq),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(sigaltstack),
    SCMP_SYS(restart_syscall),
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
};

/* Calls that are allowed with some arguments only. */
static int add_conditional(scmp_filter_ctx f, int proc)
{
    int bad = 0;

    /* opening again, by /proc/self/fd: nothing is created there */
    bad |= seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(openat), 2,
                            SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)proc),
                            SCMP_A2(SCMP_CMP_MASKED_EQ, O_CREAT | O_PATH, 0));
    /* memory, but none that can be executed */
    bad |=
        seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1, SCMP_A2(SCMP_CMP_MASKED_EQ, 4, 0));
    bad |= seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
                            SCMP_A2(SCMP_CMP_MASKED_EQ, 4, 0));
    return bad;
}

bool fence_calls(int proc, struct err *err)
{
    scmp_filter_ctx f = seccomp_init(SCMP_ACT_KILL_PROCESS);
    int bad = f ? seccomp_attr_set(f, SCMP_FLTATR_CTL_TSYNC, 1) : -ENOMEM;

    for (unsigned i = 0; !bad && i < ARRAY_SIZE(allowed); i++)
        bad = seccomp_rule_add(f, SCMP_ACT_ALLOW, allowed[i], 0);
    if (!bad)
        bad = add_conditional(f, proc);
    if (!bad)
        bad = seccomp_load(f);
    seccomp_release(f);
    return !bad || err_set(err, -bad, "cannot set the system call filter: %s", strerror(-bad));
}

#ifdef __SANITIZE_ADDRESS__
/* The leak check at exit wants ptrace and threads, which the filter refuses. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_leaks=0";
}
#endif
