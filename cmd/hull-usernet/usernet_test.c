/* SPDX-License-Identifier: MIT */
/* hull-usernet from the guest's side: the test is the guest, with a DHCP, ARP, UDP and TCP of a few
 * lines, and the host's programs too. Runs in a network namespace of its own where that is allowed;
 * then even the name server is the test's. usernet_test PROGRAM */
#include "base/bits.h"
#include "base/clock.h"
#include "tap.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define HOST_IP  0x0a000202u
#define DNS_IP   0x0a000203u
#define GUEST_IP 0x0a00020fu

static const uint8_t guest_mac[6] = {0x52, 0x54, 0, 0x12, 0x34, 0x56};
static const char *program;

struct guest {
    int fd;
    pid_t pid;
    char ready[1024];
    uint8_t host_mac[6];
    uint8_t frame[70000]; /* the last one received */
    size_t len;
};

struct tcp {
    uint32_t peer, seq, ack;
    uint16_t port, peer_port;
};

/* ---- bytes ---- */

static uint16_t checksum(const void *data, size_t len, uint32_t sum)
{
    const uint8_t *p = data;

    for (size_t i = 0; i < len; i++)
        sum += i & 1 ? p[i] : (uint32_t)p[i] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

/* ---- the program ---- */

/* Starts it with `net`; false if it ended before it was ready (its message is on stderr). */
static bool start(struct guest *g, const char *net)
{
    int link[2], ready[2];
    char fd[16], ready_fd[16];
    size_t n = 0;
    ssize_t got;

    memset(g, 0, sizeof *g);
    memset(g->host_mac, 255, 6);
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, link) != 0 || pipe(ready) != 0)
        exit(1);
    fcntl(link[0], F_SETFD, FD_CLOEXEC);
    g->fd = link[0];
    g->pid = fork();
    if (g->pid == 0) {
        snprintf(fd, sizeof fd, "%d", link[1]);
        snprintf(ready_fd, sizeof ready_fd, "%d", ready[1]);
        close(ready[0]);
        execl(program, program, "--fd", fd, "--ready-fd", ready_fd, "--net", net, NULL);
        _exit(127);
    }
    close(link[1]);
    close(ready[1]);
    while (n < sizeof g->ready - 1 &&
           (got = read(ready[0], g->ready + n, sizeof g->ready - 1 - n)) > 0)
        n += (size_t)got;
    close(ready[0]);
    return strstr(g->ready, "ready\n") != NULL;
}

/* Its exit status once it has ended, within `ms`; -1: still there. 256 + signal if killed. */
static int ended(pid_t pid, int ms)
{
    int status;

    for (uint64_t end = now_ns() + (uint64_t)ms * 1000000; now_ns() < end; usleep(2000)) {
        if (waitpid(pid, &status, WNOHANG) == pid)
            return WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
    }
    return -1;
}

static int stop(struct guest *g)
{
    close(g->fd);
    return ended(g->pid, 3000);
}

static unsigned bound_port(const struct guest *g, const char *kind)
{
    char want[16];
    const char *at;

    snprintf(want, sizeof want, "forward %s ", kind);
    at = strstr(g->ready, want);
    return at ? (unsigned)atoi(at + strlen(want)) : 0;
}

/* ---- frames ---- */

static void send_frame(struct guest *g, unsigned type, const void *data, size_t len)
{
    uint8_t f[2048] = {0};

    put_be32(f, (uint32_t)(14 + len));
    memcpy(f + 4, g->host_mac, 6);
    memcpy(f + 10, guest_mac, 6);
    put_be16(f + 16, type);
    memcpy(f + 18, data, len);
    if (write(g->fd, f, 18 + len) != (ssize_t)(18 + len))
        printf("# a frame was not taken whole\n");
}

static bool read_all(int fd, void *to, size_t len, int ms)
{
    for (size_t at = 0; at < len;) {
        struct pollfd p = {fd, POLLIN, 0};
        ssize_t n = poll(&p, 1, ms) > 0 ? read(fd, (char *)to + at, len - at) : 0;

        if (n <= 0)
            return false;
        at += (size_t)n;
    }
    return true;
}

