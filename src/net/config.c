/* SPDX-License-Identifier: MIT */
/* --net KIND[,key=value]...: from text to struct net_config, and MAC addresses. */
#include "net/net.h"
#include "field/field.h"
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

enum { VALUE_MAX = 256 };

static const char *const kinds[] = {"none", "user", "tap", "vhost-user", NULL};

/* clang-format off */
static const struct field fields[] = {
    FIELD_TEXT(struct net_config, name),
    FIELD_TEXT(struct net_config, socket),
    FIELD_TEXT(struct net_config, mac),
    FIELD(struct net_config, queues, 64),
    FIELD_TEXT(struct net_config, hostname),
    FIELD(struct net_config, restricted, 1),
    FIELD(struct net_config, mtu, 65521),
    FIELD(struct net_config, vhost, 1),
    {0},
};
/* clang-format on */

/* Which keys mean something for which kind. */
static const struct key {
    const char *name;
    unsigned kinds;
} keys[] = {
    {"forward", BIT(NET_USER)},
    {"name", BIT(NET_TAP)},
    {"socket", BIT(NET_USER) | BIT(NET_VHOST_USER)},
    {"mac", BIT(NET_USER) | BIT(NET_TAP) | BIT(NET_VHOST_USER)},
    {"queues", BIT(NET_TAP) | BIT(NET_VHOST_USER)},
    {"vhost", BIT(NET_TAP)},
    {"hostname", BIT(NET_USER)},
    {"restricted", BIT(NET_USER)},
    {"mtu", BIT(NET_USER) | BIT(NET_TAP) | BIT(NET_VHOST_USER)},
};

static bool parse_port(const char *text, size_t len, unsigned least, uint16_t *port)
{
    unsigned value = 0;

    if (len == 0 || len > 5)
        return false;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        value = value * 10 + (unsigned)(text[i] - '0');
    }
    *port = (uint16_t)value;
    return value >= least && value <= 65535;
}

static bool bad_forward(const char *text, const char *why, struct err *err)
{
    return err_set(err, EINVAL, "forward \"%.80s\": %s: tcp:[ADDRESS:]HOSTPORT:GUESTPORT", text,
                   why);
}

bool net_forward_parse(struct net_forward *f, const char *text, struct err *err)
{
    const char *at = text, *last = strrchr(text, ':'), *middle;
    struct in_addr address;

    *f = (struct net_forward){0};
    if (strncmp(text, "udp:", 4) == 0)
        f->udp = true;
    else if (strncmp(text, "tcp:", 4) != 0)
        return bad_forward(text, "begins with neither tcp: nor udp:", err);
    at += 4;
    if (last < at)
        return bad_forward(text, "has no guest port", err);
    for (middle = last; middle > at && middle[-1] != ':'; middle--)
        ;
    if (middle > at) { /* an address stands before the host's port */
        size_t len = (size_t)(middle - 1 - at);

        if (len >= sizeof f->host)
            return bad_forward(text, "its address is no IPv4 address", err);
        memcpy(f->host, at, len);
        if (len && inet_pton(AF_INET, f->host, &address) != 1)
            return bad_forward(text, "its address is no IPv4 address", err);
    }
    if (!parse_port(middle, (size_t)(last - middle), 0, &f->host_port))
        return bad_forward(text, "its host port is no number from 0 to 65535", err);
    if (!parse_port(last + 1, strlen(last + 1), 1, &f->guest_port))
        return bad_forward(text, "its guest port is no number from 1 to 65535", err);
    return true;
}

static bool same_forward(const struct net_forward *a, const struct net_forward *b)
{
    return a->udp == b->udp && a->host_port == b->host_port && a->host_port &&
           strcmp(a->host, b->host) == 0;
}

static bool add_forward(struct net_config *c, const char *text, struct err *err)
{
    struct net_forward *f = &c->forward[c->forward_count];

    if (c->forward_count == NET_FORWARDS_MAX)
        return err_set(err, E2BIG, "more than %d forwards", NET_FORWARDS_MAX);
    if (!net_forward_parse(f, text, err))
        return false;
    for (unsigned i = 0; i < c->forward_count; i++) {
        if (same_forward(&c->forward[i], f))
            return bad_forward(text, "its host port is forwarded already", err);
    }
    c->forward_count++;
    return true;
}

static bool key_allowed(const struct net_config *c, const char *key, struct err *err)
{
    const char *words[ARRAY_SIZE(keys) + 1] = {0};
    const char *near;

    for (unsigned i = 0; i < ARRAY_SIZE(keys); i++) {
        words[i] = keys[i].name;
        if (strcmp(keys[i].name, key) != 0)
            continue;
        if (keys[i].kinds & BIT(c->kind))
            return true;
        return err_set(err, EINVAL, "\"%s\" means nothing for %s", key, kinds[c->kind]);
    }
    near = nearest_word(key, words);
    return err_set(err, EINVAL, "unknown key \"%s\"%s%s%s", key, near ? ": did you mean \"" : "",
                   near ? near : "", near ? "\"?" : "");
}

