/* SPDX-License-Identifier: MIT */
/* The run state of a machine and what changes it.
 *
 *   prelaunch -> running <-> paused
 *                running, paused -> shutdown | guest-panicked | internal-error: the loop ends
 *
 * vCPU threads set a bit in `asked` and post `attend`; the main thread does the work. */
#include "machine/machine.h"
#include "base/clock.h"
#include "block/drive.h"
#include "dev/irqchip.h"
#include "engine/choose.h"
#include "loop/uring.h"
#include "machine/jobs.h"
#include "machine/nbd.h"
#include "machine/nodes.h"
#include "machine/qmp.h"
#include "machine/snapshot_job.h"
#include "virtio/devices.h"
#include <errno.h>
#include <sys/random.h>
#include <unistd.h>

const char *const run_state_name[] = {"prelaunch",      "running",        "paused",  "shutdown",
                                      "guest-panicked", "internal-error", "io-error"};

enum {
    ASK_OFF = 1,
    ASK_RESET = 2,
    ASK_PANIC = 4,
    ASK_DEBUG_EXIT = 8,
    ASK_CRASHED = 16,
    ASK_BROKEN = 32,
    ASK_IO_ERROR = 64
};

static void ask(struct machine *m, uint32_t what)
{
    atomic_fetch_or(&m->asked, what);
    loop_post(m->loop, &m->attend);
}

/* ---- calls from vCPU threads ---- */

static void vm_shutdown(struct vm *vm, struct vcpu *cpu)
{
    ask(container_of(vm, struct machine, vm), ASK_CRASHED);
}

static void vm_broken(struct vm *vm, struct vcpu *cpu, const struct err *err)
{
    log_error("vCPU %u stopped: %s", cpu->id, err->text);
    ask(container_of(vm, struct machine, vm), ASK_BROKEN);
}

static void vm_eoi(struct vm *vm, uint8_t vector)
{
    struct machine *m = container_of(vm, struct machine, vm);

    irqchip_eoi(&m->board, vector);
}

static int vm_pic_ack(struct vm *vm)
{
    struct machine *m = container_of(vm, struct machine, vm);

    return irqchip_ack(&m->board);
}

static const struct vm_events vm_events = {
    .shutdown = vm_shutdown,
    .broken = vm_broken,
    .eoi = vm_eoi,
    .pic_ack = vm_pic_ack,
    .quiet = machine_vm_quiet,
    .settle = machine_vm_settle,
    .next_timer = machine_vm_next_timer,
    .run_timers = machine_vm_run_timers,
};

static void on_irq(struct board *b, unsigned gsi, bool level)
{
    irqchip_set(b, gsi, level);
}

static void on_msi(struct board *b, const struct msi *msi)
{
    struct machine *m = container_of(b, struct machine, board);

    m->vm.engine->msi(&m->vm, msi);
}

static void on_power(struct board *b, enum power_event what, uint32_t code)
{
    struct machine *m = container_of(b, struct machine, board);

    switch (what) {
    case POWER_OFF: ask(m, ASK_OFF); break;
    case POWER_RESET: ask(m, ASK_RESET); break;
    case POWER_PANIC: ask(m, ASK_PANIC); break;
    case POWER_DEBUG_EXIT:
        atomic_store(&m->debug_code, code);
        ask(m, ASK_DEBUG_EXIT);
        break;
    case POWER_SUSPEND: break;
    }
}

static void on_intr(struct board *b, bool level)
{
    struct machine *m = container_of(b, struct machine, board);

    m->vm.engine->intr(&m->vm, level);
}

static void on_route(struct board *b, unsigned pin, const struct msi *msi)
{
    struct machine *m = container_of(b, struct machine, board);

    if (m->vm.engine->route)
        m->vm.engine->route(&m->vm, pin, msi);
}

static void on_defer(struct board *b, bool port, uint64_t addr, unsigned size)
{
    struct machine *m = container_of(b, struct machine, board);

    if (m->vm.engine->defer)
        m->vm.engine->defer(&m->vm, port, addr, size);
}

static bool on_bell(struct board *b, uint64_t addr, int fd, bool on)
{
    struct machine *m = container_of(b, struct machine, board);

    return m->vm.engine->bell && m->vm.engine->bell(&m->vm, addr, fd, on);
}

static bool on_msi_fd(struct board *b, int fd, const struct msi *msi)
{
    struct machine *m = container_of(b, struct machine, board);

    return m->vm.engine->msi_fd && m->vm.engine->msi_fd(&m->vm, fd, msi);
}

