/* SPDX-License-Identifier: MIT */
/* What is left once the server is reached: the two sockets, memory, and the end of our children. A
 * server that takes us over gets no file, no program and no other connection. */
#include "remote.h"
#include <errno.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/prctl.h>

static const int allowed[] = {
    SCMP_SYS(poll),
    SCMP_SYS(ppoll),
    SCMP_SYS(recvfrom),
    SCMP_SYS(sendto),
    SCMP_SYS(recvmsg),
    SCMP_SYS(sendmsg),
    SCMP_SYS(read),
    SCMP_SYS(write),
    SCMP_SYS(readv),
    SCMP_SYS(writev),
    SCMP_SYS(close),
    SCMP_SYS(shutdown),
    SCMP_SYS(setsockopt),
    SCMP_SYS(getsockopt),
    SCMP_SYS(fcntl),
    SCMP_SYS(brk),
    SCMP_SYS(munmap),
    SCMP_SYS(mremap),
    SCMP_SYS(madvise),
    SCMP_SYS(futex),
    SCMP_SYS(clock_gettime),
    SCMP_SYS(getrandom),
    SCMP_SYS(getpid),
    SCMP_SYS(gettid),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigaction),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(restart_syscall),
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
    /* nbd_close: the child program ends, its socket's folder goes */
    SCMP_SYS(wait4),
    SCMP_SYS(unlink),
    SCMP_SYS(unlinkat),
    SCMP_SYS(rmdir),
    SCMP_SYS(fstat),
    SCMP_SYS(newfstatat),
    SCMP_SYS(gettimeofday),
};

static int add_conditional(scmp_filter_ctx f)
{
    const unsigned exec = 4;

    return seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
                            SCMP_A2(SCMP_CMP_MASKED_EQ, exec, 0)) |
           seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
                            SCMP_A2(SCMP_CMP_MASKED_EQ, exec, 0)) |
           seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(kill), 1, SCMP_A1(SCMP_CMP_EQ, SIGTERM));
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
    scmp_filter_ctx f;
    int bad;

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || !(f = seccomp_init(SCMP_ACT_ERRNO(EPERM))))
        return err_set(err, EPERM, "cannot set the system call filter");
    bad = add_conditional(f);
    for (unsigned i = 0; i < ARRAY_SIZE(allowed); i++)
        bad |= seccomp_rule_add(f, SCMP_ACT_ALLOW, allowed[i], 0);
    if (!bad)
        bad = seccomp_load(f);
    seccomp_release(f);
    return !bad || err_set(err, EPERM, "cannot set the system call filter");
}
