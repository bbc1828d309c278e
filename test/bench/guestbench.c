/* SPDX-License-Identifier: MIT */
/* The benchmark's part inside the guest: a static program in the initramfs, the same for every VMM.
 *
 *   guestbench cpu                 a few loops, nanoseconds per round
 *   guestbench disk DEVICE         random 4 KiB reads on 8 threads, then sequential 1 MiB reads
 *   guestbench image DEVICE NAME   the same, and the same of writes
 *   guestbench net ADDRESS PORT    TCP to the host's sink, then from its source (port + 1)
 *   guestbench sink|source PORT    the other end, where nothing else is at hand; until it is killed
 *
 * Prints "bench NAME VALUE UNIT" lines. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <linux/fs.h>
#include <linux/sockios.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SECONDS 3.0
#define THREADS 8

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void report(const char *name, double value, const char *unit)
{
    printf("bench %s %.2f %s\n", name, value, unit);
    fflush(stdout);
}

/* ---- cpu ---- */

static volatile uint64_t sink;

static void alu(unsigned rounds)
{
    uint64_t a = 1, b = 3;

    for (unsigned i = 0; i < rounds * 1000; i++) {
        a = a * 5 + b;
        b ^= a >> 7;
        a += b << 3;
    }
    sink = a ^ b;
}

static unsigned fib(unsigned n)
{
    return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static void calls(unsigned rounds)
{
    for (unsigned i = 0; i < rounds; i++)
        sink += fib(15);
}

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return x < y ? -1 : x > y;
}

static void sorting(unsigned rounds)
{
    static uint32_t data[1024];

    for (unsigned i = 0; i < rounds; i++) {
        for (unsigned k = 0; k < 1024; k++)
            data[k] = (k * 2654435761u) ^ i;
        qsort(data, 1024, 4, compare);
        sink += data[0];
    }
}

static void copying(unsigned rounds)
{
    static char from[65536], to[65536];

    for (unsigned i = 0; i < rounds; i++) {
        memcpy(to, from, sizeof to);
        sink += (uint64_t)to[i % sizeof to];
    }
}

static void syscalls(unsigned rounds)
{
    for (unsigned i = 0; i < rounds * 100; i++)
        sink += (uint64_t)getppid();
}

static void floats(unsigned rounds)
{
    double x = 1.0, y = 0.5;

    for (unsigned i = 0; i < rounds * 1000; i++) {
        x = x * 1.0000001 + y;
        y = y * 0.999 + 0.001;
    }
    sink = (uint64_t)x;
}

static const struct {
    const char *name;
    void (*run)(unsigned rounds);
} loops[] = {
    {"cpu_alu", alu},         {"cpu_calls", calls},       {"cpu_sort", sorting},
    {"cpu_copy64k", copying}, {"cpu_syscalls", syscalls}, {"cpu_float", floats},
};

static void bench_cpu(void)
{
    for (unsigned i = 0; i < sizeof loops / sizeof loops[0]; i++) {
        unsigned rounds = 1, done = 0;
        double begin = now(), spent;

        do {
            loops[i].run(rounds);
            done += rounds;
            rounds *= 2;
            spent = now() - begin;
        } while (spent < 0.4);
        report(loops[i].name, spent / done * 1e9, "ns/round");
    }
}

/* ---- disk ---- */

static int disk;
static uint64_t disk_size;
static atomic_ullong finished;
static double deadline;

static bool writing;

static bool transfer(void *buffer, size_t size, uint64_t at)
{
    ssize_t n =
        writing ? pwrite(disk, buffer, size, (off_t)at) : pread(disk, buffer, size, (off_t)at);

    return n == (ssize_t)size;
}

static void *random_transfers(void *arg)
{
    uint64_t seed = (uint64_t)(uintptr_t)arg * 0x9e3779b97f4a7c15;
    void *buffer = NULL;

    if (posix_memalign(&buffer, 4096, 4096))
        return NULL;
    memset(buffer, (int)(uintptr_t)arg, 4096);
    while (now() < deadline) {
        seed = seed * 6364136223846793005 + 1442695040888963407;
        if (!transfer(buffer, 4096, (seed >> 16) % (disk_size / 4096) * 4096))
            break;
        finished++;
    }
    free(buffer);
    return NULL;
}

static void report_disk(const char *name, const char *what, double value, const char *unit)
{
    char text[64];

    snprintf(text, sizeof text, "%s_%s%s", name, what, strstr(what, "rand") ? "_4k" : "_1m");
    report(text, value, unit);
}

