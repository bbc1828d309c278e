/* SPDX-License-Identifier: MIT */
/* Disks behind hull-remote: real servers (nbdkit, qemu-nbd), real foreign images (qemu-img). */
#include "block/block.h"
#include "block/image.h"
#include "tap.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SIZE = 5 << 20 };

static struct loop *loop;
static char dir[] = "/tmp/hull-remote-test.XXXXXX";
static uint8_t *data, *back;

static int sh(const char *format, ...)
{
    char text[1024];
    va_list args;
    int status;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    status = system(text);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static struct block *open_disk(const char *file, const char *format, bool readonly, struct err *err)
{
    struct block_config c = {.readonly = readonly, .discard = true};

    snprintf(c.file, sizeof c.file, "%s", file);
    snprintf(c.format, sizeof c.format, "%s", format);
    return block_open(loop, &c, err);
}

static const char *path(const char *format, const char *name)
{
    static char text[256];

    snprintf(text, sizeof text, format, dir, name);
    return text;
}

static void write_file(const char *name)
{
    FILE *f = fopen(path("%s/%s", name), "w");

    if (!f || fwrite(data, 1, SIZE, f) != SIZE || fclose(f))
        ok(false, "%s can be written", name);
}

static void test_writing(void)
{
    struct err err = {0};
    struct block *b = open_disk("nbdkit:memory 5M", "raw", false, &err);
    struct block_extent e;
    bool good;

    ok(b && b->size == SIZE && !b->readonly, "a disk in nbdkit's memory %s", err.text);
    if (!b)
        return;
    ok(!block_run(b, BLOCK_WRITE, 0, 0, data, SIZE), "all of it written, in several pieces");
    ok(!block_run(b, BLOCK_WRITE, BLOCK_REQ_FUA, 1 << 20, data, 512), "a sector, for sure");
    ok(!block_run(b, BLOCK_FLUSH, 0, 0, NULL, 0), "flushed");
    memcpy(data + (1 << 20), data, 512);
    ok(!block_run(b, BLOCK_READ, 0, 0, back, SIZE) && !memcmp(data, back, SIZE), "and read again");
    ok(!block_run(b, BLOCK_WRITE_ZEROES, BLOCK_REQ_UNMAP, 2 << 20, NULL, 1 << 20), "zeroes");
    memset(data + (2 << 20), 0, 1 << 20);
    ok(!block_run(b, BLOCK_DISCARD, 0, 2 << 20, NULL, 65536), "a discard");
    ok(!block_run(b, BLOCK_READ, 0, 0, back, SIZE) && !memcmp(data, back, SIZE), "are there");
    good = block_map(b, 2 << 20, 1 << 20, &e, &err);
    ok(good && e.zero && e.length == 1 << 20, "a hole is found: %llu bytes",
       (unsigned long long)e.length);
    ok(block_map(b, 0, SIZE, &e, &err) && e.data && e.length >= 512, "and data");
    ok(block_run(b, BLOCK_READ, 0, SIZE, back, 512) == -EINVAL, "beyond the end is nothing");
    block_close(b);
}

static void test_reading(void)
{
    static const char *const formats[] = {"vmdk", "vdi", "vhdx", "vpc"};
    struct err err = {0};
    struct block *b;

    write_file("disk");
    for (unsigned i = 0; i < ARRAY_SIZE(formats); i++) {
        const char *f = formats[i];

        /* A VHD's size is one of cylinders, heads and sectors, unless forced. */
        sh("qemu-img convert -f raw -O %s %s %s/disk %s/a,b.%s", f,
           strcmp(f, "vpc") ? "" : "-o force_size=on", dir, dir, f);
        b = open_disk(path("%s/a,b.%s", f), f, true, &err);
        ok(b && b->size == SIZE && !block_run(b, BLOCK_READ, 0, 0, back, SIZE) &&
               !memcmp(data, back, SIZE),
           "%s: reads as its source %s", f, b ? "" : err.text);
        block_close(b);
        ok(!open_disk(path("%s/a,b.%s", f), f, false, &err) && strstr(err.text, "readonly=on"),
           "%s: not for writing: %s", f, err.text);
    }
    ok(!open_disk(path("%s/%s", "disk"), "vmdk", true, &err) && strstr(err.text, "as vmdk"),
       "what is no vmdk is none: %s", err.text);
    b = open_disk(path("%s/%s", "a,b.vdi"), "", true, &err);
    ok(b && b->size == SIZE, "a format that the name says too is guessed");
    block_close(b);
    sh("mv %s/a,b.vdi %s/plain", dir, dir);
    ok(!open_disk(path("%s/%s", "plain"), "", true, &err) && strstr(err.text, "format=vdi"),
       "another is not: %s", err.text);
}

static void test_qcow2(void)
{
    struct err err = {0};
    char text[512];
    struct block *b;

    sh("qemu-img convert -f raw -O qcow2 -c %s/disk %s/q.qcow2", dir, dir);
    snprintf(text, sizeof text, "nbdkit:file %s/q.qcow2", dir);
    b = open_disk(text, "", true, &err);
    ok(b && b->size == SIZE && !block_run(b, BLOCK_READ, 0, 0, back, SIZE) &&
           !memcmp(data, back, SIZE),
       "a compressed qcow2 behind a server is found and reads well %s", b ? "" : err.text);
    block_close(b);
    sh("qemu-img create -q -f qcow2 -u -b nbd://127.0.0.1:1/ -F raw %s/over.qcow2 1M", dir);
    ok(!open_disk(path("%s/%s", "over.qcow2"), "qcow2", true, &err) &&
           strstr(err.text, "which is no file"),
       "a header cannot make us call a server: %s", err.text);
}

static void test_servers(void)
{
    struct err err = {0};
    char text[512];
    struct block *b;
    int first, second;

    sh("nbdkit -U %s/s -P %s/pid file %s/disk", dir, dir, dir);
    for (unsigned i = 0; i < 100 && access(path("%s/%s", "pid"), R_OK); i++)
        usleep(50000);
    snprintf(text, sizeof text, "nbd+unix:///?socket=%s/s", dir);
    b = open_disk(text, "raw", false, &err);
    ok(b && !block_run(b, BLOCK_READ, 0, 0, back, SIZE) && !memcmp(data, back, SIZE),
       "a server on a socket %s", b ? "" : err.text);
    sh("kill -9 $(cat %s/pid)", dir);
    first = b ? block_run(b, BLOCK_READ, 0, 0, back, 512) : 0;
    second = b ? block_run(b, BLOCK_WRITE, 0, 0, back, 512) : 0;
    ok(first == -EIO && second == -EIO, "that dies: errors from then on (%d, %d)", first, second);
    block_close(b);
    ok(!open_disk(text, "raw", true, &err) && strstr(err.text, text), "is gone: %s", err.text);
    ok(!open_disk("nbdkit:nothing", "raw", true, &err), "no such plugin: %s", err.text);
    ok(!open_disk("nbdkit:memory 1025", "raw", false, &err) && err.code == EROFS,
       "not for writing with half a sector: %s", err.text);
}

static unsigned helpers(void)
{
    return sh("test -z \"$(pgrep -f '[h]ull-remote.*%s')\"", dir) ? 1 : 0;
}

int main(void)
{
    struct err err;

    if (sh("command -v nbdkit qemu-img qemu-nbd >/dev/null")) {
        tap_skip("remote disks", "nbdkit or qemu-utils is missing");
        return tap_done();
    }
    loop = loop_open(&err);
    data = malloc(SIZE);
    back = malloc(SIZE);
    if (!loop || !data || !back || !mkdtemp(dir))
        return 1;
    for (unsigned i = 0; i < SIZE; i++)
        data[i] = (uint8_t)(i * 2654435761u >> 13);
    memset(data + (3 << 20), 0, 1 << 20);
    test_writing();
    test_reading();
    test_qcow2();
    test_servers();
    for (unsigned i = 0; i < 100 && helpers(); i++)
        usleep(50000);
    ok(!helpers(), "no helper is left");
    sh("rm -rf %s", dir);
    loop_close(loop);
    free(data);
    free(back);
    return tap_done();
}