static const struct board_ops board_ops = {
    .irq = on_irq,
    .msi = on_msi,
    .power = on_power,
    .intr = on_intr,
    .route = on_route,
    .defer = on_defer,
    .bell = on_bell,
    .msi_fd = on_msi_fd,
};

/* ---- the main thread ---- */

static bool over(const struct machine *m)
{
    return m->state == RUN_SHUTDOWN || m->state == RUN_INTERNAL_ERROR;
}

/* What was asked for while the machine was changing is done now. */
void machine_changed(struct machine *m)
{
    m->changing = false;
    qmp_changed(m->qmp);
    if (atomic_load(&m->asked))
        loop_post(m->loop, &m->attend);
}

void machine_quit(struct machine *m, int status, const char *reason)
{
    bool guest = !strncmp(reason, "guest", 5);

    if (over(m))
        return;
    if (m->state == RUN_RUNNING)
        vm_pause(&m->vm);
    m->state = status == MACHINE_FAILED ? RUN_INTERNAL_ERROR : RUN_SHUTDOWN;
    m->status = status;
    qmp_event(m->qmp, "SHUTDOWN", "{s:b, s:s}", "guest", guest, "reason", reason);
    loop_quit(m->loop);
}

/* Limits on disks do not slow down a pause. */
static void rush_disks(struct machine *m, bool on)
{
    for (unsigned i = 0; i < m->config.disk_count; i++)
        drive_rush(m->drive[i], on);
}

static void retry_disks(struct machine *m)
{
    for (unsigned i = 0; i < m->config.disk_count; i++)
        drive_retry(m->drive[i]);
}

static void give_up_disks(struct machine *m)
{
    for (unsigned i = 0; i < m->config.disk_count; i++)
        if (m->drive[i])
            drive_give_up(m->drive[i]);
}

/* Who looks at the images of a stopped machine finds them whole. */
static void flush_disks(struct machine *m)
{
    for (unsigned i = 0; i < m->config.disk_count; i++)
        if (!m->disk[i]->readonly)
            block_run(m->disk[i], BLOCK_FLUSH, BLOCK_REQ_NO_POLICY, 0, NULL, 0);
}

static void stop(struct machine *m, enum run_state state)
{
    if (m->state != RUN_RUNNING)
        return;
    m->changing = true;
    m->state = state;
    vm_pause(&m->vm);
    rush_disks(m, true);
    board_pause(&m->board);
    if (state == RUN_PAUSED)
        flush_disks(m);
    qmp_event(m->qmp, "STOP", NULL);
    machine_changed(m);
}

void machine_stop(struct machine *m)
{
    stop(m, RUN_PAUSED);
}

void machine_stop_for_disk(struct machine *m)
{
    ask(m, ASK_IO_ERROR);
}

void machine_cont(struct machine *m)
{
    if (m->state != RUN_PAUSED && m->state != RUN_PRELAUNCH && m->state != RUN_IO_ERROR)
        return;
    rush_disks(m, false);
    if (m->state != RUN_PRELAUNCH)
        board_resume(&m->board);
    m->state = RUN_RUNNING;
    retry_disks(m);
    qmp_event(m->qmp, "RESUME", NULL);
    vm_resume(&m->vm);
}

bool machine_freeze(struct machine *m)
{
    bool running = m->state == RUN_RUNNING;

    m->changing = true;
    if (running) {
        vm_pause(&m->vm);
        rush_disks(m, true);
        board_pause(&m->board);
    }
    return running;
}

void machine_thaw(struct machine *m, bool run)
{
    if (m->state == RUN_RUNNING && run) {
        rush_disks(m, false);
        board_resume(&m->board);
        vm_resume(&m->vm);
    } else if (m->state == RUN_RUNNING) {
        m->state = RUN_PAUSED;
        qmp_event(m->qmp, "STOP", NULL);
    }
    machine_changed(m);
}

void machine_powerdown(struct machine *m)
{
    if (!pm_power_button(&m->board))
        log_info("the power button was pressed, but the guest does not listen for it");
    qmp_event(m->qmp, "POWERDOWN", NULL);
}