static void send_arp(struct guest *g, unsigned op, const uint8_t *to_mac, uint32_t to)
{
    uint8_t arp[28] = {0, 1, 8, 0, 6, 4};

    put_be16(arp + 6, op);
    memcpy(arp + 8, guest_mac, 6);
    put_be32(arp + 14, GUEST_IP);
    if (to_mac)
        memcpy(arp + 18, to_mac, 6);
    put_be32(arp + 24, to);
    send_frame(g, 0x0806, arp, sizeof arp);
}

/* The next frame; who asks for our address is answered on the way. */
static bool receive(struct guest *g, int ms)
{
    uint8_t header[4];
    const uint8_t *arp = g->frame + 14;

    do {
        if (!read_all(g->fd, header, 4, ms))
            return false;
        g->len = be32(header);
        if (g->len < 14 || g->len > sizeof g->frame || !read_all(g->fd, g->frame, g->len, 1000))
            return false;
        if (be16(g->frame + 12) != 0x0806)
            return true;
        memcpy(g->host_mac, g->frame + 6, 6);
        if (be16(arp + 6) == 1 && be32(arp + 24) == GUEST_IP)
            send_arp(g, 2, arp + 8, be32(arp + 14));
    } while (be16(arp + 6) == 1);
    return true;
}

/* An IPv4 packet of that protocol; the layer above begins at frame + 34. */
static bool receive_ip(struct guest *g, unsigned protocol, int ms)
{
    for (uint64_t end = now_ns() + (uint64_t)ms * 1000000; now_ns() < end;) {
        if (!receive(g, ms))
            return false;
        if (g->len >= 34 && be16(g->frame + 12) == 0x0800 && g->frame[23] == protocol &&
            checksum(g->frame + 14, 20, 0) == 0)
            return true;
    }
    return false;
}

static void send_ip(struct guest *g, unsigned protocol, uint32_t from, uint32_t to,
                    const void *data, size_t len)
{
    uint8_t ip[1600] = {0x45};

    put_be16(ip + 2, (unsigned)(20 + len));
    ip[8] = 64;
    ip[9] = (uint8_t)protocol;
    put_be32(ip + 12, from);
    put_be32(ip + 16, to);
    put_be16(ip + 10, checksum(ip, 20, 0));
    memcpy(ip + 20, data, len);
    send_frame(g, 0x0800, ip, 20 + len);
}

static void send_udp(struct guest *g, uint32_t from, unsigned from_port, uint32_t to, unsigned port,
                     const void *data, size_t len)
{
    uint8_t udp[1500] = {0};

    put_be16(udp, from_port);
    put_be16(udp + 2, port);
    put_be16(udp + 4, (unsigned)(8 + len)); /* no checksum: allowed in IPv4 */
    memcpy(udp + 8, data, len);
    send_ip(g, 17, from, to, udp, 8 + len);
}

static bool receive_udp(struct guest *g, unsigned port, int ms)
{
    while (receive_ip(g, 17, ms)) {
        if (be16(g->frame + 36) == port)
            return true;
    }
    return false;
}

/* ---- a TCP of a few lines: no loss, no windows ---- */

enum { FIN = 1, SYN = 2, RST = 4, PSH = 8, ACK = 16 };

static void send_tcp(struct guest *g, struct tcp *t, unsigned flags, const void *data, size_t len)
{
    uint8_t pseudo[12 + 20 + 1400] = {0}, *tcp = pseudo + 12;

    put_be32(pseudo, GUEST_IP);
    put_be32(pseudo + 4, t->peer);
    pseudo[9] = 6;
    put_be16(pseudo + 10, (unsigned)(20 + len));
    put_be16(tcp, t->port);
    put_be16(tcp + 2, t->peer_port);
    put_be32(tcp + 4, t->seq);
    put_be32(tcp + 8, t->ack);
    tcp[12] = 5 << 4;
    tcp[13] = (uint8_t)flags;
    put_be16(tcp + 14, 60000);
    if (len)
        memcpy(tcp + 20, data, len);
    put_be16(tcp + 16, checksum(pseudo, 12 + 20 + len, 0));
    send_ip(g, 6, GUEST_IP, t->peer, tcp, 20 + len);
    t->seq += (uint32_t)len + ((flags & (SYN | FIN)) != 0);
}

