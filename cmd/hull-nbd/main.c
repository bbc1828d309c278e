/* SPDX-License-Identifier: MIT */
/* hull-nbd: the NBD server of a machine, in a process of its own, because what parses a network's
 * protocol does not live where a guest's memory is.
 *
 *   client -> talk (a thread each) -> link -> hull-vmm -> drive -> image
 *
 * hull-vmm starts it, with a socket and memory as descriptors 3 and 4, and tells it by that socket
 * where to listen and what to export. It ends with that socket. Its filter leaves it sockets, that
 * memory, and removing its own socket's name. */
#include "nbd.h"
#include "base/helper.h"
#include <errno.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

static struct server server = {.lock = PTHREAD_MUTEX_INITIALIZER,
                               .changed = PTHREAD_COND_INITIALIZER,
                               .link = HELPER_SOCKET_FD,
                               .listener = -1};

static const int allowed[] = {
    SCMP_SYS(socket),
    SCMP_SYS(bind),
    SCMP_SYS(listen),
    SCMP_SYS(accept4),
    SCMP_SYS(accept),
    SCMP_SYS(recvfrom),
    SCMP_SYS(sendto),
    SCMP_SYS(recvmsg),
    SCMP_SYS(sendmsg),
    SCMP_SYS(read),
    SCMP_SYS(write),
    SCMP_SYS(close),
    SCMP_SYS(shutdown),
    SCMP_SYS(setsockopt),
    SCMP_SYS(unlink),
    SCMP_SYS(poll),
    SCMP_SYS(brk),
    SCMP_SYS(munmap),
    SCMP_SYS(mremap),
    SCMP_SYS(madvise),
    SCMP_SYS(futex),
    SCMP_SYS(rseq),
    SCMP_SYS(set_robust_list),
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigaction),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(getpid),
    SCMP_SYS(gettid),
    SCMP_SYS(restart_syscall),
    SCMP_SYS(clock_gettime),
};

bool fence_enter(void)
{
    scmp_filter_ctx f = seccomp_init(SCMP_ACT_KILL_PROCESS);
    int bad = f ? 0 : -ENOMEM;

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        return false;
    for (unsigned i = 0; i < ARRAY_SIZE(allowed) && !bad; i++)
        bad = seccomp_rule_add(f, SCMP_ACT_ALLOW, allowed[i], 0);
    if (!bad)
        bad = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
                               SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0)) |
              seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
                               SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0)) |
              seccomp_attr_set(f, SCMP_FLTATR_CTL_TSYNC, 1);
    if (!bad)
        bad = seccomp_load(f);
    seccomp_release(f);
    return !bad;
}

/* Takes clients while the server serves. */
static void *serve_clients(void *arg)
{
    struct connection *c = arg;
    struct server *s = &server;

    pthread_mutex_lock(&s->lock);
    for (;;) {
        int listener = s->listener, fd;

        if (listener < 0) {
            pthread_cond_wait(&s->changed, &s->lock);
            continue;
        }
        pthread_mutex_unlock(&s->lock);
        fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        pthread_mutex_lock(&s->lock);
        if (fd < 0)
            continue;
        *c = (struct connection){.slot = c->slot, .fd = fd, .export = -1};
        pthread_mutex_unlock(&s->lock);
        talk(s, c);
        pthread_mutex_lock(&s->lock);
        c->fd = -1;
        close(fd);
    }
    return NULL;
}

int main(void)
{
    prctl(PR_SET_PDEATHSIG, 0);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGINT, SIG_IGN); /* Ctrl-C is the machine's */
    server.memory = mmap(NULL, (size_t)NBD_SLOTS * NBD_SLOT_SIZE, PROT_READ | PROT_WRITE,
                         MAP_SHARED, HELPER_MEMORY_FD, 0);
    if (server.memory == MAP_FAILED) {
        fprintf(stderr, "hull-nbd: hull-vmm starts this program; it is of no use alone\n");
        return 2;
    }
    for (unsigned i = 0; i < NBD_SLOTS; i++) {
        pthread_t t;

        server.connection[i] = (struct connection){.slot = i, .fd = -1};
        if (pthread_create(&t, NULL, serve_clients, &server.connection[i]))
            return 1;
    }
    if (!fence_enter())
        return 1;
    link_serve(&server);
    listen_stop(&server);
    _exit(0);
}