static bool set_key(struct net_config *c, unsigned *seen, const char *key, const char *value,
                    struct err *err)
{
    if (!key_allowed(c, key, err))
        return false;
    if (strcmp(key, "forward") == 0)
        return add_forward(c, value, err);
    for (unsigned i = 0; i < ARRAY_SIZE(keys); i++) {
        if (strcmp(keys[i].name, key) != 0)
            continue;
        if (*seen & BIT(i))
            return err_set(err, EINVAL, "\"%s\" is given twice", key);
        *seen |= (unsigned)BIT(i);
    }
    return field_set(fields, c, key, value, err);
}

/* Takes one "key=value", ",," standing for a comma. NULL: too long. */
static const char *take_pair(char *pair, const char *text)
{
    size_t n = 0;

    for (; *text; text++) {
        if (*text == ',' && *++text != ',')
            break;
        if (n + 1 >= VALUE_MAX)
            return NULL;
        pair[n++] = *text;
    }
    pair[n] = '\0';
    return text;
}

static bool check_whole(struct net_config *c, struct err *err)
{
    uint8_t mac[6];

    if (c->mac[0] && !net_mac_parse(mac, c->mac, err))
        return false;
    if (c->kind == NET_TAP && !c->name[0])
        return err_set(err, EINVAL, "tap needs name=INTERFACE");
    if (c->kind == NET_VHOST_USER && !c->socket[0])
        return err_set(err, EINVAL, "vhost-user needs socket=PATH");
    if (c->socket[0] && c->forward_count)
        return err_set(err, EINVAL, "forward= belongs to the program behind socket=%s", c->socket);
    if (c->mtu && c->mtu < 576)
        return err_set(err, EINVAL, "mtu=%u is below 576", c->mtu);
    if (c->queues == 0)
        return err_set(err, EINVAL, "queues=0: at least 1");
    return true;
}

static bool parse(struct net_config *c, const char *text, struct err *err)
{
    char pair[VALUE_MAX];
    unsigned seen = 0, kind = 0;
    const char *rest = take_pair(pair, text);

    if (!rest)
        return err_set(err, ENAMETOOLONG, "its first word is too long");
    while (kinds[kind] && strcmp(kinds[kind], pair) != 0)
        kind++;
    if (!kinds[kind])
        return err_set(err, EINVAL, "unknown kind: none, user, tap and vhost-user are known");
    c->kind = (enum net_kind)kind;
    while (*rest) {
        char *value;

        rest = take_pair(pair, rest);
        if (!rest)
            return err_set(err, ENAMETOOLONG, "a value is longer than %d", VALUE_MAX - 1);
        value = strchr(pair, '=');
        if (!value)
            return err_set(err, EINVAL, "\"%s\" is no key=value", pair);
        *value++ = '\0';
        if (!set_key(c, &seen, pair, value, err))
            return false;
    }
    return check_whole(c, err);
}

bool net_config_parse(struct net_config *c, const char *text, struct err *err)
{
    struct net_config made = {.queues = 1};

    if (!parse(&made, text, err))
        return err_wrap(err, "--net \"%.80s\"", text);
    *c = made;
    return true;
}

void net_mac_make(uint8_t mac[6], const char *name, unsigned index)
{
    uint64_t hash =
        0xcbf29ce484222325; /* FNV-1a, then mixed so that all low bits depend on all of it */

    if (!name) {
        if (getrandom(&hash, sizeof hash, 0) != sizeof hash)
            abort(); /* Linux promises up to 256 bytes whole */
    } else {
        for (; *name; name++)
            hash = (hash ^ (uint8_t)*name) * 0x100000001b3;
        hash = (hash ^ index) * 0x100000001b3;
        hash ^= hash >> 32;
        hash *= 0x9e3779b97f4a7c15;
        hash ^= hash >> 29;
    }
    mac[0] = 0x52;
    mac[1] = 0x54;
    mac[2] = 0x00;
    mac[3] = (uint8_t)(hash >> 16);
    mac[4] = (uint8_t)(hash >> 8);
    mac[5] = (uint8_t)hash;
}

bool net_mac_parse(uint8_t mac[6], const char *text, struct err *err)
{
    unsigned b[6];
    int used = 0;

    if (strlen(text) != 17 ||
        sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5],
               &used) != 6 ||
        used != 17)
        return err_set(err, EINVAL, "mac \"%.40s\" is not like 52:54:00:12:34:56", text);
    if (b[0] & 1)
        return err_set(err, EINVAL, "mac \"%s\" is a group address: its first byte must be even",
                       text);
    for (int i = 0; i < 6; i++)
        mac[i] = (uint8_t)b[i];
    if ((b[0] | b[1] | b[2] | b[3] | b[4] | b[5]) == 0)
        return err_set(err, EINVAL, "mac \"%s\" is all zero", text);
    return true;
}
