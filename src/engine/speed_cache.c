/* SPDX-License-Identifier: MIT */
/* One small file, hull/kvm-speed in $XDG_CACHE_HOME, ~/.cache or $XDG_RUNTIME_DIR:
 *
 *   hull-kvm-speed 1
 *   KERNEL | KVM MODULE | PROCESSOR
 *   MIPS EXIT_NS
 *
 * It counts only if the folder and the file are this user's and nobody else may write to them, and
 * every line is as it should be. It is replaced whole, so readers see the old or the new one. */
#include "engine/speed_cache.h"
#include "engine/x86/model.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#define FILE_NAME "kvm-speed"
#define FIRST     "hull-kvm-speed 1\n"

/* Plausible values only, whatever the file says. */
#define MIPS_MAX 1000000u
#define NS_MAX   100000000u

static const char *kvm_module(void)
{
    static const char *const modules[] = {"kvm_intel", "kvm_amd", "kvm_pvm"};
    char path[64];

    for (unsigned i = 0; i < ARRAY_SIZE(modules); i++) {
        snprintf(path, sizeof path, "/sys/module/%s", modules[i]);
        if (!access(path, F_OK))
            return modules[i];
    }
    return "?";
}

/* One line, control characters made harmless. */
static void identity(char *line, size_t room)
{
    struct utsname host = {0};
    char vendor[13], brand[49];
    uint32_t signature;

    uname(&host);
    host_identity(vendor, &signature, brand);
    snprintf(line, room, "%.64s %.64s | %s | %s %x %s", host.release, host.version, kvm_module(),
             vendor, signature, brand);
    for (; *line; line++)
        if ((unsigned char)*line < 0x20)
            *line = '?';
}

static bool base_folder(char *path, size_t room)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME"),
               *run = getenv("XDG_RUNTIME_DIR");
    int len = 0;

    if (cache && *cache == '/')
        len = snprintf(path, room, "%s", cache);
    else if (home && *home == '/')
        len = snprintf(path, room, "%s/.cache", home);
    else if (run && *run == '/')
        len = snprintf(path, room, "%s", run);
    return len > 0 && (size_t)len < room;
}

static bool ours(int fd, mode_t type)
{
    struct stat st;

    return !fstat(fd, &st) && (st.st_mode & S_IFMT) == type && st.st_uid == geteuid() &&
           !(st.st_mode & 022);
}

/* The folder, made if it is to be written to; -1: none that can be trusted. */
static int open_folder(bool make)
{
    char base[3072], path[4096];
    int fd;

    if (!base_folder(base, sizeof base))
        return -1;
    snprintf(path, sizeof path, "%s/hull", base);
    if (make) {
        (void)mkdir(base, 0700);
        (void)mkdir(path, 0700);
    }
    fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0 && !ours(fd, S_IFDIR)) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static bool parse(const char *text, struct kvm_speed *speed)
{
    char expected[400], line[320];
    unsigned mips, exit_ns;
    int used = 0;
    size_t len;

    identity(line, sizeof line);
    len = (size_t)snprintf(expected, sizeof expected, FIRST "%s\n", line);
    if (len >= sizeof expected || strncmp(text, expected, len))
        return false;
    if (sscanf(text + len, "%9u %9u%n", &mips, &exit_ns, &used) != 2 ||
        strcmp(text + len + used, "\n") || !mips || mips > MIPS_MAX || exit_ns > NS_MAX)
        return false;
    speed->mips = mips;
    speed->exit_us = exit_ns / 1000.0;
    return true;
}

bool speed_cache_read(struct kvm_speed *speed)
{
    int folder = open_folder(false), fd = -1;
    char text[512];
    ssize_t got = -1;

    if (folder < 0)
        return false;
    /* O_NONBLOCK: a FIFO of that name must not stop us. */
    fd = openat(folder, FILE_NAME, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd >= 0 && ours(fd, S_IFREG))
        got = read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    close(folder);
    if (got < 0)
        return false;
    text[got] = 0;
    return strlen(text) == (size_t)got && parse(text, speed);
}

void speed_cache_write(const struct kvm_speed *speed)
{
    char line[320], text[512], name[32];
    int folder, fd, len;
    bool good;

    identity(line, sizeof line);
    len = snprintf(text, sizeof text, FIRST "%s\n%u %u\n", line,
                   (unsigned)(speed->mips < MIPS_MAX ? speed->mips : MIPS_MAX),
                   (unsigned)(speed->exit_us * 1000 < NS_MAX ? speed->exit_us * 1000 : NS_MAX));
    folder = open_folder(true);
    if (folder < 0 || (size_t)len >= sizeof text) {
        if (folder >= 0)
            close(folder);
        return;
    }
    snprintf(name, sizeof name, FILE_NAME ".%d", getpid());
    fd = openat(folder, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    good = fd >= 0 && write(fd, text, (size_t)len) == len;
    if (fd >= 0) {
        close(fd);
        if (!good || renameat(folder, name, folder, FILE_NAME))
            unlinkat(folder, name, 0);
    }
    close(folder);
}
