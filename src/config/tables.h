/* SPDX-License-Identifier: MIT */
/* The config's field tables, shared by the files of this folder. */
#ifndef HULL_CONFIG_TABLES_H
#define HULL_CONFIG_TABLES_H

#include "config/config.h"
#include <errno.h>

extern const struct field config_fields[], config_disk_fields[], config_net_fields[],
    config_port_fields[], config_share_fields[];

#endif
