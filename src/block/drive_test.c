/* SPDX-License-Identifier: MIT */
/* A drive over a node in memory that answers when the test says so: limits' arithmetic, what
 * policies make of errors, range locks and drain. */
#include "block/drive.h"
#include "block/format.h"
#include "base/clock.h"
#include "tap.h"
#include <errno.h>
#include <stdlib.h>

enum { DISK = 1 << 20, JOBS = 8 };
#define SECOND 1000000000ULL

/* ---- the node ---- */

static struct loop *loop;
static uint8_t disk[DISK];
static struct block_req *waiting[64]; /* below, in the order in which they came */
static unsigned count;
static bool at_once;
static int fail_with; /* the next requests' result */

static void finish(struct block *b, struct block_req *r)
{
    if (!fail_with && r->op == BLOCK_WRITE)
        memcpy(disk + r->offset, r->iov[0].iov_base, r->length);
    block_done_later(b, r, fail_with);
}

static void node_submit(struct block *b, struct block_req *r)
{
    if (at_once)
        finish(b, r);
    else
        waiting[count++] = r;
}

static void node_close(struct block *b)
{
}

static const struct block_ops node_ops = {
    .name = "memory", .submit = node_submit, .close = node_close};

static struct block *node;

/* The first that waits below ends. */
static void let_go(void)
{
    struct block_req *r = waiting[0];

    memmove(waiting, waiting + 1, --count * sizeof *waiting);
    finish(node, r);
}

/* ---- the device ---- */

struct job {
    struct block_req req;
    struct iovec iov;
    uint8_t data[4096];
    bool done;
    int result;
};

static struct job jobs[JOBS];
static enum drive_policy did;
static unsigned errors;

static void on_done(struct block_req *req, int result)
{
    struct job *j = container_of(req, struct job, req);

    j->done = true;
    j->result = result;
}

static void begin(struct drive *d, unsigned i, int op, uint64_t at, uint64_t length)
{
    struct job *j = &jobs[i];

    *j = (struct job){.iov = {j->data, length}};
    memset(j->data, 'a' + (int)i, length);
    j->req = (struct block_req){
        .op = op, .offset = at, .length = length, .iov = &j->iov, .iov_count = 1, .done = on_done};
    block_submit(&d->block, &j->req);
}

/* What is posted runs; nothing here takes longer. */
static void turn(void)
{
    for (unsigned i = 0; i < 8; i++)
        loop_turn(loop, 0);
}

static void on_error(struct drive *d, bool read, enum drive_policy what, int error)
{
    did = what;
    errors++;
}

static const struct drive_events events = {.io_error = on_error};

static struct drive *make(void)
{
    struct block_config c = {.format = "raw"};
    struct err err = {0};
    struct drive *d;

    node = block_new(loop, &c);
    node->ops = &node_ops;
    node->size = DISK;
    node->sector_size = 512;
    node->discard_align = 512;
    count = errors = 0;
    at_once = false;
    fail_with = 0;
    d = drive_open(node, "d0", &err);
    if (d)
        d->events = &events;
    return d;
}

/* ---- limits ---- */

static bool near(uint64_t got, double seconds)
{
    double off = (double)got / 1e9 - seconds;

    return off < 1e-6 && off > -1e-6;
}

static bool set(struct throttle *t, const struct throttle_config *c)
{
    struct err err = {0};

    return throttle_set(t, c, SECOND, &err);
}

