/* SPDX-License-Identifier: MIT */
/* gbench: rows that go through the kernel. They use no file system but memory's own. */
#include "gbench.h"
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void getppid_row(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        syscall(SYS_getppid);
}

static void clock_row(uint64_t n)
{
    struct timespec t;

    for (uint64_t i = 0; i < n; i++) {
        clock_gettime(CLOCK_MONOTONIC, &t);
        gbench_sink += (uint64_t)t.tv_nsec;
    }
}

static volatile sig_atomic_t caught;

static void on_signal(int s)
{
    caught += s > 0;
}

static bool signal_prepare(void)
{
    return signal(SIGUSR1, on_signal) != SIG_ERR;
}

static void signal_row(uint64_t n)
{
    pid_t pid = getpid(), tid = gettid();

    for (uint64_t i = 0; i < n; i++)
        syscall(SYS_tgkill, pid, tid, SIGUSR1);
}

/* ---- memory management ---- */

#define PAGES 256

/* First touch of anonymous memory, 256 pages for each mmap and munmap. */
static void fault_row(uint64_t n)
{
    while (n > 0) {
        unsigned pages = n < PAGES ? (unsigned)n : PAGES;
        uint8_t *p =
            mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        if (p == MAP_FAILED)
            return;
        for (unsigned i = 0; i < pages; i++)
            ((volatile uint8_t *)p)[i * 4096] = 1;
        munmap(p, PAGES * 4096);
        n -= pages;
    }
}

static uint8_t *page;

static bool protect_prepare(void)
{
    page =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    return page != MAP_FAILED;
}

static void protect_row(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        mprotect(page, 4096, PROT_READ);
        mprotect(page, 4096, PROT_READ | PROT_WRITE);
        *(volatile uint8_t *)page = (uint8_t)i;
    }
}

/* ---- processes ---- */

static void fork_row(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        pid_t pid = fork();
        int status;

        if (pid == 0)
            _exit(0);
        if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
            abort();
    }
}

__attribute__((noinline)) static pid_t start_self(void)
{
    char *const args[] = {(char *)(uintptr_t)gbench_self, (char *)(uintptr_t) "--nothing", NULL};
    pid_t pid = vfork();

    if (pid == 0) {
        execv(gbench_self, args);
        _exit(127);
    }
    return pid;
}

static void exec_row(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        pid_t pid = start_self();
        int status;

        if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
            abort();
    }
}

/* ---- files and pipes ---- */

static int ends[4], file = -1;

/* A byte to another process and back. */
static void pipe_row(uint64_t n)
{
    char c = 0;
    pid_t pid;
    int status;

    if (pipe(ends) || pipe(ends + 2) || (pid = fork()) < 0)
        abort();
    if (pid == 0) {
        close(ends[1]);
        close(ends[2]);
        while (read(ends[0], &c, 1) == 1 && write(ends[3], &c, 1) == 1)
            ;
        _exit(0);
    }
    for (uint64_t i = 0; i < n; i++)
        if (write(ends[1], &c, 1) != 1 || read(ends[2], &c, 1) != 1)
            abort();
    close(ends[1]);
    waitpid(pid, &status, 0);
    close(ends[0]);
    close(ends[2]);
    close(ends[3]);
}

static bool pread_prepare(void)
{
    static char data[65536];

    file = memfd_create("gbench", 0);
    return file >= 0 && write(file, data, sizeof data) == sizeof data;
}

static void pread_row(uint64_t n)
{
    static char buffer[4096];

    for (uint64_t i = 0; i < n; i++)
        gbench_sink += (uint64_t)pread(file, buffer, 4096, (off_t)(i % 16 * 4096));
}

static bool open_prepare(void)
{
    int fd = open("/dev/null", O_RDONLY);

    close(fd);
    return fd >= 0;
}

static void open_row(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        close(open("/dev/null", O_RDONLY));
}

const struct row gbench_sys[] = {
    {"getppid", "system", getppid_row, NULL},
    {"clock_gettime", "system", clock_row, NULL},
    {"signal", "system", signal_row, signal_prepare},
    {"pagefault", "system", fault_row, NULL},
    {"mprotect2+w", "system", protect_row, protect_prepare},
    {"pipe_rt", "system", pipe_row, NULL},
    {"pread4K", "system", pread_row, pread_prepare},
    {"open+close", "system", open_row, open_prepare},
    {"fork+wait", "system", fork_row, NULL},
    {"vfork+exec", "system", exec_row, NULL},
    {NULL, NULL, NULL, NULL},
};
