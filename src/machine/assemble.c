/* SPDX-License-Identifier: MIT */
/* From a config to a machine: memory, engine, board, disks, networks, virtio, ACPI tables, QMP.
 * Each step is one function; the order is that of machine_assemble at the end. */
#include "machine/machine.h"
#include "dev/chardev.h"
#include "dev/types.h"
#include "engine/choose.h"
#include "engine/x86/model.h"
#include "loop/listener.h"
#include "loop/uring.h"
#include "machine/dialer.h"
#include "machine/disks.h"
#include "machine/nbd.h"
#include "machine/qmp.h"
#include "machine/snapshot.h"
#include "net/net.h"
#include "virtio/devices.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/sysinfo.h>
#include <unistd.h>

/* ---- vsock: its dialer is forked before there is anything to fork along ---- */

static bool add_dialer(struct machine *m, struct err *err)
{
    m->dial_fd = -1;
    if (!m->config.vsock_socket[0])
        return true;
    m->dial_fd = dialer_start(m->config.vsock_socket, m->config.sandbox, err);
    return m->dial_fd >= 0;
}

static bool add_vsock(struct machine *m, struct err *err)
{
    int listener, dialer = m->dial_fd;

    if (!m->config.vsock_cid)
        return true;
    if (!m->config.vsock_socket[0])
        return device_attach(&m->board, virtio_vsock_vhost_new("vsock0", m->config.vsock_cid), err);
    listener = listen_unix(m->config.vsock_socket, 64, err);
    if (listener < 0)
        return err_wrap(err, "--vsock");
    m->vsock_listens = true;
    m->dial_fd = -1;
    return device_attach(&m->board,
                         virtio_vsock_new("vsock0", m->config.vsock_cid, listener, dialer), err);
}

/* ---- memory and vCPUs ---- */

static bool check_host_memory(const struct config *c, struct err *err)
{
    struct sysinfo host;
    uint64_t have;

    sysinfo(&host);
    have = ((uint64_t)host.totalram + host.totalswap) * host.mem_unit;
    if (c->memory <= have)
        return true;
    return err_set(err, ENOMEM, "--memory %lluM: this host has %lluM; give less",
                   (unsigned long long)(c->memory >> 20), (unsigned long long)(have >> 20));
}

static bool add_memory(struct machine *m, struct err *err)
{
    const struct config *c = &m->config;

    /* Saved memory is mapped from its file, whatever it was made of when it was saved. */
    if (c->hugepages && !m->restore && !mem_use_huge(&m->mem, c->memory, err))
        return err_wrap(err, "--memory %lluM,hugepages=on", (unsigned long long)(c->memory >> 20));
    for (unsigned i = 0; i < c->share_count; i++)
        if (!strcmp(c->share[i].type, "virtiofs"))
            mem_use_files(&m->mem);
    return check_host_memory(&m->config, err) && layout_init(&m->layout, m->config.memory, err) &&
           layout_add_ram(&m->layout, &m->mem, err) && (!m->restore || restore_memory(m, err));
}

static bool add_cpus(struct machine *m, struct err *err)
{
    struct engine_choice choice;
    struct cpu_offer offer;

    if (!engine_choose(m->config.engine, &choice, err) || !choice.ops->offer(&offer, err))
        return false;
    if (!cpu_model_make(&m->model, m->config.cpu, &offer, err))
        return err_wrap(err, "--cpu %s", m->config.cpu);
    if (m->restore && !restore_model(m, &offer, err))
        return false;
    log_info("engine %s: %s", choice.ops->name, choice.reason);
    if (choice.second_best && !m->config.quiet)
        snprintf(m->engine_note, sizeof m->engine_note, "%s", choice.reason);
    m->vm.mem = &m->mem;
    m->vm.mmio = &m->mmio;
    m->vm.pio = &m->pio;
    m->vm.model = &m->model;
    m->vm.random_seed = m->config.random_seed;
    if (m->config.deterministic && choice.ops != &soft_engine)
        return err_set(err, EINVAL, "--deterministic: only the soft engine can; use --engine soft");
    if (m->config.deterministic)
        machine_virtual(m);
    return vm_open(&m->vm, choice.ops, m->config.cpus, err);
}

/* ---- the board and its consoles ---- */

/* A machine holds few streams: a serial port, a virtio console, its ports. */
static bool open_stream(struct machine *m, const char *option, const char *spec, struct chardev **c,
                        struct err *err)
{
    *c = chardev_open(m->loop, spec, err);
    if (!*c)
        return err_wrap(err, "%s %s", option, spec);
    m->stream[m->stream_count++] = *c;
    return true;
}

static bool add_board(struct machine *m, struct err *err)
{
    m->parts.debug_exit = m->config.debug_exit;
    m->board.mem = &m->mem;
    m->board.mmio = &m->mmio;
    m->board.pio = &m->pio;
    m->board.loop = m->loop;
    m->board.cpu_count = m->config.cpus;
    return open_stream(m, "--serial", m->config.serial, &m->parts.serial[0], err) &&
           board_attach(&m->board, &m->parts, err);
}

/* ---- networks ---- */

/* No wire lies behind hull-usernet: it ends each TCP connection itself, so the guest's large sends
 * need not be cut on the way, and each costs it one acknowledgement instead of one in 1500 bytes.
 */
static struct net *net_uncut(struct net *n)
{
    if (n)
        n->mtu = 65535;
    return n;
}

