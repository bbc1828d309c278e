/* SPDX-License-Identifier: MIT */
/* The verbs of `hull` and what they share. Every verb returns the exit status. */
#ifndef HULL_CMD_H
#define HULL_CMD_H

#include "base/helper.h"
#include "base/log.h"
#include "config/config.h"
#include <errno.h>
#include <sys/types.h>

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_CRASHED = 3, EXIT_TIMEOUT = 124 };

int cmd_run(int argc, char **argv);
int cmd_snapshot(int argc, char **argv);
int cmd_restore(int argc, char **argv);
int cmd_clone(int argc, char **argv);
int cmd_top(int argc, char **argv);
int cmd_info(int argc, char **argv);
int cmd_image(int argc, char **argv);
int cmd_disk(int argc, char **argv);
int cmd_help(int argc, char **argv);

/* Prints "hull: text" and "try hull VERB --help"; returns EXIT_USAGE. */
int usage_error(const char *verb, const struct err *err);

/* ---- run.c ---- */
/* Starts a machine with its networks, joins it to the terminal, waits for its end: exit status. */
int run_machine(struct config *config);

/* ---- programs.c ---- */
/* Starts a program; it dies with us. `keep` are descriptors it inherits, ended by -1. */
pid_t program_start(char *const argv[], const int *keep, struct err *err);
/* The same, but the new process does that first; if it gives false it ends, having said why. */
pid_t program_start_prepared(char *const argv[], const int *keep, bool (*prepare)(void *arg),
                             void *arg, struct err *err);

/* ---- usernet.c ---- */
/* Starts hull-usernet for an interface described by `text` ("user,..."); the machine's end of the
 * connection in *fd. Waits until its ports are bound. An error without a text was reported by
 * hull-usernet itself. */
bool usernet_start(const char *text, pid_t *pid, int *fd, struct err *err);

/* ---- share.c ---- */
/* Starts what serves a share to the machine, and waits until it is ready: its type and the
 * machine's descriptors are in `s` then. An error without a text was reported by the program
 * itself. */
bool share_start(struct config_share *s, const char *user, pid_t *pid, struct err *err);

void share_say(const struct config_share *s); /* how to mount it */

/* ---- console.c ---- */
/* Joins the terminal (or whatever stdin and stdout are) to `console` until `child` ends: its wait
 * status in *status, the signal to us that ended it in *signal, else 0. console -1: only waits.
 * `control` is a QMP connection for Ctrl-A commands. */
bool console_run(int console, int control, pid_t child, int *status, int *signal, struct err *err);

#endif