/* The next segment to our port, in order; acknowledges data. Its flags, or -1. */
static int receive_tcp(struct guest *g, struct tcp *t, char *data, size_t *len, int ms)
{
    while (receive_ip(g, 6, ms)) {
        const uint8_t *tcp = g->frame + 34;
        unsigned flags = tcp[13], offset = (unsigned)(tcp[12] >> 4) * 4;
        size_t have = (size_t)be16(g->frame + 16) - 20 - offset;

        if (be16(tcp + 2) != t->port)
            continue;
        if (flags & SYN) {
            t->peer = be32(g->frame + 26);
            t->peer_port = be16(tcp);
            t->ack = be32(tcp + 4) + 1;
            *len = 0;
            return (int)flags;
        }
        if (!(flags & RST) && be32(tcp + 4) != t->ack)
            continue; /* sent again: we have it */
        memcpy(data, tcp + offset, have);
        *len = have;
        t->ack += (uint32_t)have + (flags & FIN);
        if (have || (flags & FIN))
            send_tcp(g, t, ACK, NULL, 0);
        return (int)flags;
    }
    return -1;
}

/* Skips empty acknowledgements. */
static bool expect_data(struct guest *g, struct tcp *t, const char *want)
{
    char data[65536];
    size_t len = 0;

    while (receive_tcp(g, t, data, &len, 3000) >= 0) {
        if (len)
            return len == strlen(want) && memcmp(data, want, len) == 0;
    }
    return false;
}

static bool expect_fin(struct guest *g, struct tcp *t)
{
    char data[65536];
    size_t len;
    int flags;

    while ((flags = receive_tcp(g, t, data, &len, 3000)) >= 0) {
        if (flags & (FIN | RST))
            return true;
    }
    return false;
}

/* ---- the host's programs ---- */

static int host_socket(int type, unsigned *port)
{
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)*port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);

    if (bind(fd, (struct sockaddr *)&at, sizeof at) != 0 ||
        getsockname(fd, (struct sockaddr *)&at, &len) != 0)
        return -1;
    if (type == SOCK_STREAM)
        listen(fd, 8);
    *port = ntohs(at.sin_port);
    return fd;
}

static int host_connect(int type, unsigned port)
{
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);

    if (connect(fd, (struct sockaddr *)&at, sizeof at) == 0)
        return fd;
    close(fd);
    return -1;
}

static bool host_reads(int fd, const char *want)
{
    char got[256] = "";

    return read_all(fd, got, strlen(want), 3000) && memcmp(got, want, strlen(want)) == 0;
}

/* ---- tests ---- */

static const uint8_t *dhcp_option(const struct guest *g, unsigned code)
{
    const uint8_t *p = g->frame + 42 + 240, *end = g->frame + g->len;

    while (p + 2 < end && *p != 255) {
        if (*p == code)
            return p + 2;
        p += *p ? 2 + p[1] : 1;
    }
    return NULL;
}

static bool dhcp(struct guest *g, unsigned kind, unsigned want)
{
    uint8_t m[300] = {1, 1, 6, 0, 0x12, 0x34, 0x56, 0x78};
    uint8_t options[] = {99, 130, 83, 99, 53, 1,  (uint8_t)kind, 50, 4, 10, 0, 2, 15,
                         55, 3,   1,  3,  6,  255};
    const uint8_t *type;

    memcpy(m + 28, guest_mac, 6);
    memcpy(m + 236, options, sizeof options);
    send_udp(g, 0, 68, 0xffffffff, 67, m, sizeof m);
    if (!receive_udp(g, 68, 3000))
        return false;
    type = dhcp_option(g, 53);
    return type && *type == want && be32(g->frame + 42 + 16) == GUEST_IP;
}

