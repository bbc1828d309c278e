/* SPDX-License-Identifier: MIT */
/* What paging should answer, written as the manual does: Intel SDM 3, 4.6 and 4.7. */
#ifndef HULL_GUEST_PAGING_H
#define HULL_GUEST_PAGING_H

#include "guest.h"

enum { P = 1, W = 2, U = 4, A = 0x20, D = 0x40, PS = 0x80, G = 0x100 };
enum access { READ, WRITE, FETCH };

struct paging_case {
    unsigned leaf, upper; /* P, W, U */
    bool leaf_nx, upper_nx, wp, smep, nxe;
    enum access access;
    bool user;
};

/* The page fault's error code, or -1. */
static inline int paging_expect(const struct paging_case *c)
{
    unsigned both = c->leaf & c->upper;
    bool nx = c->leaf_nx || c->upper_nx, fault;
    int code = (c->access == WRITE ? 2 : 0) | (c->user ? 4 : 0) |
               (c->access == FETCH && (c->nxe || c->smep) ? 16 : 0);

    if (!(both & P))
        return code;
    if (c->user)
        fault = !(both & U) || (c->access == WRITE && !(both & W)) || (c->access == FETCH && nx);
    else
        fault = (c->access == WRITE && !(both & W) && c->wp) ||
                (c->access == FETCH && (nx || (c->smep && (both & U))));
    return fault ? code | 1 : -1;
}

#endif
