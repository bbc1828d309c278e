/* SPDX-License-Identifier: MIT */
/* Leaky buckets: each request fills, time empties, and what a full bucket has above its rim is what
 * the next request waits for. Without `max` the rim is a tenth of a second's worth; with it a
 * burst at the rate `max` may last `burst_length` seconds, which a second bucket sees to. */
#include "block/throttle.h"
#include "base/bits.h"
#include <errno.h>
#include <string.h>

const char *const throttle_names[] = {"bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"};

#define LIMIT_MAX 1000000000000000ULL

static bool check(const struct throttle_config *c, struct err *err)
{
    for (unsigned i = 0; i < THROTTLE_LIMITS; i++) {
        const char *name = throttle_names[i];

        if (c->avg[i] > LIMIT_MAX || c->max[i] > LIMIT_MAX)
            return err_set(err, EINVAL, "bps/iops/max values must be within [0, %llu]", LIMIT_MAX);
        if (c->max[i] && !c->avg[i])
            return err_set(err, EINVAL, "%s_max requires %s", name, name);
        if (c->max[i] && c->max[i] < c->avg[i])
            return err_set(err, EINVAL, "%s_max cannot be lower than %s", name, name);
        if (c->burst_length[i] > 1 && !c->max[i])
            return err_set(err, EINVAL, "%s_max_length requires %s_max", name, name);
        if (c->max[i] && c->burst_length[i] > LIMIT_MAX / c->max[i])
            return err_set(err, EINVAL, "burst length too high for this burst rate");
    }
    for (unsigned i = 0; i < THROTTLE_LIMITS; i += 3)
        if ((c->avg[i] && (c->avg[i + 1] || c->avg[i + 2])) ||
            (c->max[i] && (c->max[i + 1] || c->max[i + 2])))
            return err_set(err, EINVAL,
                           "bps/iops/max total values and read/write values cannot be used at the "
                           "same time");
    return true;
}

bool throttle_set(struct throttle *t, const struct throttle_config *c, uint64_t now_ns,
                  struct err *err)
{
    if (!check(c, err))
        return false;
    *t = (struct throttle){.config = *c, .leaked_ns = now_ns};
    for (unsigned i = 0; i < THROTTLE_LIMITS; i++)
        t->on |= c->avg[i] != 0;
    return true;
}

static double less(double level, double by)
{
    return level > by ? level - by : 0;
}

static void leak(struct throttle *t, uint64_t now_ns)
{
    double seconds = (double)(now_ns - t->leaked_ns) / 1e9;

    t->leaked_ns = now_ns;
    for (unsigned i = 0; i < THROTTLE_LIMITS; i++) {
        t->level[i] = less(t->level[i], (double)t->config.avg[i] * seconds);
        t->burst[i] = less(t->burst[i], (double)t->config.max[i] * seconds);
    }
}

/* Seconds until the bucket is below its rim. */
static double bucket_wait(const struct throttle *t, unsigned i)
{
    double avg = (double)t->config.avg[i], max = (double)t->config.max[i];
    double length = t->config.burst_length[i] ? (double)t->config.burst_length[i] : 1;
    double over;

    if (!t->config.avg[i])
        return 0;
    over = t->level[i] - (t->config.max[i] ? max * length : avg / 10);
    if (over > 0)
        return over / avg;
    over = t->burst[i] - max / 10;
    return t->config.burst_length[i] > 1 && over > 0 ? over / max : 0;
}

static bool concerns(unsigned limit, bool write)
{
    return limit % 3 == 0 || limit % 3 == (write ? 2 : 1);
}

uint64_t throttle_wait(struct throttle *t, bool write, uint64_t now_ns)
{
    double most = 0;

    leak(t, now_ns);
    for (unsigned i = 0; i < THROTTLE_LIMITS; i++) {
        double wait = concerns(i, write) ? bucket_wait(t, i) : 0;

        most = wait > most ? wait : most;
    }
    return (uint64_t)(most * 1e9);
}

void throttle_count(struct throttle *t, bool write, uint64_t bytes)
{
    double ops = 1;

    if (t->config.iops_size && bytes > t->config.iops_size)
        ops = (double)bytes / (double)t->config.iops_size;
    for (unsigned i = 0; i < THROTTLE_LIMITS; i++) {
        double units = i < THROTTLE_IOPS ? (double)bytes : ops;

        if (!concerns(i, write))
            continue;
        t->level[i] += units;
        t->burst[i] += units;
    }
}