bool machine_reset(struct machine *m, const char *reason, struct err *err)
{
    bool good;

    if (over(m))
        return err_set(err, ESHUTDOWN, "the machine has ended");
    m->changing = true;
    if (m->state == RUN_RUNNING)
        vm_pause(&m->vm);
    give_up_disks(m);
    board_reset(&m->board);
    good = vm_reset(&m->vm, err) && machine_load(m, err);
    if (good)
        qmp_event(m->qmp, "RESET", "{s:b, s:s}", "guest", !strncmp(reason, "guest", 5), "reason",
                  reason);
    else {
        log_error("cannot reset the machine: %s", err->text);
        machine_quit(m, MACHINE_FAILED, "host-error");
    }
    if (m->state == RUN_RUNNING) /* not if somebody ended it meanwhile */
        vm_resume(&m->vm);
    machine_changed(m);
    return good;
}

void machine_resize_console(struct machine *m, uint16_t columns, uint16_t rows)
{
    virtio_console_resize(board_device(&m->board, "console0"), columns, rows);
}

static void panicked(struct machine *m)
{
    qmp_event(m->qmp, "GUEST_PANICKED", "{s:s}", "action",
              m->config.exit_on_panic ? "poweroff" : "run");
    if (!m->config.exit_on_panic)
        return;
    log_error("the guest's kernel panicked");
    machine_quit(m, MACHINE_CRASHED, "guest-panic");
}

static void crashed(struct machine *m)
{
    log_error("the guest crashed: triple fault");
    machine_quit(m, MACHINE_CRASHED, "guest-panic");
}

static void attend(struct call *c)
{
    struct machine *m = container_of(c, struct machine, attend);
    struct err err;
    uint32_t asked;

    if (m->changing) /* a nested turn: machine_changed posts this again */
        return;
    asked = atomic_exchange(&m->asked, 0);
    if (asked & ASK_BROKEN)
        machine_quit(m, MACHINE_FAILED, "host-error");
    if (asked & ASK_IO_ERROR)
        stop(m, RUN_IO_ERROR);
    if (asked & ASK_DEBUG_EXIT)
        machine_quit(m, (int)(atomic_load(&m->debug_code) & 0xff), "guest-shutdown");
    if (asked & ASK_OFF)
        machine_quit(m, MACHINE_OFF, "guest-shutdown");
    if (asked & ASK_PANIC)
        panicked(m);
    if (asked & ASK_CRASHED)
        crashed(m);
    if ((asked & ASK_RESET) && !over(m))
        machine_reset(m, "guest-reset", &err);
}

static void timed_out(struct timer *t)
{
    struct machine *m = container_of(t, struct machine, timeout);

    log_error("--timeout %u: the machine was ended", m->config.timeout_s);
    machine_quit(m, MACHINE_TIMEOUT, "host-signal");
}

/* A random (version 4) UUID, or one that --random-seed repeats. */
static void make_uuid(struct machine *m)
{
    if (m->config.has_random_seed || m->config.deterministic)
        memcpy(m->uuid, &m->config.random_seed, sizeof m->config.random_seed);
    else if (getrandom(m->uuid, sizeof m->uuid, 0) != sizeof m->uuid)
        memset(m->uuid, 0, sizeof m->uuid);
    m->uuid[6] = (uint8_t)((m->uuid[6] & 0x0f) | 0x40);
    m->uuid[8] = (uint8_t)((m->uuid[8] & 0x3f) | 0x80);
}

/* A machine that --random-seed makes repeatable is the same one every time. */
static void new_generation(struct machine *m)
{
    if (m->config.has_random_seed || m->config.deterministic)
        memcpy(m->generation, m->uuid, sizeof m->generation);
    else if (getrandom(m->generation, sizeof m->generation, 0) != sizeof m->generation)
        memset(m->generation, 0, sizeof m->generation);
}

static bool open_fresh(struct machine *m, struct err *err)
{
    return machine_open_kernel(m, err) && machine_assemble(m, err) && machine_load(m, err);
}

/* The kernel's files are wanted again at a reset; a snapshot may outlive them. */
static bool open_restored(struct machine *m, struct err *err)
{
    bool good = (m->restore || (m->restore = restore_read(m->config.restore, err)) != NULL) &&
                restore_open(m, err);

    if (good && !machine_open_kernel(m, err))
        log_info("%s: a reset will end the machine", err->text);
    good = good && machine_assemble(m, err) && restore_apply(m, err);
    restore_close(m);
    return good;
}

bool machine_open(struct machine *m, const struct config *config, struct err *err)
{
    return machine_open_saved(m, config, NULL, err);
}

