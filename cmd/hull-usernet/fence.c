/* SPDX-License-Identifier: MIT */
/* The fence around hull-usernet, entered after the forwards are bound and before the first guest
 * frame:
 *
 *   1. files: Landlock leaves reading of resolv.conf's directories; where the kernel has none, a
 *      mount namespace of our own holds a copy of resolv.conf and nothing else; where neither is
 *      allowed, the filter still refuses every open for writing
 *   2. started by root: become nobody
 *   3. no capability, no new privileges
 *   4. a system call filter: an allow-list */
#include "usernet.h"
#include "base/log.h"
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { NOBODY = 65534 };

#define RESOLV_CONF "/etc/resolv.conf"

/* ---- files ---- */

static bool landlock_allow(int rules, const char *path)
{
    struct landlock_path_beneath_attr rule = {
        .allowed_access = LANDLOCK_ACCESS_FS_READ_FILE,
        .parent_fd = open(path, O_PATH | O_CLOEXEC),
    };
    bool added = rule.parent_fd >= 0 &&
                 syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) == 0;

    if (rule.parent_fd >= 0)
        close(rule.parent_fd);
    return added;
}

/* Directories, not the file: network managers replace resolv.conf while we run. */
static bool fence_landlock(void)
{
    struct landlock_ruleset_attr attr = {.handled_access_fs =
                                             (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1};
    int rules = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof attr, 0);
    char real[PATH_MAX], *slash;
    bool inside;

    if (rules < 0)
        return false;
    landlock_allow(rules, "/etc");
    if (realpath(RESOLV_CONF, real) && (slash = strrchr(real, '/')) && slash > real) {
        *slash = '\0';
        landlock_allow(rules, real);
    }
    inside = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
             syscall(SYS_landlock_restrict_self, rules, 0) == 0;
    close(rules);
    return inside;
}

static void write_text(const char *path, const char *text, size_t len)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);

    if (fd < 0)
        return;
    if (write(fd, text, len) != (ssize_t)len)
        log_warn("%s: %s", path, strerror(errno));
    close(fd);
}

/* Root needs no user namespace. In one, others are who they were, with rights over their own
 * namespaces only. */
static bool new_namespaces(void)
{
    char map[64];
    uid_t uid = geteuid();
    gid_t gid = getegid();

    if (unshare(CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS) == 0)
        return mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS) != 0)
        return false;
    write_text("/proc/self/setgroups", "deny", 4);
    write_text("/proc/self/uid_map", map, (size_t)snprintf(map, sizeof map, "%u %u 1", uid, uid));
    write_text("/proc/self/gid_map", map, (size_t)snprintf(map, sizeof map, "%u %u 1", gid, gid));
    return mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
}

