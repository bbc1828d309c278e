/* SPDX-License-Identifier: MIT */
/* A circular list whose links are embedded in their owner. */
#ifndef HULL_BASE_LIST_H
#define HULL_BASE_LIST_H

#include "base/bits.h"

struct list {
    struct list *next, *prev;
};

static inline void list_init(struct list *l)
{
    l->next = l->prev = l;
}

static inline bool list_empty(const struct list *l)
{
    return l->next == l;
}

/* Puts `item` before `at`: at the end when `at` is the head. */
static inline void list_add(struct list *at, struct list *item)
{
    item->prev = at->prev;
    item->next = at;
    at->prev->next = item;
    at->prev = item;
}

/* Leaves `item` linked to itself, so removing twice is harmless. */
static inline void list_remove(struct list *item)
{
    item->prev->next = item->next;
    item->next->prev = item->prev;
    list_init(item);
}

#define list_for(var, head) for (struct list *var = (head)->next; var != (head); var = var->next)
/* The body may remove `var`. */
#define list_for_safe(var, head)                                                                   \
    for (struct list *var = (head)->next, *var##_next = var->next; var != (head);                  \
         var = var##_next, var##_next = var->next)

#endif
