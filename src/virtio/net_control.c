/* SPDX-License-Identifier: MIT */
/* virtio-net's control queue (virtio 1.2, 5.1.6.5): receive filter, addresses, queue pairs,
 * announcement. A command is two bytes, then its data, then one byte for the answer. */
#include "virtio/net_card.h"

static const uint8_t broadcast[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

/* ---- receive filter ---- */

static bool in_table(const uint8_t *table, uint32_t count, const uint8_t mac[6])
{
    for (uint32_t i = 0; i < count; i++)
        if (!memcmp(table + 6 * i, mac, 6))
            return true;
    return false;
}

bool net_filter_accepts(const struct virtio_net *n, const uint8_t to[6])
{
    const struct net_filter *f = &n->filter;

    if (f->promisc)
        return true;
    if (!memcmp(to, broadcast, 6))
        return !f->nobcast;
    if (to[0] & 1)
        return !f->nomulti &&
               (f->allmulti || f->multi_overflow || in_table(f->multi, f->multi_count, to));
    return !f->nouni && (f->alluni || f->uni_overflow || !memcmp(to, n->mac, 6) ||
                         in_table(f->uni, f->uni_count, to));
}

static bool rx_mode(struct virtio_net *n, uint8_t cmd, struct chain *c)
{
    struct net_filter *f = &n->filter;
    uint8_t on;

    if (chain_left(c) != 1 || !chain_read(c, &on, 1))
        return false;
    switch (cmd) {
    case VIRTIO_NET_CTRL_RX_PROMISC: f->promisc = on; return true;
    case VIRTIO_NET_CTRL_RX_ALLMULTI: f->allmulti = on; return true;
    case VIRTIO_NET_CTRL_RX_ALLUNI: f->alluni = on; return true;
    case VIRTIO_NET_CTRL_RX_NOMULTI: f->nomulti = on; return true;
    case VIRTIO_NET_CTRL_RX_NOUNI: f->nouni = on; return true;
    case VIRTIO_NET_CTRL_RX_NOBCAST: f->nobcast = on; return true;
    default: return false;
    }
}

/* One table: a count, then so many addresses. A table longer than ours means "all of them". */
static bool read_table(struct chain *c, uint8_t *table, uint32_t *count, bool *overflow)
{
    uint32_t entries;

    if (!chain_read(c, &entries, 4) || entries > chain_left(c) / 6)
        return false;
    *overflow = entries > NET_MACS_MAX;
    *count = *overflow ? 0 : entries;
    return *overflow ? chain_skip(c, 6 * (size_t)entries)
                     : chain_read(c, table, 6 * (size_t)entries);
}

static bool set_mac(struct virtio_net *n, uint8_t cmd, struct chain *c)
{
    struct net_filter f = n->filter;

    switch (cmd) {
    case VIRTIO_NET_CTRL_MAC_ADDR_SET:
        if (chain_left(c) != 6 || !chain_read(c, n->mac, 6))
            return false;
        virtio_config_set(&n->v, 0, n->mac, 6, false);
        return true;
    case VIRTIO_NET_CTRL_MAC_TABLE_SET:
        if (!read_table(c, f.uni, &f.uni_count, &f.uni_overflow) ||
            !read_table(c, f.multi, &f.multi_count, &f.multi_overflow))
            return false;
        n->filter = f;
        return true;
    default: return false;
    }
}

static bool set_pairs(struct virtio_net *n, uint8_t cmd, struct chain *c)
{
    uint16_t pairs;

    if (cmd != VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET || chain_left(c) != 2 || !chain_read(c, &pairs, 2) ||
        !pairs || pairs > n->pair_count)
        return false;
    n->active_pairs = pairs;
    net_vhost_refresh(n);
    return true;
}

/* ---- commands ---- */

static bool command(struct virtio_net *n, struct chain *c)
{
    struct virtio_net_ctrl_hdr h;

    if (!chain_read(c, &h, sizeof h))
        return false;
    switch (h.class) {
    case VIRTIO_NET_CTRL_RX: return virtio_has(&n->v, VIRTIO_NET_F_CTRL_RX) && rx_mode(n, h.cmd, c);
    case VIRTIO_NET_CTRL_MAC:
        return (h.cmd == VIRTIO_NET_CTRL_MAC_TABLE_SET
                    ? virtio_has(&n->v, VIRTIO_NET_F_CTRL_RX)
                    : virtio_has(&n->v, VIRTIO_NET_F_CTRL_MAC_ADDR)) &&
               set_mac(n, h.cmd, c);
    case VIRTIO_NET_CTRL_MQ: return virtio_has(&n->v, VIRTIO_NET_F_MQ) && set_pairs(n, h.cmd, c);
    case VIRTIO_NET_CTRL_ANNOUNCE:
        if (h.cmd != VIRTIO_NET_CTRL_ANNOUNCE_ACK)
            return false;
        net_link_update(n, n->link & (uint16_t)~VIRTIO_NET_S_ANNOUNCE, false);
        return true;
    default: return false;
    }
}

void net_control_kick(struct virtio_net *n, struct queue *q)
{
    struct chain *c;

    while ((c = queue_next(q)) != NULL) {
        uint8_t answer = command(n, c) ? VIRTIO_NET_OK : VIRTIO_NET_ERR;

        chain_write(c, &answer, 1);
        chain_finish(c);
    }
}

/* As a card comes up: everything is received until the driver says what it wants. */
void net_control_reset(struct virtio_net *n)
{
    memset(&n->filter, 0, sizeof n->filter);
    n->filter.promisc = true;
    n->active_pairs = 1;
    memcpy(n->mac, n->permanent_mac, 6);
    virtio_config_set(&n->v, 0, n->mac, 6, false);
}

void net_link_update(struct virtio_net *n, uint16_t link, bool interrupt)
{
    n->link = link;
    virtio_config_set(&n->v, offsetof(struct virtio_net_config, status), &n->link, 2, interrupt);
}

void virtio_net_link(struct device *dev, bool up)
{
    struct virtio_net *n = container_of(dev, struct virtio_net, v.dev);
    uint16_t others = n->link & (uint16_t)~VIRTIO_NET_S_LINK_UP;

    net_link_update(n, up ? others | VIRTIO_NET_S_LINK_UP : others, true);
    net_vhost_refresh(n);
}

void virtio_net_readdress(struct device *dev, const uint8_t mac[6])
{
    struct virtio_net *n = container_of(dev, struct virtio_net, v.dev);

    memcpy(n->permanent_mac, mac, 6);
    virtio_config_set(&n->v, 0, mac, 6, false);
}

void virtio_net_announce(struct device *dev)
{
    struct virtio_net *n = container_of(dev, struct virtio_net, v.dev);

    if (virtio_has(&n->v, VIRTIO_NET_F_GUEST_ANNOUNCE))
        net_link_update(n, n->link | VIRTIO_NET_S_ANNOUNCE, true);
}

const struct field net_filter_state[] = {
    FIELD(struct net_filter, promisc, 1),
    FIELD(struct net_filter, allmulti, 1),
    FIELD(struct net_filter, alluni, 1),
    FIELD(struct net_filter, nomulti, 1),
    FIELD(struct net_filter, nouni, 1),
    FIELD(struct net_filter, nobcast, 1),
    FIELD(struct net_filter, uni_overflow, 1),
    FIELD(struct net_filter, multi_overflow, 1),
    FIELD(struct net_filter, uni_count, NET_MACS_MAX),
    FIELD(struct net_filter, multi_count, NET_MACS_MAX),
    FIELD_BYTES(struct net_filter, uni),
    FIELD_BYTES(struct net_filter, multi),
    {0},
};
