/* SPDX-License-Identifier: MIT */
/* What is remembered of KVM's speed: it comes back, and nothing odd in its place is believed,
 * followed or waited for. */
#include "engine/choose.h"
#include "engine/speed_cache.h"
#include "tap.h"
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char base[64], folder[80], file[96], good[512];

static void put(const char *text, size_t len)
{
    int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC, 0600);

    if (fd < 0 || write(fd, text, len) != (ssize_t)len)
        printf("# cannot write %s\n", file);
    close(fd);
}

static void get(char *text, size_t room)
{
    int fd = open(file, O_RDONLY);
    ssize_t got = fd < 0 ? 0 : read(fd, text, room - 1);

    text[got < 0 ? 0 : got] = 0;
    if (fd >= 0)
        close(fd);
}

static bool believed(void)
{
    struct kvm_speed s = {0};

    return speed_cache_read(&s) && s.mips == 4321 && s.exit_us > 1.49 && s.exit_us < 1.51;
}

static void test_round_trip(void)
{
    struct kvm_speed s = {4321.7, 1.5};
    struct stat st = {0};

    ok(!believed(), "nothing is remembered at first");
    speed_cache_write(&s);
    ok(believed(), "what was measured comes back");
    ok(!stat(file, &st) && (st.st_mode & 07777) == 0600, "the file is its owner's");
    speed_cache_write(&s);
    ok(believed(), "and is replaced");
    get(good, sizeof good);
}

static void refuses(const char *what, const char *text, size_t len)
{
    put(text, len);
    ok(!believed(), "%s", what);
}

static void test_content(void)
{
    char text[sizeof good + 64], *last;
    size_t len = strlen(good);

    put(good, len);
    ok(believed(), "the file as it was");
    refuses("empty", "", 0);
    for (size_t cut = 1; cut < len; cut += 7) {
        put(good, len - cut);
        if (believed())
            ok(false, "%zu bytes short", cut);
    }
    memcpy(text, good, len + 1);
    text[20]++;
    refuses("another kernel", text, len);
    memcpy(text, good, len + 1);
    last = strrchr(text, ' ');
    strcpy(last, " -1500\n");
    refuses("a negative number", text, strlen(text));
    strcpy(last, " 99999999999999999999\n");
    refuses("a number too large", text, strlen(text));
    strcpy(last, " 1500\nmore\n");
    refuses("more lines", text, strlen(text));
    memcpy(text, good, len + 1);
    text[len] = 0;
    refuses("a NUL at the end", text, len + 1);
    memset(text, 'x', sizeof text);
    refuses("garbage", text, sizeof text);
}

static void test_places(void)
{
    char other[96];

    put(good, strlen(good));
    chmod(file, 0666);
    ok(!believed(), "a file that others may write");
    chmod(file, 0600);
    chmod(folder, 0777);
    ok(!believed(), "a folder that others may write");
    chmod(folder, 0700);
    ok(believed(), "both as they should be");
    snprintf(other, sizeof other, "%s/other", base);
    rename(file, other);
    ok(!symlink(other, file) && !believed(), "a symbolic link");
    unlink(file);
    ok(!mkfifo(file, 0600) && !believed(), "a FIFO, without waiting for it");
    unlink(file);
    ok(!mkdir(file, 0700) && !believed(), "a folder of that name");
    speed_cache_write(&(struct kvm_speed){4321, 1.5});
    ok(!believed(), "which cannot be replaced, and nothing breaks");
    rmdir(file);
    unlink(other);
    ok(!rmdir(folder), "nothing is left behind");
    setenv("XDG_CACHE_HOME", "relative", 1);
    unsetenv("HOME");
    unsetenv("XDG_RUNTIME_DIR");
    speed_cache_write(&(struct kvm_speed){4321, 1.5});
    ok(!believed(), "no place for it: no matter");
}

static void test_choice(void)
{
    struct engine_choice choice;
    struct kvm_speed speed;
    struct err err;
    bool measured = engine_measure(&speed, &err);

    ok(engine_choose("auto", &choice, &err) && choice.reason[0], "auto: %s", choice.reason);
    ok((choice.ops == &kvm_engine) == (measured && speed.mips >= HARDWARE_MIPS),
       "it is KVM where that is hardware's");
    ok(choice.second_best == (choice.ops != &kvm_engine), "and worth telling where it is not");
    ok(engine_choose("soft", &choice, &err) && !choice.second_best,
       "who asks for soft is not told");
}

int main(void)
{
    strcpy(base, "/tmp/hull-choose-XXXXXX");
    if (!mkdtemp(base))
        return 1;
    snprintf(folder, sizeof folder, "%s/hull", base);
    snprintf(file, sizeof file, "%s/kvm-speed", folder);
    setenv("XDG_CACHE_HOME", base, 1);
    test_round_trip();
    test_content();
    test_places();
    test_choice();
    rmdir(base);
    return tap_done();
}
