/* SPDX-License-Identifier: MIT */
/* Building disk images from Debian's packages: the parts of `hull image build`. */
#ifndef HULL_IMAGE_H
#define HULL_IMAGE_H

#include "base/err.h"
#include <limits.h>
#include <stdio.h>

struct image_options {
    const char *output;   /* FILE; FILE.boot/ goes beside it */
    const char *codename; /* "bookworm" */
    const char *packages; /* more, comma-separated; "" */
    const char *kernel;   /* "cloud" or "generic" */
    const char *user, *hostname;
    const char *mirror;  /* "": the host's */
    char ssh_key[16384]; /* public keys, one a line; "" */
    char password[128];  /* never "" after option parsing */
    bool password_made;  /* made up here: tell the user */
    uint64_t size;       /* of the disk */
    bool force;
};

/* ---- image_host.c: what the host has ---- */

/* Where apt on this host gets Debian from, and how. */
struct host_apt {
    char main[1024], security[1024]; /* URIs */
    char components[256];            /* "main" ... */
    char keyring[PATH_MAX];
    char options[8192]; /* apt.conf lines: proxies and checks that differ from the defaults */
};
bool host_apt_read(struct host_apt *a, const struct image_options *o, struct err *err);
/* Every program that is needed, or the command that installs what is missing. */
bool host_tools_check(bool root, struct err *err);

/* ---- image_guest.c: what goes into the disk ---- */

/* Fills `work` (a directory): overlay/ with the guest's files, `hook` which mmdebstrap runs at its
 * end, `sources` and `aptconf` for the build itself. */
bool guest_write(const char *work, const struct image_options *o, const struct host_apt *a,
                 const char *uuid, struct err *err);
/* The packages to install, comma-separated. */
void guest_packages(const struct image_options *o, char *text, size_t size);

/* ---- image_run.c: other programs ---- */

/* Runs a program to its end; its output is kept and shown if it fails. Lines "I: text" become
 * progress. False also when the user has interrupted us (code EINTR). */
bool image_run(char *const argv[], struct err *err);
void image_progress(const char *fmt, ...) PRINTF_LIKE(1, 2);
/* From now on SIGINT, SIGTERM and SIGHUP end the running program and make image_run fail. */
void image_catch_signals(void);
bool image_interrupted(void);

#endif
