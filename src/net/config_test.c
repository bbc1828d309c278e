/* SPDX-License-Identifier: MIT */
/* What --net accepts, what it refuses, and that each refusal names the text at fault. */
#include "net/net.h"
#include "tap.h"

static struct net_config c;
static struct err err;

static bool good(const char *text)
{
    bool parsed = net_config_parse(&c, text, &err);

    if (!parsed)
        printf("# %s\n", err.text);
    return parsed;
}

static void bad(const char *text, const char *want)
{
    struct net_config before = c;

    ok(!net_config_parse(&c, text, &err) && strstr(err.text, want) && strstr(err.text, "--net"),
       "%s", err.text);
    ok(memcmp(&before, &c, sizeof c) == 0, "and nothing is changed");
}

static void test_kinds(void)
{
    ok(good("none") && c.kind == NET_NONE, "none");
    ok(good("user") && c.kind == NET_USER && c.queues == 1 && !c.mac[0], "user");
    ok(good("user,forward=tcp:2222:22,forward=udp:0.0.0.0:53:5353,hostname=box,restricted=on,mtu="
            "9000") &&
           c.forward_count == 2 && !c.forward[0].udp && c.forward[0].host_port == 2222 &&
           c.forward[0].guest_port == 22 && !c.forward[0].host[0] && c.forward[1].udp &&
           strcmp(c.forward[1].host, "0.0.0.0") == 0 && c.forward[1].guest_port == 5353 &&
           c.restricted && c.mtu == 9000 && strcmp(c.hostname, "box") == 0,
       "user with everything");
    ok(good("user,forward=tcp::2222:22") && !c.forward[0].host[0],
       "an empty address is the default");
    ok(good("user,forward=tcp:0:22,forward=tcp:0:80") && c.forward_count == 2,
       "any free port, twice");
    ok(good("tap,name=tap0,queues=4,mac=52:54:00:12:34:56") && c.kind == NET_TAP && c.queues == 4 &&
           strcmp(c.name, "tap0") == 0 && !c.vhost,
       "tap");
    ok(good("tap,name=tap0,vhost=on") && c.vhost, "tap by the kernel");
    ok(good("vhost-user,socket=/run/a,,b") && strcmp(c.socket, "/run/a,b") == 0,
       "a comma in a path");
}

static void test_refusals(void)
{
    bad("", "unknown kind");
    bad("usr", "\"usr\"");
    bad("user,forward", "\"forward\" is no key=value");
    bad("user,forwards=tcp:1:2", "did you mean \"forward\"");
    bad("user,name=tap0", "\"name\" means nothing for user");
    bad("user,forward=2222:22", "\"2222:22\"");
    bad("user,forward=tcp:22", "\"tcp:22\"");
    bad("user,forward=tcp:65536:22", "host port");
    bad("user,forward=tcp:22x:22", "host port");
    bad("user,forward=tcp:22:0", "guest port");
    bad("user,forward=tcp:22:", "guest port");
    bad("user,forward=tcp:300.0.0.1:1:2", "no IPv4 address");
    bad("user,forward=tcp:[::1]:1:2", "no IPv4 address");
    bad("user,forward=tcp:1:2,forward=tcp:1:3", "forwarded already");
    bad("user,hostname=a,hostname=b", "\"hostname\" is given twice");
    bad("user,mtu=100", "mtu=100");
    bad("user,mtu=99999999", "99999999");
    bad("tap", "name=INTERFACE");
    bad("tap,name=averyveryverylongname", "averyvery");
    bad("tap,name=t,queues=0", "queues=0");
    bad("tap,name=t,mac=52:54:00:12:34", "52:54:00:12:34");
    bad("tap,name=t,mac=53:54:00:12:34:56", "group address");
    bad("user,vhost=on", "\"vhost\" means nothing for user");
    bad("tap,name=t,vhost=maybe", "vhost");
    bad("vhost-user", "socket=PATH");
}

static void test_mac(void)
{
    uint8_t a[6], b[6];

    net_mac_make(a, "web", 0);
    net_mac_make(b, "web", 0);
    ok(memcmp(a, b, 6) == 0 && a[0] == 0x52 && a[1] == 0x54 && a[2] == 0,
       "the same name: the same address");
    net_mac_make(b, "web", 1);
    ok(memcmp(a, b, 6) != 0, "another index: another");
    net_mac_make(b, "wed", 0);
    ok(memcmp(a, b, 6) != 0, "another name: another");
    net_mac_make(a, NULL, 0);
    net_mac_make(b, NULL, 0);
    ok(memcmp(a, b, 6) != 0 && a[0] == 0x52, "random ones differ");
    ok(net_mac_parse(a, "52:54:00:ab:CD:0f", &err) && a[3] == 0xab && a[4] == 0xcd && a[5] == 0x0f,
       "parse");
    ok(!net_mac_parse(a, "52:54:00:ab:cd:0g", &err) &&
           !net_mac_parse(a, "52-54-00-ab-cd-0f", &err) &&
           !net_mac_parse(a, "00:00:00:00:00:00", &err) &&
           !net_mac_parse(a, "5:54:00:ab:cd:0ff", &err),
       "refuse");
}

int main(void)
{
    test_kinds();
    test_refusals();
    test_mac();
    return tap_done();
}
