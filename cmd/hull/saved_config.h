/* SPDX-License-Identifier: MIT */
/* What hull restore and hull clone have in common: the saved configuration, and the options of hull
 * run that say how a machine meets this host. */
#ifndef HULL_SAVED_CONFIG_H
#define HULL_SAVED_CONFIG_H

#include "config/config.h"

struct saved_options {
    const char *dir;
    bool temporary, paused, verify;
    char **rest; /* for config_parse_args; freed by the caller */
    int rest_count;
};

/* DIR, --temporary, --paused, --verify and host options; others are errors that say why. */
bool saved_options_read(struct saved_options *o, int argc, char **argv, struct err *err);
/* The snapshot's configuration with those options. */
bool saved_options_apply(const struct saved_options *o, struct config *c, struct err *err);

#endif
