/* SPDX-License-Identifier: MIT */
/* The snapshot job. Memory is written in passes while the guest runs: all of it (or what changed
 * since the base), then what changed meanwhile, until little is left or no pass gains any more.
 * Then the guest is stopped for the rest and for the state, and goes on.
 *
 * The dirty log stays on afterwards, so that the next snapshot can be a partial one on top of this.
 * A job that fails has eaten a part of the log: then only a full one can follow. */
#include "machine/snapshot_job.h"
#include "base/clock.h"
#include "machine/qmp.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

#define PASSES_MAX 8
#define STOP_NS    15000000 /* the guest may stand still this long for pages */
#define STOP_PAGES 256      /* however slow the disk */

struct snapshot_job {
    struct machine *machine;
    char id[64];
    enum job_status status;
    int state_fd, memory_fd;
    bool partial, stop;
    struct memory_facts *facts;
    struct memory_saver saver;
    unsigned pass;
    uint64_t pass_began_ns, pass_bytes, left; /* left: pages wanted by the pass that runs */
    uint64_t pause_ns;
    bool final, final_over; /* the last pass runs, or is over */
    struct call finish;
    struct err err; /* no text: none */
};

static void close_files(struct snapshot_job *j)
{
    if (j->state_fd >= 0)
        close(j->state_fd);
    if (j->memory_fd >= 0)
        close(j->memory_fd);
    j->state_fd = j->memory_fd = -1;
}

void snapshot_free(struct machine *m)
{
    struct snapshot_job *j = m->snapshot;

    if (!j)
        return;
    loop_unpost(m->loop, &j->finish);
    memory_saver_close(&j->saver);
    close_files(j);
    free(j->facts);
    free(j);
    m->snapshot = NULL;
}

/* ---- the end ---- */

static void conclude(struct snapshot_job *j)
{
    struct machine *m = j->machine;

    memory_saver_close(&j->saver);
    close_files(j);
    j->status = JOB_CONCLUDED;
    m->dirty_since_snapshot = !j->err.text[0];
    qmp_event(m->qmp, "JOB_STATUS_CHANGE", "{s:s, s:s}", "status", "concluded", "id", j->id);
}

void snapshot_cancel(struct machine *m, const char *why)
{
    struct snapshot_job *j = m->snapshot;

    if (!j || j->status != JOB_RUNNING || j->final)
        return;
    err_set(&j->err, ECANCELED, "%s", why);
    conclude(j);
}

static bool write_state(struct snapshot_job *j, const struct stream *s, struct err *err)
{
    for (size_t done = 0; done < s->size;) {
        ssize_t n = pwrite(j->state_fd, s->data + done, s->size - done, (off_t)done);

        if (n <= 0 && errno != EINTR)
            return err_set(err, errno, "the state cannot be written: %s", strerror(errno));
        done += n > 0 ? (size_t)n : 0;
    }
    return !ftruncate(j->state_fd, (off_t)s->size) ||
           err_set(err, errno, "the state cannot be written: %s", strerror(errno));
}

static bool save_state(struct snapshot_job *j, struct err *err)
{
    struct stream out = {0}, pages = {0};
    bool good = !j->partial || memory_held(&j->saver, &pages, err);

    good = good &&
           machine_save_state(j->machine, j->facts, j->partial ? &pages : NULL, &out, err) &&
           write_state(j, &out, err);
    stream_free(&pages);
    stream_free(&out);
    return good;
}

/* Requests that a failed disk holds are in no queue's state. */
static bool disk_waits(const struct machine *m)
{
    for (unsigned i = 0; i < m->config.disk_count; i++)
        if (m->disk[i]->parked)
            return true;
    return false;
}

/* The guest stands still from here to the end. */
static void finish(struct call *call)
{
    struct snapshot_job *j = container_of(call, struct snapshot_job, finish);
    struct machine *m = j->machine;
    uint64_t began = now_ns();
    bool was_running;

    if (m->changing) { /* in the middle of a reset or a stop: after it */
        loop_post(m->loop, &j->finish);
        return;
    }
    was_running = machine_freeze(m);
    j->final = true;
    memory_want_dirty(&j->saver);
    memory_save(&j->saver);
    while (!j->final_over)
        loop_turn(m->loop, UINT64_MAX);
    if (disk_waits(m))
        err_set(&j->err, EIO, "a disk failed and its requests wait: make space, then cont");
    else if (j->saver.error)
        err_set(&j->err, -j->saver.error, "memory cannot be written: %s",
                strerror(-j->saver.error));
    else
        save_state(j, &j->err);
    j->pause_ns = now_ns() - began;
    machine_thaw(m, was_running && !(j->stop && !j->err.text[0]));
    conclude(j);
}

/* ---- passes ---- */

static bool little_left(const struct snapshot_job *j, uint64_t pages, uint64_t before)
{
    uint64_t took = now_ns() - j->pass_began_ns, wrote = j->saver.bytes - j->pass_bytes;
    uint64_t need = wrote ? mul_div(pages * PAGE_SIZE, took, wrote) : 0;

    return pages <= STOP_PAGES || need <= STOP_NS || j->pass >= PASSES_MAX ||
           (j->pass > 2 && pages > before / 4 * 3);
}

static void next_pass(struct snapshot_job *j)
{
    j->pass++;
    j->pass_began_ns = now_ns();
    j->pass_bytes = j->saver.bytes;
    memory_save(&j->saver);
}