/* A root of memory with a copy of resolv.conf in it. The copy does not follow later changes. */
static bool fence_namespace(void)
{
    static const char root[] = "/tmp";
    char text[16384];
    int fd = open(RESOLV_CONF, O_RDONLY | O_CLOEXEC);
    ssize_t len = fd >= 0 ? read(fd, text, sizeof text) : 0;

    if (fd >= 0)
        close(fd);
    if (!new_namespaces() ||
        mount("none", root, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=64k,mode=755") != 0)
        return false;
    if (chdir(root) != 0 || mkdir("etc", 0755) != 0)
        return false;
    write_text("etc/resolv.conf", text, len > 0 ? (size_t)len : 0);
    if (syscall(SYS_pivot_root, ".", ".") != 0 || umount2(".", MNT_DETACH) != 0 || chdir("/") != 0)
        return false;
    return mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC,
                 NULL) == 0;
}

/* ---- rights ---- */

static bool become_nobody(struct err *err)
{
    if (geteuid() != 0)
        return true;
    /* EINVAL: a user namespace that has no nobody; its root is an ordinary user outside. */
    if (setresuid(0, 0, NOBODY) != 0 && errno == EINVAL)
        return true;
    if (setgroups(0, NULL) != 0 || setresgid(NOBODY, NOBODY, NOBODY) != 0 ||
        setresuid(NOBODY, NOBODY, NOBODY) != 0)
        return err_set(err, errno, "cannot give up root's rights: %s", strerror(errno));
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a change of user clears it */
    return true;
}

static bool drop_capabilities(struct err *err)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[2] = {0};

    if (syscall(SYS_capset, &header, none) != 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return err_set(err, errno, "cannot drop capabilities: %s", strerror(errno));
    return true;
}

/* ---- system calls ---- */

static const int allowed[] = {
    /* the loop: waiting, and the link to the machine */
    SCMP_SYS(poll),
    SCMP_SYS(ppoll),
    SCMP_SYS(recvfrom),
    SCMP_SYS(sendto),
    /* libslirp's sockets: connections of the guest, accepted forwards */
    SCMP_SYS(connect),
    SCMP_SYS(accept),
    SCMP_SYS(accept4),
    SCMP_SYS(shutdown),
    SCMP_SYS(recvmsg),
    SCMP_SYS(sendmsg),
    SCMP_SYS(bind),
    SCMP_SYS(listen),
    SCMP_SYS(getsockname),
    SCMP_SYS(getpeername),
    SCMP_SYS(setsockopt),
    SCMP_SYS(getsockopt),
    SCMP_SYS(readv),
    SCMP_SYS(writev),
    /* reading resolv.conf (openat is below), log lines on stderr, and closing sockets */
    SCMP_SYS(read),
    SCMP_SYS(write),
    SCMP_SYS(close),
    SCMP_SYS(fstat),
    SCMP_SYS(newfstatat),
    SCMP_SYS(lseek),
    SCMP_SYS(fcntl),
    /* memory for libslirp's buffers */
    SCMP_SYS(brk),
    SCMP_SYS(munmap),
    SCMP_SYS(mremap),
    SCMP_SYS(madvise),
    /* clocks, where the vDSO cannot answer; GLib's locks; libslirp's random sequence numbers */
    SCMP_SYS(clock_gettime),
    SCMP_SYS(gettimeofday),
    SCMP_SYS(futex),
    SCMP_SYS(getrandom),
    /* signals and the end */
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(restart_syscall),
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
};

/* Only something that has taken us over asks for these. */
static const int deadly[] = {
    SCMP_SYS(execve),           SCMP_SYS(execveat),          SCMP_SYS(ptrace),
    SCMP_SYS(process_vm_readv), SCMP_SYS(process_vm_writev),
};

/* Calls that are allowed with some arguments only. */
static int add_conditional(scmp_filter_ctx f)
{
    int bad = 0;

    /* The guest's connections; ICMP goes through a datagram socket. No packet, netlink or UNIX
     * sockets. */
    bad |= seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1, SCMP_A0(SCMP_CMP_EQ, AF_INET));
    bad |= seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1, SCMP_A0(SCMP_CMP_EQ, AF_INET6));
    /* resolv.conf, for reading */
    bad |= seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(openat), 1,
                            SCMP_A2(SCMP_CMP_MASKED_EQ, O_ACCMODE | O_CREAT | O_TRUNC, O_RDONLY));
    /* how much a datagram socket holds */
    bad |= seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1, SCMP_A1(SCMP_CMP_EQ, FIONREAD));
    /* memory, but none that can be executed */
    bad |=
        seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1, SCMP_A2(SCMP_CMP_MASKED_EQ, 4, 0));
    bad |= seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
                            SCMP_A2(SCMP_CMP_MASKED_EQ, 4, 0));
    return bad;
}

static bool filter_calls(struct err *err)
{
    scmp_filter_ctx f = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    int bad = f ? 0 : -ENOMEM;

    for (unsigned i = 0; f && i < ARRAY_SIZE(allowed); i++)
        bad |= seccomp_rule_add(f, SCMP_ACT_ALLOW, allowed[i], 0);
    for (unsigned i = 0; f && i < ARRAY_SIZE(deadly); i++)
        bad |= seccomp_rule_add(f, SCMP_ACT_KILL_PROCESS, deadly[i], 0);
    if (f)
        bad |= add_conditional(f);
    if (!bad)
        bad = seccomp_load(f);
    seccomp_release(f);
    if (bad)
        return err_set(err, EPERM, "cannot set the system call filter");
    return true;
}

#ifdef __SANITIZE_ADDRESS__
/* The leak check at exit wants ptrace and threads, which the filter refuses. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_leaks=0";
}
#endif

bool fence_enter(struct err *err)
{
    if (!fence_landlock() && !fence_namespace())
        log_info("neither Landlock nor a mount namespace is to be had: files are fenced by the "
                 "filter only");
    return become_nobody(err) && drop_capabilities(err) && filter_calls(err);
}