bool machine_open_saved(struct machine *m, const struct config *config, struct restore *restore,
                        struct err *err)
{
    host_tsc_begin();
    memset(m, 0, offsetof(struct machine, config));
    config_copy(&m->config, config);
    m->restore = restore;
    m->attend.run = attend;
    m->timeout.fire = timed_out;
    make_uuid(m);
    new_generation(m);
    list_init(&m->nodes);
    mem_init(&m->mem);
    bus_init(&m->mmio, UINT64_MAX);
    bus_init(&m->pio, 0x10000);
    vm_init(&m->vm);
    m->vm.events = &vm_events;
    board_init(&m->board, &board_ops);
    for (unsigned i = 0; i < config->disk_count; i++)
        if (!strcmp(config->disk[i].aio, "threads"))
            loop_forbid_uring(true);
    m->loop = loop_open(err);
    if (m->loop)
        machine_jobs_open(m);
    if (m->loop && (config->restore[0] ? open_restored(m, err) : open_fresh(m, err)))
        return true;
    machine_close(m);
    return false;
}

bool machine_prepare(const struct config *config, struct err *err)
{
    struct engine_choice choice;
    struct cpu_offer offer;
    struct sandbox_needs needs;

    host_tsc_begin();
    if (!engine_choose(config->engine, &choice, err) || !choice.ops->offer(&offer, err))
        return false;
    host_tsc_khz();
    needs = (struct sandbox_needs){.kvm = choice.ops == &kvm_engine,
                                   .files = config->image_dir[0] != 0};
    return !config->sandbox || sandbox_prepare(&needs, err);
}

bool machine_start(struct machine *m, struct err *err)
{
    const struct sandbox_needs needs = {.kvm = m->vm.engine == &kvm_engine,
                                        .vhost = m->mem.unlogged,
                                        .files = m->config.image_dir[0] != 0};

    /* Landlock binds a thread and those it starts, so it comes before the vCPUs' threads; seccomp
     * is put on all threads at once, after the calls that start them. */
    if (m->config.sandbox && !sandbox_fence(&m->config, err))
        return false;
    if (!vm_start(&m->vm, err))
        return false;
    host_tsc_khz(); /* finding out takes calls that the filter refuses */
    if (m->config.sandbox && !sandbox_filter(&needs, err))
        return false;
    if (m->config.timeout_s)
        loop_at(m->loop, &m->timeout, now_ns() + m->config.timeout_s * 1000000000ULL);
    if (!m->config.paused)
        machine_cont(m);
    if (m->config.restore[0])
        restore_announce(m);
    return true;
}

int machine_run(struct machine *m)
{
    loop_run(m->loop);
    return m->status;
}

void machine_close(struct machine *m)
{
    /* Parked vCPUs outlive the devices: those may still interrupt while they wind up their I/O. */
    if (m->vm.engine)
        vm_pause(&m->vm);
    if (m->loop) { /* devices turn the loop while they close: nothing may be done for the guest now
                    */
        loop_cancel(m->loop, &m->timeout);
        loop_cancel(m->loop, &m->profile);
        loop_unpost(m->loop, &m->attend);
        loop_unpost(m->loop, &m->timers);
    }
    qmp_close(m->qmp);
    m->qmp = NULL;
    give_up_disks(m);
    nbd_close(m);
    if (m->loop)
        block_jobs_close(&m->jobs);
    nodes_close(m);
    snapshot_free(m);
    restore_close(m);
    board_close(&m->board);
    vm_close(&m->vm);
    for (unsigned i = 0; i < CONFIG_DISKS; i++)
        block_close(m->disk[i]);
    for (unsigned i = 0; i < CONFIG_NETS * MACHINE_NET_PAIRS; i++) {
        struct net *n = m->net[i / MACHINE_NET_PAIRS][i % MACHINE_NET_PAIRS];

        if (n)
            n->ops->close(n);
    }
    for (unsigned i = 0; i < m->stream_count; i++)
        chardev_close(m->stream[i]);
    if (m->pagemap > 0)
        close(m->pagemap);
    if (m->dial_fd > 0) /* 0: never opened */
        close(m->dial_fd);
    if (m->vsock_listens)
        unlink(m->config.vsock_socket);
    boot_close(m->boot);
    loop_close(m->loop);
    bus_close(&m->mmio);
    bus_close(&m->pio);
    mem_close(&m->mem);
}