static void pass_done(struct memory_saver *s)
{
    struct snapshot_job *j = container_of(s, struct snapshot_job, saver);
    uint64_t pages, before = j->left;

    if (j->final) {
        j->final_over = true;
        return;
    }
    if (s->error) {
        err_set(&j->err, -s->error, "memory cannot be written: %s", strerror(-s->error));
        loop_post(j->machine->loop, &j->finish);
        return;
    }
    pages = memory_want_dirty(s);
    j->left = pages;
    if (j->machine->state != RUN_RUNNING || little_left(j, pages, before))
        loop_post(j->machine->loop, &j->finish);
    else
        next_pass(j);
}

static void finish_or_fail(struct call *call)
{
    struct snapshot_job *j = container_of(call, struct snapshot_job, finish);

    if (j->status != JOB_RUNNING)
        return;
    if (j->err.text[0])
        conclude(j);
    else
        finish(call);
}

/* ---- the beginning ---- */

static bool check_request(struct machine *m, const struct snapshot_request *r, struct err *err)
{
    if (m->snapshot && m->snapshot->status == JOB_RUNNING)
        return err_set(err, EBUSY, "job %s takes a snapshot already", m->snapshot->id);
    if (m->state == RUN_IO_ERROR)
        return err_set(err, EBUSY, "requests of a disk that failed wait: make space, then cont");
    if (m->state != RUN_RUNNING && m->state != RUN_PAUSED)
        return err_set(err, ESHUTDOWN, "the machine has ended");
    if (m->config.share_count)
        return err_set(err, ENOTSUP,
                       "a machine with --share cannot be saved: what its guest has open on the "
                       "host would not be there again");
    if (r->partial && ((!m->dirty_since_snapshot && m->pagemap <= 0) ||
                       memcmp(r->base_id, m->snapshot_id, sizeof m->snapshot_id)))
        return err_set(err, EINVAL,
                       "%s is not the machine's last snapshot: take a full one, without --base",
                       r->base);
    return strlen(r->job) < sizeof m->snapshot->id ||
           err_set(err, EINVAL, "job-id: longer than %zu", sizeof m->snapshot->id - 1);
}

/* What was written since the base: by the log, or since the restore by the page tables. From the
 * first snapshot on, the base is another than the file that is mapped. */
static bool want_changes(struct snapshot_job *j, bool partial, struct err *err)
{
    struct machine *m = j->machine;
    bool good = true;

    if (m->pagemap > 0) {
        good = !partial || memory_want_written(&j->saver, m->pagemap, err);
        close(m->pagemap);
        m->pagemap = 0;
    }
    if (good && partial)
        j->left = memory_want_dirty(&j->saver);
    return good;
}

static bool begin(struct snapshot_job *j, const struct snapshot_request *r, struct err *err)
{
    struct machine *m = j->machine;

    if (!m->dirty_since_snapshot && !m->mem.region[0].dirty && !mem_log_start(&m->mem, err))
        return false;
    if (!memory_saver_open(&j->saver, &m->vm, m->loop, j->memory_fd, err))
        return false;
    j->saver.done = pass_done;
    memory_facts_fill(m, j->facts);
    if (r->partial) {
        j->facts->partial = true;
        memcpy(j->facts->base_id, r->base_id, sizeof j->facts->base_id);
        snprintf(j->facts->base, sizeof j->facts->base, "%s", r->base);
    }
    if (!want_changes(j, r->partial, err))
        return false;
    if (!r->partial) {
        memory_forget_dirty(&m->vm);
        memory_want_all(&j->saver);
        j->left = m->config.memory / PAGE_SIZE;
    }
    m->dirty_since_snapshot = false; /* until this one is whole */
    if (getrandom(m->snapshot_id, sizeof m->snapshot_id, 0) != sizeof m->snapshot_id)
        return err_set(err, EIO, "the host has no random bytes");
    next_pass(j);
    return true;
}

bool snapshot_start(struct machine *m, const struct snapshot_request *r, struct err *err)
{
    struct snapshot_job *j;

    if (!check_request(m, r, err)) {
        close(r->state_fd);
        close(r->memory_fd);
        return false;
    }
    snapshot_free(m);
    m->snapshot = j = calloc(1, sizeof *j);
    if (j)
        j->facts = calloc(1, sizeof *j->facts);
    if (!j || !j->facts) {
        close(r->state_fd);
        close(r->memory_fd);
        snapshot_free(m);
        return err_set(err, ENOMEM, "no memory for a snapshot");
    }
    j->machine = m;
    j->status = JOB_RUNNING;
    j->state_fd = r->state_fd;
    j->memory_fd = r->memory_fd;
    j->partial = r->partial;
    j->stop = r->stop;
    j->finish.run = finish_or_fail;
    snprintf(j->id, sizeof j->id, "%s", r->job);
    if (begin(j, r, err)) {
        qmp_event(m->qmp, "JOB_STATUS_CHANGE", "{s:s, s:s}", "status", "running", "id", j->id);
        return true;
    }
    snapshot_free(m);
    return false;
}

void snapshot_report(const struct machine *m, struct job_report *report)
{
    const struct snapshot_job *j = m->snapshot;

    *report = (struct job_report){.status = j ? j->status : JOB_NONE};
    if (!j)
        return;
    report->id = j->id;
    report->done = j->saver.saved * PAGE_SIZE;
    report->total = report->done + j->left * PAGE_SIZE;
    report->pause_ns = j->pause_ns;
    report->error = j->err.text[0] ? j->err.text : NULL;
}