static void test_limits(void)
{
    struct throttle_config c = {.avg[THROTTLE_BPS] = 1000};
    struct throttle t;

    ok(set(&t, &c) && t.on && !throttle_wait(&t, true, SECOND), "an idle disk waits for nothing");
    throttle_count(&t, true, 100);
    ok(!throttle_wait(&t, false, SECOND), "a tenth of a second's worth goes at once");
    throttle_count(&t, true, 500);
    ok(near(throttle_wait(&t, false, SECOND), 0.5), "what is above waits, reads for writes too");
    ok(near(throttle_wait(&t, false, SECOND + SECOND / 4), 0.25), "time empties the bucket");
    ok(!throttle_wait(&t, false, 2 * SECOND), "until it is below the rim");
    c = (struct throttle_config){.avg[THROTTLE_IOPS_WR] = 10, .iops_size = 4096};
    ok(set(&t, &c), "writes alone, in pieces of 4 KiB");
    throttle_count(&t, true, 8 * 4096);
    ok(near(throttle_wait(&t, true, SECOND), 0.7) && !throttle_wait(&t, false, SECOND),
       "one of 32 KiB counts as eight; reads do not wait");
    throttle_count(&t, false, 1 << 20);
    ok(near(throttle_wait(&t, true, SECOND), 0.7), "and do not count");
    c = (struct throttle_config){
        .avg[THROTTLE_BPS] = 100, .max[THROTTLE_BPS] = 1000, .burst_length[THROTTLE_BPS] = 2};
    ok(set(&t, &c), "a burst of two seconds");
    throttle_count(&t, true, 1100);
    ok(near(throttle_wait(&t, true, SECOND), 1), "goes at its own rate");
    throttle_count(&t, true, 1000);
    ok(near(throttle_wait(&t, true, SECOND), 1), "and then at the limit");
    c = (struct throttle_config){0};
    ok(set(&t, &c) && !t.on, "no limit: off");
}

static void test_refused(void)
{
    static const struct throttle_config bad[] = {
        {.avg[THROTTLE_BPS] = 1000000000000001},
        {.max[THROTTLE_IOPS] = 5},
        {.avg[THROTTLE_IOPS] = 5, .max[THROTTLE_IOPS] = 4},
        {.avg[THROTTLE_IOPS] = 5, .burst_length[THROTTLE_IOPS] = 2},
        {.avg[THROTTLE_BPS] = 5, .avg[THROTTLE_BPS_WR] = 5},
        {.avg[THROTTLE_BPS] = 5,
         .max[THROTTLE_BPS] = 1000000000,
         .burst_length[THROTTLE_BPS] = 1000000000},
    };
    struct throttle t;

    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
        ok(!set(&t, &bad[i]), "limits that contradict themselves: %u", i);
}

static void test_drive_limit(void)
{
    struct throttle_config c = {.avg[THROTTLE_BPS_WR] = 512};
    struct err err = {0};
    struct drive *d = make();

    at_once = true;
    ok(drive_limit(d, &c, &err), "a drive's limit");
    begin(d, 0, BLOCK_WRITE, 0, 4096);
    begin(d, 1, BLOCK_WRITE, 4096, 4096); /* in 8 seconds */
    begin(d, 2, BLOCK_READ, 0, 512);
    turn();
    ok(jobs[0].done && jobs[2].done, "the first goes, and a read");
    ok(!jobs[1].done, "the next write waits");
    drive_rush(d, true);
    turn();
    ok(jobs[1].done && disk[4096] == 'b', "not where there is a rush");
    block_close(&d->block);
}

/* ---- errors ---- */

static void outcome(enum drive_policy policy, int error, enum drive_policy want, int result)
{
    struct drive *d = make();

    at_once = true;
    fail_with = error;
    d->on_write_error = policy;
    begin(d, 0, BLOCK_WRITE, 0, 512);
    turn();
    ok(errors == 1 && did == want && jobs[0].done == (want != DRIVE_STOP) &&
           (want == DRIVE_STOP || jobs[0].result == result),
       "%s, error %d: %s", drive_policy_name[policy], -error, drive_policy_name[want]);
    if (want == DRIVE_STOP) {
        ok(d->io_error == error, "the error is kept");
        drive_retry(d);
        turn();
        ok(!jobs[0].done && errors == 2, "tried again, failed again");
        fail_with = 0;
        drive_retry(d);
        turn();
        ok(jobs[0].done && !jobs[0].result && !d->io_error, "tried again, done");
    }
    block_close(&d->block);
}