static void test_dhcp(struct guest *g)
{
    const uint8_t *router, *dns, *name;

    ok(dhcp(g, 1, 2), "DHCP: discover brings an offer of 10.0.2.15");
    ok(dhcp(g, 3, 5), "DHCP: request brings an acknowledgement");
    router = dhcp_option(g, 3);
    dns = dhcp_option(g, 6);
    name = dhcp_option(g, 12);
    ok(router && be32(router) == HOST_IP, "DHCP: the router is 10.0.2.2");
    ok(dns && be32(dns) == DNS_IP, "DHCP: the name server is 10.0.2.3");
    ok(name && memcmp(name, "box", 3) == 0, "DHCP: the host name is given");
    send_arp(g, 1, NULL, HOST_IP);
    ok(receive(g, 3000) && be16(g->frame + 12) == 0x0806 && be32(g->frame + 28) == HOST_IP,
       "ARP: 10.0.2.2 answers");
}

static void test_ping(struct guest *g)
{
    uint8_t echo[64] = {8, 0, 0, 0, 1, 2, 0, 1, 'h', 'u', 'l', 'l'};

    put_be16(echo + 2, checksum(echo, sizeof echo, 0));
    send_ip(g, 1, GUEST_IP, HOST_IP, echo, sizeof echo);
    ok(receive_ip(g, 1, 3000) && g->frame[34] == 0 && memcmp(g->frame + 42, "hull", 4) == 0,
       "ping: 10.0.2.2 answers");
}

/* The host connects to a forwarded port: the guest serves. */
static void test_forward_in(struct guest *g)
{
    struct tcp t = {.port = 22, .seq = 1000};
    int fd = host_connect(SOCK_STREAM, bound_port(g, "tcp"));
    char none[65536];
    size_t len;

    ok(fd >= 0, "forward: the host connects to port %u", bound_port(g, "tcp"));
    ok(receive_tcp(g, &t, none, &len, 3000) == SYN, "forward: the guest sees it at port 22");
    send_tcp(g, &t, SYN | ACK, NULL, 0);
    receive_tcp(g, &t, none, &len, 3000);
    ok(write(fd, "hello guest", 11) == 11 && expect_data(g, &t, "hello guest"),
       "forward: host to guest");
    send_tcp(g, &t, PSH | ACK, "hello host", 10);
    ok(host_reads(fd, "hello host"), "forward: guest to host");
    close(fd);
    ok(expect_fin(g, &t), "forward: the host's close arrives");
    send_tcp(g, &t, FIN | ACK, NULL, 0);
}

/* The guest connects to a server on the host's loopback, under the name 10.0.2.2. */
static bool guest_connect(struct guest *g, struct tcp *t, unsigned server_port)
{
    char none[65536];
    size_t len;

    *t = (struct tcp){
        .port = 40000, .seq = 5000, .peer = HOST_IP, .peer_port = (uint16_t)server_port};
    send_tcp(g, t, SYN, NULL, 0);
    if (receive_tcp(g, t, none, &len, 1500) != (SYN | ACK))
        return false;
    send_tcp(g, t, ACK, NULL, 0);
    return true;
}

static void test_out(struct guest *g)
{
    unsigned port = 0;
    int listener = host_socket(SOCK_STREAM, &port), fd;
    struct tcp t;

    ok(guest_connect(g, &t, port), "out: the guest connects to a server on the host");
    fd = accept(listener, NULL, NULL);
    send_tcp(g, &t, PSH | ACK, "GET /", 5);
    ok(host_reads(fd, "GET /"), "out: guest to host");
    ok(write(fd, "200 OK", 6) == 6 && expect_data(g, &t, "200 OK"), "out: host to guest");
    send_tcp(g, &t, FIN | ACK, NULL, 0);
    ok(read(fd, &t, 1) == 0, "out: the guest's close arrives");
    close(fd);
    close(listener);
}

static void test_udp(struct guest *g)
{
    unsigned from_port;
    int fd = host_connect(SOCK_DGRAM, bound_port(g, "udp"));

    ok(fd >= 0 && write(fd, "ping", 4) == 4 && receive_udp(g, 5353, 3000) &&
           memcmp(g->frame + 42, "ping", 4) == 0,
       "UDP forward: host to guest");
    from_port = be16(g->frame + 34);
    send_udp(g, GUEST_IP, 5353, be32(g->frame + 26), from_port, "pong", 4);
    ok(host_reads(fd, "pong"), "UDP forward: and back");
    close(fd);
}