static struct net *open_net(struct machine *m, const struct config_net *c,
                            const struct net_config *n, struct err *err)
{
    if (n->kind == NET_TAP)
        return net_tap_open(m->loop, n, err);
    if (n->kind == NET_USER && c->fd)
        return net_uncut(net_stream_open(m->loop, (int)c->fd, err));
    if (n->kind == NET_USER)
        err_set(err, EINVAL, "--net user needs a hull-usernet: start the machine with hull run");
    else
        err_set(err, ENOSYS, "--net %s: not in this version of hull", c->text);
    return NULL;
}

/* One backend for each pair of queues: only a tap has more than one. */
static bool open_pairs(struct machine *m, unsigned i, const struct net_config *n, uint16_t *pairs,
                       struct err *err)
{
    *pairs = n->kind == NET_TAP && n->queues ? n->queues : 1;
    if (*pairs > MACHINE_NET_PAIRS)
        return err_set(err, EINVAL, "queues=%u: at most %d", *pairs, MACHINE_NET_PAIRS);
    for (unsigned k = 0; k < *pairs; k++) {
        m->net[i][k] = open_net(m, &m->config.net[i], n, err);
        if (!m->net[i][k])
            return false;
    }
    return true;
}

static bool add_net(struct machine *m, unsigned i, struct err *err)
{
    const struct config_net *c = &m->config.net[i];
    struct net_config n;
    uint8_t mac[6];
    uint16_t pairs;
    char id[16];

    if (!net_config_parse(&n, c->text, err))
        return false;
    if (n.kind == NET_NONE)
        return true;
    if (n.mac[0] && !net_mac_parse(mac, n.mac, err))
        return err_wrap(err, "--net %s", c->text);
    if (!n.mac[0])
        net_mac_make(mac, m->config.name[0] ? m->config.name : NULL, i);
    snprintf(id, sizeof id, "net%u", i);
    return open_pairs(m, i, &n, &pairs, err) &&
           device_attach(
               &m->board,
               (n.vhost ? virtio_net_vhost_new : virtio_net_new)(id, m->net[i], pairs, mac, n.mtu),
               err);
}

static bool add_nets(struct machine *m, struct err *err)
{
    for (unsigned i = 0; i < m->config.net_count; i++)
        if (!add_net(m, i, err))
            return false;
    return true;
}

/* ---- the rest of virtio ---- */

/* hvc0 alone in its device: see virtio/console.c on the size of a console among ports. */
static bool add_console(struct machine *m, struct err *err)
{
    struct chardev *console;

    if (!strcmp(m->config.console, "none"))
        return true;
    return open_stream(m, "--console", m->config.console, &console, err) &&
           device_attach(&m->board, virtio_console_new("console0", console), err);
}

static bool add_port(struct machine *m, struct device *dev, const struct config_port *p,
                     struct err *err)
{
    char spec[sizeof p->socket + 8];
    struct chardev *stream;

    snprintf(spec, sizeof spec, "unix:%s", p->socket);
    return open_stream(m, "--port", spec, &stream, err) &&
           virtio_console_add_port(dev, p->name, stream, err);
}

static bool add_ports(struct machine *m, struct err *err)
{
    struct device *dev;

    if (!m->config.port_count)
        return true;
    dev = virtio_console_new("ports0", NULL);
    for (unsigned i = 0; dev && i < m->config.port_count; i++)
        if (!add_port(m, dev, &m->config.port[i], err)) {
            device_free(dev);
            return false;
        }
    return device_attach(&m->board, dev, err);
}

/* ---- shares ---- */

static bool add_share(struct machine *m, unsigned i, struct err *err)
{
    const struct config_share *s = &m->config.share[i];
    char id[16];

    if (!s->fd)
        return err_set(err, EINVAL,
                       "--share %s: needs a server of its own: start the machine with hull run",
                       s->dir);
    snprintf(id, sizeof id, "share%u", i);
    if (!strcmp(s->type, "virtiofs"))
        return device_attach(&m->board, virtio_fs_new(id, s->tag, (int)s->fd), err);
    return device_attach(&m->board, virtio_9p_new(id, s->tag, (int)s->fd, (int)s->area_fd), err);
}

static bool add_shares(struct machine *m, struct err *err)
{
    for (unsigned i = 0; i < m->config.share_count; i++)
        if (!add_share(m, i, err))
            return false;
    return true;
}

static bool add_small_devices(struct machine *m, struct err *err)
{
    uint64_t seed = m->config.has_random_seed ? m->config.random_seed : m->vm.random_seed;

    return device_attach(&m->board, virtio_rng_new("rng0", seed), err) &&
           (!m->config.balloon || device_attach(&m->board, virtio_balloon_new("balloon0"), err));
}

static bool add_qmp(struct machine *m, struct err *err)
{
    m->qmp = qmp_open(m, m->config.qmp, err);
    return m->qmp &&
           (!m->config.control_fd || qmp_add_client(m->qmp, (int)m->config.control_fd, err));
}

bool machine_assemble(struct machine *m, struct err *err)
{
    return add_dialer(m, err) && nbd_open(m, err) && nbd_listen(m, err) && add_memory(m, err) &&
           add_cpus(m, err) && add_board(m, err) && disks_open(m, err) && add_nets(m, err) &&
           add_console(m, err) && add_ports(m, err) && add_small_devices(m, err) &&
           add_shares(m, err) && add_vsock(m, err) && add_qmp(m, err);
}