static void test_policies(void)
{
    enum drive_policy p;
    struct err err = {0};
    struct drive *d;

    outcome(DRIVE_REPORT, -EIO, DRIVE_REPORT, -EIO);
    outcome(DRIVE_IGNORE, -EIO, DRIVE_IGNORE, 0);
    outcome(DRIVE_ENOSPC, -EIO, DRIVE_REPORT, -EIO);
    outcome(DRIVE_ENOSPC, -ENOSPC, DRIVE_STOP, 0);
    outcome(DRIVE_STOP, -EIO, DRIVE_STOP, 0);
    ok(drive_policy_parse(&p, "stop", DRIVE_REPORT, &err) && p == DRIVE_STOP &&
           drive_policy_parse(&p, "", DRIVE_ENOSPC, &err) && p == DRIVE_ENOSPC &&
           !drive_policy_parse(&p, "halt", DRIVE_REPORT, &err),
       "policies by name");
    d = make();
    at_once = true;
    fail_with = -EIO;
    d->on_read_error = DRIVE_STOP;
    begin(d, 0, BLOCK_READ, 0, 512);
    turn();
    ok(!jobs[0].done, "a read may stop too");
    drive_give_up(d);
    turn();
    ok(jobs[0].done && jobs[0].result == -EIO && !d->io_error, "given up: it has failed");
    block_close(&d->block);
}

/* ---- locks, drain ---- */

static unsigned granted;

static void held(struct drive_lock *l)
{
    granted++;
}

static void test_locks(void)
{
    struct drive_lock a = {.offset = 4096, .length = 4096, .held = held};
    struct drive_lock b = {.offset = 8000, .length = 1000, .held = held};
    struct drive *d = make();

    begin(d, 0, BLOCK_WRITE, 4096, 512);
    drive_lock(d, &a);
    drive_lock(d, &b);
    turn();
    ok(!granted && count == 1, "a lock waits for the write under way there");
    let_go();
    turn();
    ok(granted == 1 && a.granted && !b.granted && jobs[0].done,
       "then has it; one that meets it waits");
    begin(d, 1, BLOCK_WRITE, 3584, 1024);
    begin(d, 2, BLOCK_WRITE, 0, 4096);
    begin(d, 3, BLOCK_READ, 4096, 512);
    begin(d, 4, BLOCK_WRITE, 8192 + 512, 512);
    turn();
    ok(count == 2 && waiting[0]->offset == 0 && waiting[1]->op == BLOCK_READ,
       "writes there wait, those beside and reads do not");
    drive_unlock(d, &a);
    turn();
    ok(granted == 2 && b.granted, "the next lock has it");
    ok(count == 3 && waiting[2]->offset == 3584, "a write that meets no lock any more goes");
    drive_unlock(d, &b);
    turn();
    ok(count == 4, "all go");
    while (count)
        let_go();
    turn();
    ok(jobs[1].done && jobs[4].done && disk[3584] == 'b' && disk[8704] == 'e', "and are done");
    block_close(&d->block);
}

static void test_drain(void)
{
    struct drive *d = make();

    begin(d, 0, BLOCK_WRITE, 0, 512);
    drive_hold(d);
    drive_hold(d);
    begin(d, 1, BLOCK_READ, 0, 512);
    ok(count == 1 && !drive_quiet(d), "drained: a new request stays above");
    let_go();
    turn();
    ok(drive_quiet(d) && !count && !jobs[1].done, "quiet");
    drive_resume(d);
    turn();
    ok(!count, "drains nest");
    drive_resume(d);
    turn();
    ok(count == 1, "resumed: it goes");
    let_go();
    turn();
    ok(jobs[1].done, "and is done");
    block_close(&d->block);
}

int main(void)
{
    struct err err = {0};

    loop = loop_open(&err);
    if (!ok(loop != NULL, "a loop"))
        return tap_done();
    test_limits();
    test_refused();
    test_drive_limit();
    test_policies();
    test_locks();
    test_drain();
    loop_close(loop);
    return tap_done();
}