static void test_dns(struct guest *g, bool own)
{
    static const uint8_t query[] = {0xab, 0xcd, 1,   0,   0,   1,   0, 0, 0, 0, 0,
                                    0,    4,    'h', 'u', 'l', 'l', 0, 0, 1, 0, 1};
    struct sockaddr_in from;
    socklen_t len = sizeof from;
    uint8_t message[512];
    unsigned port = 53;
    int fd = own ? host_socket(SOCK_DGRAM, &port) : -1;
    struct timeval wait = {3, 0};

    if (fd < 0) {
        tap_skip("DNS", "no namespace in which port 53 is ours");
        return;
    }
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    send_udp(g, GUEST_IP, 40001, DNS_IP, 53, query, sizeof query);
    ok(recvfrom(fd, message, sizeof message, 0, (struct sockaddr *)&from, &len) == sizeof query &&
           memcmp(message, query, sizeof query) == 0,
       "DNS: a query to 10.0.2.3 reaches the host's name server");
    message[2] |= 0x80;
    sendto(fd, message, sizeof query, 0, (struct sockaddr *)&from, len);
    ok(receive_udp(g, 40001, 3000) && be32(g->frame + 26) == DNS_IP && g->frame[44] & 0x80,
       "DNS: the answer comes from 10.0.2.3");
    close(fd);
}

/* A number or word after "NAME:" in the process's status. */
static bool status_has(pid_t pid, const char *name, const char *want)
{
    char path[64], line[256];
    bool has = false;
    FILE *in;

    snprintf(path, sizeof path, "/proc/%d/status", pid);
    in = fopen(path, "r");
    while (in && fgets(line, sizeof line, in)) {
        if (strncmp(line, name, strlen(name)) == 0 && line[strlen(name)] == ':')
            has = strtoull(line + strlen(name) + 1, NULL, 16) == strtoull(want, NULL, 16);
    }
    if (in)
        fclose(in);
    return has;
}

static void test_fence(struct guest *g)
{
    char path[64];

    ok(status_has(g->pid, "Seccomp", "2"), "fence: a system call filter");
    ok(status_has(g->pid, "NoNewPrivs", "1"), "fence: no new privileges");
    ok(status_has(g->pid, "CapEff", "0") && status_has(g->pid, "CapPrm", "0"),
       "fence: no capabilities");
    snprintf(path, sizeof path, "/proc/%d/root/usr", g->pid);
    if (access(path, F_OK) == 0)
        tap_skip("fence: a root of its own", "Landlock instead, or no namespaces");
    else
        ok(true, "fence: a root of its own");
}

static void test_errors(void)
{
    unsigned port = 0;
    int fd = host_socket(SOCK_STREAM, &port);
    struct guest g;
    char net[64];

    snprintf(net, sizeof net, "user,forward=tcp:%u:22", port);
    ok(!start(&g, net) && stop(&g) == 1, "a TCP port in use: exit 1");
    close(fd);
    port = 0;
    fd = host_socket(SOCK_DGRAM, &port);
    snprintf(net, sizeof net, "user,forward=udp:%u:53", port);
    ok(!start(&g, net) && stop(&g) == 1, "a UDP port in use: exit 1");
    close(fd);
    ok(!start(&g, "user,forward=tcp:192.0.2.77:0:22") && stop(&g) == 1,
       "not this host's address: exit 1");
    ok(!start(&g, "user,forwrd=tcp:1:2") && stop(&g) == 2, "a wrong key: exit 2");
    ok(!start(&g, "tap,name=x") && stop(&g) == 2, "another kind: exit 2");
    ok(start(&g, "user") && write(g.fd, "\xff\xff\xff\xff", 4) == 4 && ended(g.pid, 3000) == 0,
       "a hostile length ends it");
    close(g.fd);
}

