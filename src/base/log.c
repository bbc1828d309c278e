/* SPDX-License-Identifier: MIT */
/* Each message is formatted into one buffer and leaves in one write(2), so lines of several threads
 * never mix and a full pipe or a closed terminal cannot stop a vCPU for long. */
#include "base/log.h"
#include "base/clock.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#define GUEST_WINDOW_NS 1000000000ULL
#define GUEST_BURST     5 /* messages a window */

static const char *log_name = "hull";
static enum log_level log_level = LOG_WARN;
static bool log_raw;

void log_setup(const char *name, enum log_level level)
{
    log_name = name;
    log_level = level;
}

void log_raw_terminal(bool raw)
{
    __atomic_store_n(&log_raw, raw, __ATOMIC_RELAXED);
}

/* Control characters would let a guest's bytes steer the operator's terminal. */
static void log_clean(char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
            text[i] = '?';
    }
}

static void log_line(enum log_level level, const char *fmt, va_list ap)
{
    static const char *const word[] = {"error: ", "warning: ", "", "debug: "};
    char line[1024];
    size_t at, end = sizeof line - 2; /* room for "\r\n" */
    int saved = errno, n;

    n = snprintf(line, end, "%s: %s", log_name, word[level]);
    at = min_size(n < 0 ? 0 : (size_t)n, end - 1);
    n = vsnprintf(line + at, end - at, fmt, ap);
    at += min_size(n < 0 ? 0 : (size_t)n, end - at - 1);
    log_clean(line, at);
    if (__atomic_load_n(&log_raw, __ATOMIC_RELAXED))
        line[at++] = '\r';
    line[at++] = '\n';
    if (write(STDERR_FILENO, line, at) < 0) {
        /* Nobody is left to tell. */
    }
    errno = saved;
}

#define LOG_AT(level)                                                                              \
    do {                                                                                           \
        va_list ap;                                                                                \
                                                                                                   \
        if ((level) <= log_level) {                                                                \
            va_start(ap, fmt);                                                                     \
            log_line(level, fmt, ap);                                                              \
            va_end(ap);                                                                            \
        }                                                                                          \
    } while (0)

void log_error(const char *fmt, ...)
{
    LOG_AT(LOG_ERROR);
}

void log_warn(const char *fmt, ...)
{
    LOG_AT(LOG_WARN);
}

void log_info(const char *fmt, ...)
{
    LOG_AT(LOG_INFO);
}

void log_debug(const char *fmt, ...)
{
    LOG_AT(LOG_DEBUG);
}

/* Counts this message. The fields are atomic because a device's vCPU and loop sides share a limit;
 * two threads that open a window at once may let one message more through, which does no harm. */
static bool log_allowed(struct log_limit *limit, uint32_t *dropped)
{
    uint64_t now = now_ns(), start = __atomic_load_n(&limit->window_ns, __ATOMIC_RELAXED);

    *dropped = 0;
    if (start == 0 || now - start >= GUEST_WINDOW_NS) {
        __atomic_store_n(&limit->window_ns, now, __ATOMIC_RELAXED);
        __atomic_store_n(&limit->count, 0, __ATOMIC_RELAXED);
        *dropped = __atomic_exchange_n(&limit->dropped, 0, __ATOMIC_RELAXED);
    }
    if (__atomic_fetch_add(&limit->count, 1, __ATOMIC_RELAXED) < GUEST_BURST)
        return true;
    __atomic_fetch_add(&limit->dropped, 1, __ATOMIC_RELAXED);
    return false;
}

void log_guest(struct log_limit *limit, const char *fmt, ...)
{
    uint32_t dropped;

    if (log_level < LOG_WARN || !log_allowed(limit, &dropped))
        return;
    if (dropped != 0)
        log_warn("%u more messages like the next were left out", dropped);
    LOG_AT(LOG_WARN);
}
