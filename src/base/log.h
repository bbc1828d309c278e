/* SPDX-License-Identifier: MIT */
/* Messages for operators, one line each on stderr. Any thread. Whatever a guest can cause goes
 * through log_guest, which lets a few messages a second through and counts the rest. */
#ifndef HULL_BASE_LOG_H
#define HULL_BASE_LOG_H

#include "base/bits.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

struct log_limit { /* zero it to begin with; one per device or source */
    uint64_t window_ns;
    uint32_t count, dropped;
};

/* Shows messages up to `level`, each with `name` (kept, not copied) in front. Default: warnings. */
void log_setup(const char *name, enum log_level level);
/* Raw-mode terminals need "\r\n": true while hull has the terminal raw. */
void log_raw_terminal(bool raw);

void log_error(const char *fmt, ...) PRINTF_LIKE(1, 2);
void log_warn(const char *fmt, ...) PRINTF_LIKE(1, 2);
void log_info(const char *fmt, ...) PRINTF_LIKE(1, 2);
void log_debug(const char *fmt, ...) PRINTF_LIKE(1, 2);
void log_guest(struct log_limit *limit, const char *fmt, ...) PRINTF_LIKE(2, 3);

#endif
