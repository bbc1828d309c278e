/* SPDX-License-Identifier: MIT */
/* The two that serve a share: see share.c. */
#ifndef HULL_CMD_SHARE_H
#define HULL_CMD_SHARE_H

#include "hull.h"

const char *virtiofsd_path(void); /* NULL: none is installed */
bool share_start_virtiofs(struct config_share *s, const char *user, pid_t *pid, struct err *err);

#endif