static void at_random(const char *name)
{
    pthread_t thread[THREADS];
    double begin = now();

    finished = 0;
    deadline = begin + SECONDS;
    for (uintptr_t i = 0; i < THREADS; i++)
        pthread_create(&thread[i], NULL, random_transfers, (void *)(i + 1));
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    report_disk(name, writing ? "randwrite" : "randread", (double)finished / (now() - begin),
                "iops");
}

static void in_order(const char *name)
{
    uint64_t bytes = 0;
    void *buffer = NULL;
    double begin = now();

    if (posix_memalign(&buffer, 4096, 1 << 20))
        return;
    memset(buffer, 0x5a, 1 << 20);
    while (now() < begin + SECONDS && transfer(buffer, 1 << 20, bytes % (disk_size & ~0xfffffULL)))
        bytes += 1 << 20;
    report_disk(name, writing ? "seqwrite" : "seqread", (double)bytes / (now() - begin) / 1e6,
                "MB/s");
    free(buffer);
}

static void bench_disk(const char *path, const char *name, bool write_too)
{
    disk = open(path, (write_too ? O_RDWR : O_RDONLY) | O_DIRECT);
    if (disk < 0 || ioctl(disk, BLKGETSIZE64, &disk_size)) {
        printf("bench error %s: %s\n", path, strerror(errno));
        return;
    }
    for (writing = false;; writing = true) {
        at_random(name);
        in_order(name);
        if (writing == write_too)
            break;
    }
    close(disk);
}

/* ---- net ---- */

static int dial(const char *address, int port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    inet_pton(AF_INET, address, &to.sin_addr);
    if (connect(fd, (struct sockaddr *)&to, sizeof to)) {
        printf("bench error connect %s:%d: %s\n", address, port, strerror(errno));
        return -1;
    }
    return fd;
}

/* What a slow peer has not acknowledged yet is not sent, and would slow what is measured next. */
static void drain(int fd)
{
    double limit = now() + 20;
    int left = 0;

    while (fd >= 0 && !ioctl(fd, SIOCOUTQ, &left) && left && now() < limit)
        usleep(1000);
}

static void bench_net(const char *address, int port)
{
    static char buffer[1 << 17];
    uint64_t bytes = 0;
    double begin = now();
    int fd = dial(address, port);
    ssize_t n;

    while (fd >= 0 && now() < begin + SECONDS && (n = write(fd, buffer, sizeof buffer)) > 0)
        bytes += (uint64_t)n;
    drain(fd);
    report("net_tcp_out", (double)bytes * 8 / (now() - begin) / 1e6, "Mbit/s");
    close(fd);
    fd = dial(address, port + 1);
    bytes = 0;
    begin = now();
    while (fd >= 0 && now() < begin + SECONDS && (n = read(fd, buffer, sizeof buffer)) > 0)
        bytes += (uint64_t)n;
    report("net_tcp_in", (double)bytes * 8 / (now() - begin) / 1e6, "Mbit/s");
    close(fd);
}

/* One connection after the other: swallows what comes, or pours until the other end has enough. */
static void serve(int port, int pours)
{
    static char buffer[1 << 17];
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int on = 1, fd, server = socket(AF_INET, SOCK_STREAM, 0);

    setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(server, (struct sockaddr *)&at, sizeof at) || listen(server, 1)) {
        printf("bench error serve %d: %s\n", port, strerror(errno));
        return;
    }
    while ((fd = accept(server, NULL, NULL)) >= 0) {
        while ((pours ? send(fd, buffer, sizeof buffer, MSG_NOSIGNAL)
                      : read(fd, buffer, sizeof buffer)) > 0)
            ;
        close(fd);
    }
}

int main(int argc, char **argv)
{
    if (argc == 2 && !strcmp(argv[1], "cpu"))
        bench_cpu();
    else if (argc == 3 && !strcmp(argv[1], "disk"))
        bench_disk(argv[2], "blk", false);
    else if (argc == 4 && !strcmp(argv[1], "image"))
        bench_disk(argv[2], argv[3], true);
    else if (argc == 4 && !strcmp(argv[1], "net"))
        bench_net(argv[2], atoi(argv[3]));
    else if (argc == 3 && (!strcmp(argv[1], "sink") || !strcmp(argv[1], "source")))
        serve(atoi(argv[2]), !strcmp(argv[1], "source"));
    else
        return 2;
    return 0;
}