static void test_restricted(void)
{
    unsigned port = 0;
    int listener = host_socket(SOCK_STREAM, &port);
    struct guest g;
    struct tcp t;

    ok(start(&g, "user,restricted=on") && dhcp(&g, 1, 2), "restricted: DHCP works");
    send_arp(&g, 1, NULL, HOST_IP);
    receive(&g, 1000);
    ok(!guest_connect(&g, &t, port), "restricted: no way out");
    ok(stop(&g) == 0, "ends when the socket closes");
    close(listener);
}

/* The machine is another process, killed: nothing but the socket tells. */
static void test_killed_peer(void)
{
    struct guest g;
    pid_t peer;
    int status;

    ok(start(&g, "user"), "start");
    peer = fork();
    if (peer == 0) {
        pause();
        _exit(0);
    }
    close(g.fd);
    ok(ended(g.pid, 200) == -1, "while the machine lives, it stays");
    kill(peer, SIGKILL);
    waitpid(peer, &status, 0);
    ok(ended(g.pid, 3000) == 0, "kill -9 of the machine ends it");
}

/* Its parent is killed while the machine's end of the socket stays open. */
static void test_killed_parent(void)
{
    struct {
        pid_t pid;
        int fd;
    } child = {-1, -1};
    int pipes[2], status;
    struct guest g;
    pid_t parent;

    prctl(PR_SET_CHILD_SUBREAPER, 1);
    if (pipe(pipes) != 0)
        return;
    parent = fork();
    if (parent == 0) {
        start(&g, "user");
        fcntl(g.fd, F_SETFD, 0);
        if (fork() == 0) { /* holds the socket open */
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            sleep(20);
            _exit(0);
        }
        if (write(pipes[1], &g.pid, sizeof g.pid) > 0)
            pause();
        _exit(1);
    }
    ok(read(pipes[0], &child.pid, sizeof child.pid) == sizeof child.pid, "a grandchild");
    kill(parent, SIGKILL);
    waitpid(parent, &status, 0);
    ok(ended(child.pid, 3000) >= 0, "kill -9 of the parent ends it");
    while (waitpid(-1, &status, WNOHANG) > 0)
        ;
}

/* A network, and a resolv.conf that names our own server. False, in a network all the same, where
 * "/" is no mount point: in a chroot. */
static bool own_namespace(void)
{
    char name[] = "/tmp/hull-resolv-XXXXXX", map[32];
    uid_t uid = geteuid();
    gid_t gid = getegid();
    struct ifreq ifr = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
    int fd;

    if (uid != 0) {
        if (unshare(CLONE_NEWUSER) != 0)
            return false;
        fd = open("/proc/self/setgroups", O_WRONLY);
        if (write(fd, "deny", 4) < 0)
            return false;
        fd = open("/proc/self/uid_map", O_WRONLY);
        if (write(fd, map, (size_t)snprintf(map, sizeof map, "0 %u 1", uid)) < 0)
            return false;
        fd = open("/proc/self/gid_map", O_WRONLY);
        if (write(fd, map, (size_t)snprintf(map, sizeof map, "0 %u 1", gid)) < 0)
            return false;
    }
    if (unshare(CLONE_NEWNET | CLONE_NEWNS) != 0)
        return false;
    if (ioctl(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), SIOCSIFFLAGS, &ifr) != 0 ||
        mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
        return false;
    fd = mkstemp(name);
    if (write(fd, "nameserver 127.0.0.1\n", 21) != 21 || fchmod(fd, 0644) != 0)
        return false;
    close(fd);
    fd = mount(name, "/etc/resolv.conf", NULL, MS_BIND, NULL);
    unlink(name);
    return fd == 0;
}

int main(int argc, char **argv)
{
    bool own = own_namespace();
    struct guest g;

    signal(SIGPIPE, SIG_IGN);
    program = argc > 1 ? argv[1] : "hull-usernet";
    if (!ok(start(&g, "user,hostname=box,forward=tcp:0:22,forward=udp:0:5353"), "start"))
        return tap_done();
    test_dhcp(&g);
    test_ping(&g);
    test_forward_in(&g);
    test_out(&g);
    test_udp(&g);
    test_dns(&g, own);
    test_fence(&g);
    ok(stop(&g) == 0, "ends when the socket closes");
    test_restricted();
    test_errors();
    test_killed_peer();
    test_killed_parent();
    return tap_done();
}
