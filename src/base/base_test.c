/* SPDX-License-Identifier: MIT */
/* Errors keep within their buffer; log lines are whole, clean and limited. */
#include "base/err.h"
#include "base/helper.h"
#include "base/list.h"
#include "base/log.h"
#include "base/clock.h"
#include "tap.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static void test_err(void)
{
    struct err e = {0};
    char big[600];

    ok(!err_set(&e, ENOENT, "no '%s'", "x") && e.code == ENOENT && strcmp(e.text, "no 'x'") == 0,
       "err_set");
    ok(!err_wrap(&e, "disk%d", 3) && e.code == ENOENT && strcmp(e.text, "disk3: no 'x'") == 0,
       "err_wrap puts context in front");
    err_set(&e, EIO, "again %s", e.text);
    ok(strcmp(e.text, "again disk3: no 'x'") == 0, "an argument may be the error itself");
    memset(big, 'a', sizeof big);
    big[sizeof big - 1] = '\0';
    err_set(&e, EIO, "%s", big);
    ok(strlen(e.text) == sizeof e.text - 1, "a long text is cut");
    err_wrap(&e, "ctx");
    ok(strlen(e.text) == sizeof e.text - 1 && strncmp(e.text, "ctx: aaa", 8) == 0,
       "wrap of a full text");
    err_wrap(&e, "%s", big);
    ok(strlen(e.text) == sizeof e.text - 1 && e.text[0] == 'a', "wrap with a full context");
}

/* What the log wrote since the last call. */
static const char *captured(int fd)
{
    static char text[8192];
    ssize_t n = pread(fd, text, sizeof text - 1, 0);

    text[n < 0 ? 0 : n] = '\0';
    if (ftruncate(fd, 0) != 0 || lseek(fd, 0, SEEK_SET) != 0)
        abort();
    return text;
}

static unsigned lines(const char *text)
{
    unsigned n = 0;

    for (; *text; text++)
        n += *text == '\n';
    return n;
}

static void test_log(void)
{
    int keep = dup(2), fd = memfd_create("log", MFD_CLOEXEC);
    struct log_limit limit = {0};
    char big[3000];

    dup2(fd, 2);
    log_info("hidden");
    log_warn("shown %d", 1);
    ok(strcmp(captured(fd), "hull: warning: shown 1\n") == 0, "level and name");
    log_setup("vm1", LOG_DEBUG);
    log_raw_terminal(true);
    log_error("a\x1b[31m\nb");
    ok(strcmp(captured(fd), "vm1: error: a?[31m?b\r\n") == 0, "raw terminal, control characters");
    log_raw_terminal(false);
    memset(big, 'x', sizeof big);
    big[sizeof big - 1] = '\0';
    log_info("%s", big);
    ok(lines(captured(fd)) == 1, "a long line is cut, not split");
    for (int i = 0; i < 1000; i++)
        log_guest(&limit, "guest %d", i);
    ok(lines(captured(fd)) <= 10 && limit.dropped >= 990, "guest messages are limited");
    limit.window_ns = now_ns() - 2000000000;
    log_guest(&limit, "later");
    ok(strstr(captured(fd), "more messages") != NULL && limit.dropped == 0, "and the rest counted");
    dup2(keep, 2);
    close(keep);
    close(fd);
}

static void test_list(void)
{
    struct list head, a, b;
    unsigned n = 0;

    list_init(&head);
    list_add(&head, &a);
    list_add(&head, &b);
    ok(head.next == &a && head.prev == &b, "list keeps order");
    list_for_safe(i, &head)
    {
        list_remove(i);
        n++;
    }
    ok(n == 2 && list_empty(&head), "list_for_safe may remove");
}

static void test_helper(void)
{
    struct helper h;
    struct err err;
    char path[4096];
    int fd = -1;

    ok(!helper_find("hull-nowhere", path, sizeof path, &err) && strstr(err.text, "hull-nowhere"),
       "a program that is not there: %s", err.text);
    ok(!helper_start(&h, "hull-nowhere", (const char *const[]){NULL}, 4096, &err) && !h.size,
       "does not start");
    helper_end(&h);
    ok(helper_find("base_test", path, sizeof path, &err), "this one is found");
    ok(!helper_fd("link-fd", "77777", &fd, &err) && !helper_fd("link-fd", "2x", &fd, &err),
       "no descriptor: %s", err.text);
    ok(helper_channel("test", 4096, (int[2]){0}, &fd, &err) && ftruncate(fd, 0),
       "the memory cannot be shortened");
    close(fd);
}

int main(void)
{
    test_helper();
    test_err();
    test_log();
    test_list();
    ok(mul_div(UINT64_MAX, 3, 4) == UINT64_MAX / 4 * 3 + 2, "mul_div does not overflow");
    return tap_done();
}
