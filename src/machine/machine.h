/* SPDX-License-Identifier: MIT */
/* One machine: from a config to a running guest, its run state, its end.
 *
 *   config -> machine_open -> machine_start (sandbox) -> machine_run -> exit status
 *
 * Everything here runs in the main thread; what vCPU threads report is posted to the loop. */
#ifndef HULL_MACHINE_H
#define HULL_MACHINE_H

#include "block/block.h"
#include "block/job.h"
#include "boot/boot.h"
#include "bus/device.h"
#include "config/config.h"
#include "dev/types.h"
#include "engine/engine.h"
#include "engine/x86/model.h"
#include "loop/loop.h"
#include "net/net.h"

#define MACHINE_NET_PAIRS 8

enum run_state { /* as QMP's RunState names them: see run_state_name */
                 RUN_PRELAUNCH,
                 RUN_RUNNING,
                 RUN_PAUSED,
                 RUN_SHUTDOWN,
                 RUN_PANICKED,
                 RUN_INTERNAL_ERROR,
                 RUN_IO_ERROR, /* paused, because a disk failed */
};
extern const char *const run_state_name[];

enum { /* exit statuses of hull-vmm and hull run */
       MACHINE_OFF = 0,
       MACHINE_FAILED = 1,
       MACHINE_USAGE = 2,
       MACHINE_CRASHED = 3,
       MACHINE_TIMEOUT = 124,
};

struct nbd;
struct qmp;
struct drive;
struct restore;
struct snapshot_job;

struct machine {
    struct loop *loop;
    struct mem mem;
    struct bus mmio, pio;
    struct board board;
    struct vm vm;
    struct cpu_model model;
    char engine_note[300]; /* why it is not KVM, if that is worth telling */
    struct layout layout;
    uint8_t uuid[16]; /* RFC 4122 order; SMBIOS shows it */
    /* Snapshots: what is being restored, what is being taken, the last one taken or restored. */
    struct restore *restore;
    struct snapshot_job *snapshot;
    uint8_t snapshot_id[16], generation[16]; /* generation: the VMGenID */
    bool dirty_since_snapshot; /* the dirty log has exactly what changed since snapshot_id */
    int pagemap; /* of a restored machine until its first snapshot, for what it wrote; else 0 */
    struct boot *boot;                /* the kernel's open files: read again at every reset */
    struct block *disk[CONFIG_DISKS]; /* each the block of its drive */
    struct drive *drive[CONFIG_DISKS];
    struct block_jobs jobs;
    struct list nodes; /* images that blockdev-add opened and no disk has: nodes.h */
    struct nbd *nbd;
    struct timer nbd_again;
    unsigned node_count;      /* that were given names */
    char folder[CONFIG_PATH]; /* that relative names are in */
    struct net *net[CONFIG_NETS][MACHINE_NET_PAIRS];
    struct board_parts parts; /* what the board is made of: ACPI says the same */
    struct chardev *stream[CONFIG_PORTS + 2];
    unsigned stream_count;
    int dial_fd;        /* until the vsock device has it; -1: none */
    bool vsock_listens; /* its socket is ours to remove */
    struct qmp *qmp;
    enum run_state state;
    /* Stopping and resetting wait for I/O in nested turns of the loop. Meanwhile nothing else may
     * change the run state but machine_quit. */
    bool changing;
    int status; /* exit status once the loop ends */
    /* what other threads ask the main thread to do */
    struct call attend;
    _Atomic uint32_t asked; /* ASK_ bits */
    _Atomic uint32_t debug_code;
    struct timer timeout;
    /* profile_commands.c: asks vCPUs where they are while a client wants to know */
    struct timer profile;
    uint64_t profile_until_ns;
    /* virtual.c: deterministic machines */
    struct vcpu *waiting; /* until the loop is quiet */
    struct call quiet, timers;
    struct config config; /* the last: it is large, and not cleared */
};

/* Builds everything; the guest does not run yet. On failure everything is undone. */
bool machine_open(struct machine *m, const struct config *config, struct err *err);
/* The same from a snapshot that was read by restore_read, perhaps in the process that this one was
 * forked from; it belongs to the machine. */
bool machine_open_saved(struct machine *m, const struct config *config, struct restore *restore,
                        struct err *err);
/* Does early what machine_open and machine_start would have to do: for machines that processes
 * forked from this one will open. */
bool machine_prepare(const struct config *config, struct err *err);
/* Enters the sandbox, lets the guest go. */
bool machine_start(struct machine *m, struct err *err);
/* Runs until the guest or its user ends it; returns the exit status. */
int machine_run(struct machine *m);
void machine_close(struct machine *m); /* accepts a half-open machine */

/* What a user may do, by QMP or signal. All idempotent, in the main thread, not while `changing`
 * (but quit). */
void machine_stop(struct machine *m);
/* The same because a disk failed: state io-error; machine_cont tries its requests again. */
void machine_stop_for_disk(struct machine *m);
void machine_cont(struct machine *m);
void machine_powerdown(struct machine *m); /* presses the power button */
/* `reason` as in QMP's RESET. A machine that cannot be reset is ended. */
bool machine_reset(struct machine *m, const char *reason, struct err *err);
void machine_quit(struct machine *m, int status,
                  const char *reason); /* reason as in QMP's SHUTDOWN */
/* Stops vCPUs and devices for a moment without a change of the run state. True: it was running, say
 * so to machine_thaw; false there leaves it paused. Both in the main thread. */
bool machine_freeze(struct machine *m);
void machine_thaw(struct machine *m, bool run);
void machine_changed(struct machine *m); /* `changing` is over */
void machine_resize_console(struct machine *m, uint16_t columns, uint16_t rows);

/* ---- assemble.c ---- */
bool machine_assemble(struct machine *m, struct err *err);
/* ---- virtual.c: time of a deterministic machine ---- */
void machine_virtual(struct machine *m); /* before devices and the engine */
bool machine_vm_quiet(struct vm *vm);    /* vm_events */
void machine_vm_settle(struct vm *vm, struct vcpu *cpu);
uint64_t machine_vm_next_timer(struct vm *vm);
void machine_vm_run_timers(struct vm *vm);
/* ---- load.c: what the guest finds in memory at power-on and after each reset ---- */
bool machine_open_kernel(struct machine *m, struct err *err);
bool machine_load(struct machine *m, struct err *err);
/* ---- sandbox.c ---- */
bool sandbox_drop_user(const char *user, struct err *err);
bool sandbox_fence(const struct config *config, struct err *err); /* files: before threads start */
/* For the dialer's own process: sockets of the host by path, nothing else. */
bool sandbox_dialer(struct err *err);
struct sandbox_needs {
    bool kvm;   /* the engine is KVM */
    bool vhost; /* the kernel serves some queues */
    bool files; /* block commands open images: the fence says where */
};
/* System calls, of all threads. */
bool sandbox_filter(const struct sandbox_needs *needs, struct err *err);
/* Its costly half; may come long before, in the process that this one is forked from. */
bool sandbox_prepare(const struct sandbox_needs *needs, struct err *err);

#endif
