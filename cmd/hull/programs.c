/* SPDX-License-Identifier: MIT */
/* Starting hull's other programs, and leaving them what they need. */
#include "hull.h"
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

static void keep_only(const int *keep)
{
    /* Whoever started us may have left descriptors open that are no business of a machine. */
    close_range(STDERR_FILENO + 1, ~0u, CLOSE_RANGE_CLOEXEC);
    for (int i = 0; keep[i] >= 0; i++)
        fcntl(keep[i], F_SETFD, 0);
}

pid_t program_start(char *const argv[], const int *keep, struct err *err)
{
    return program_start_prepared(argv, keep, NULL, NULL, err);
}

pid_t program_start_prepared(char *const argv[], const int *keep, bool (*prepare)(void *arg),
                             void *arg, struct err *err)
{
    pid_t parent = getpid(), pid;
    sigset_t none;

    sigemptyset(&none);
    /* Without work in between, no copy of our page tables has to be made to be thrown away. */
    pid = prepare ? fork() : vfork();
    if (pid < 0)
        err_set(err, errno, "cannot start %s: %s", argv[0], strerror(errno));
    if (pid)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (prepare && !prepare(arg))
        _exit(EXIT_FAILED);
    if (getppid() != parent) /* it died before the lines above */
        _exit(EXIT_FAILED);
    sigprocmask(SIG_SETMASK, &none, NULL);
    keep_only(keep);
    execv(argv[0], argv);
    dprintf(STDERR_FILENO, "hull: cannot run %s: %s\n", argv[0], strerror(errno));
    _exit(EXIT_FAILED);
}
