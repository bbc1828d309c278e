/* SPDX-License-Identifier: MIT */
/* File requests by both ways, io_uring and threads: same results, woken from sleep, nothing lost.
 */
#include "loop/uring.h"
#include "base/clock.h"
#include "tap.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define MANY  2000
#define BLOCK 4096

struct job {
    struct file_req req;
    struct iovec iov[2];
    unsigned done;
    int result;
};

static struct loop *l;
static struct err e;
static bool in_submit, done_in_submit;
static unsigned total_done;

static void job_done(struct file_req *req, int result)
{
    struct job *j = container_of(req, struct job, req);

    done_in_submit |= in_submit;
    j->done++;
    j->result = result;
    total_done++;
}

static void submit(struct job *j, enum file_op op, int fd, uint64_t offset, void *buf, size_t len)
{
    j->req.op = op;
    j->req.fd = fd;
    j->req.offset = offset;
    j->req.length = len;
    if (buf != NULL) {
        j->iov[0] = (struct iovec){buf, len};
        j->req.iov_count = 1;
    }
    j->req.iov = j->iov;
    j->req.done = job_done;
    in_submit = true;
    file_submit(l, &j->req);
    in_submit = false;
}

static int result_of(struct job *j)
{
    while (j->done == 0)
        loop_turn(l, UINT64_MAX);
    return j->result;
}

static int one(enum file_op op, int fd, uint64_t offset, void *buf, size_t len)
{
    struct job j = {0};

    if (op == FILE_FALLOCATE)
        j.req.mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    submit(&j, op, fd, offset, buf, len);
    return result_of(&j);
}

static void test_ops(int fd)
{
    char out[BLOCK * 2], in[BLOCK * 2];
    struct job v = {0};

    memset(out, 'w', sizeof out);
    ok(one(FILE_WRITE, fd, 0, out, sizeof out) == sizeof out, "write");
    ok(one(FILE_READ, fd, 0, in, sizeof in) == sizeof in && memcmp(in, out, sizeof in) == 0,
       "read");
    ok(one(FILE_READ, fd, BLOCK, in, sizeof in) == BLOCK, "short read at the end");
    ok(one(FILE_READ, fd, 1 * MiB, in, 1) == 0, "read past the end");
    ok(one(FILE_FSYNC, fd, 0, NULL, 0) == 0, "fsync");
    ok(one(FILE_FALLOCATE, fd, 0, NULL, BLOCK) == 0, "punch a hole");
    one(FILE_READ, fd, 0, in, sizeof in);
    ok(in[0] == 0 && in[BLOCK - 1] == 0 && in[BLOCK] == 'w', "the hole reads as zero");
    ok(one(FILE_READ, -1, 0, in, 1) == -EBADF, "bad descriptor");
    v.iov[1] = (struct iovec){in + 3, 5};
    submit(&v, FILE_READ, fd, BLOCK - 3, in, 3);
    v.req.iov_count = 2;
    ok(result_of(&v) == 8 && memcmp(in, "\0\0\0wwwww", 8) == 0, "two buffers");
}

static void test_sleep(void)
{
    struct job j = {0};
    char byte;
    int p[2];
    uint64_t start = now_ns();

    if (pipe(p) != 0)
        return;
    submit(&j, FILE_READ, p[0], UINT64_MAX, &byte,
           1); /* -1: no position, waits for the other end */
    loop_turn(l, 1000000);
    if (loop_has_uring(l)) {
        ok(j.done == 0, "a read that waits does not stop the loop");
        ok(write(p[1], "z", 1) == 1 && result_of(&j) == 1 && byte == 'z', "its end wakes the loop");
    } else {
        ok(result_of(&j) == -ESPIPE || j.result == -EINVAL, "threads: pipes have no positions (%d)",
           j.result);
    }
    ok(now_ns() - start < 5000000000, "in time");
    close(p[0]);
    close(p[1]);
}

static void test_many(int fd)
{
    static struct job jobs[MANY];
    static char buf[MANY][16];
    unsigned wrong = 0;

    memset(jobs, 0, sizeof jobs);
    total_done = 0;
    for (unsigned i = 0; i < MANY; i++) {
        memset(buf[i], (int)i, sizeof buf[i]);
        submit(&jobs[i], FILE_WRITE, fd, i * 16, buf[i], sizeof buf[i]);
    }
    while (total_done < MANY)
        loop_turn(l, UINT64_MAX);
    for (unsigned i = 0; i < MANY; i++)
        wrong += jobs[i].done != 1 || jobs[i].result != 16;
    memset(jobs, 0, sizeof jobs);
    for (unsigned i = 0; i < MANY; i++)
        submit(&jobs[i], FILE_READ, fd, i * 16, buf[i], 16);
    while (total_done < 2 * MANY)
        loop_turn(l, UINT64_MAX);
    for (unsigned i = 0; i < MANY; i++)
        wrong += jobs[i].done != 1 || jobs[i].result != 16 || buf[i][7] != (char)i;
    ok(wrong == 0, "%d requests at once", 2 * MANY);
    ok(!done_in_submit, "done() never runs inside file_submit");
}

/* done() waits for another request by turning the loop, as block_close does. */
struct nest {
    struct job first, other;
    bool good;
};

static void nest_done(struct file_req *req, int result)
{
    struct nest *n = container_of(req, struct nest, first.req);

    n->good = result == 0 && result_of(&n->other) == 0;
    n->first.done++;
}

static void test_nested(int fd)
{
    struct nest n = {0};

    submit(&n.first, FILE_FSYNC, fd, 0, NULL, 0);
    n.first.req.done = nest_done;
    submit(&n.other, FILE_FSYNC, fd, 0, NULL, 0);
    result_of(&n.first);
    ok(n.good, "done() may wait for another request");
}

static void test_both(bool forbid)
{
    char path[] = "/tmp/hull-file-test-XXXXXX";
    int fd = mkostemp(path, O_CLOEXEC);
    struct job last = {0};

    unlink(path);
    loop_forbid_uring(forbid);
    l = loop_open(&e);
    if (!ok(l != NULL, "loop_open %s", e.text))
        return;
    if (forbid)
        ok(!loop_has_uring(l), "io_uring forbidden");
    else if (!loop_has_uring(l))
        tap_skip("io_uring", "this kernel refuses it");
    test_ops(fd);
    test_sleep();
    test_many(fd);
    test_nested(fd);
    submit(&last, FILE_FSYNC, fd, 0, NULL, 0);
    loop_close(l);
    ok(last.done == 1 && last.result == 0, "loop_close finishes what is in flight");
    close(fd);
}

int main(void)
{
    test_both(false);
    test_both(true);
    return tap_done();
}
