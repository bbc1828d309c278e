/* SPDX-License-Identifier: MIT */
/* Huge pages as sysfs shows them: Linux's Documentation/admin-guide/mm, transhuge and hugetlbpage.
 * What cannot be read counts as not there. */
#include "mem/host.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define THP     "/sys/kernel/mm/transparent_hugepage/"
#define HUGETLB "/sys/kernel/mm/hugepages/hugepages-2048kB/"

static bool read_text(const char *path, char *text, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t len = fd >= 0 ? read(fd, text, size - 1) : -1;

    if (fd >= 0)
        close(fd);
    text[len > 0 ? len : 0] = 0;
    return len > 0;
}

/* The word in brackets is the one that holds. */
static bool chosen(const char *path, const char *const *words)
{
    char text[128];

    if (!read_text(path, text, sizeof text))
        return false;
    for (; *words; words++)
        if (strstr(text, *words))
            return true;
    return false;
}

bool host_huge_anonymous(void)
{
    static const char *const anonymous[] = {"[always]", "[madvise]", NULL};
    static const char *const shmem[] = {"[always]", "[within_size]", "[advise]", "[force]", NULL};

    return chosen(THP "enabled", anonymous) && !chosen(THP "shmem_enabled", shmem);
}

static uint64_t number(const char *path)
{
    char text[32];

    return read_text(path, text, sizeof text) ? strtoull(text, NULL, 10) : 0;
}

uint64_t host_huge_total(void)
{
    return number(HUGETLB "nr_hugepages");
}

uint64_t host_huge_free(void)
{
    uint64_t free_pages = number(HUGETLB "free_hugepages");
    uint64_t reserved = number(HUGETLB "resv_hugepages");
    uint64_t more = number(HUGETLB "nr_overcommit_hugepages");
    uint64_t surplus = number(HUGETLB "surplus_hugepages");

    return (free_pages > reserved ? free_pages - reserved : 0) +
           (more > surplus ? more - surplus : 0);
}
