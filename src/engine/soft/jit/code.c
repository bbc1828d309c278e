/* SPDX-License-Identifier: MIT */
/* Memory for translated code: one memfd, mapped twice, so that no mapping is ever both writable and
 * executable. It is made when a vCPU opens, before the machine's process gives up its rights
 * (doc/machine.md): later on executable mappings are refused. */
#include "engine/soft/jit/jit_int.h"
#include "engine/soft/jit/run.h"
#include <sys/mman.h>
#include <unistd.h>

static void map_memfd(size_t size, uint8_t **rw, uint8_t **rx)
{
    int fd = memfd_create("hull-jit", MFD_CLOEXEC);

    if (fd < 0)
        return;
    if (ftruncate(fd, (off_t)size) == 0) {
        *rw = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        *rx = mmap(NULL, size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    }
    close(fd);
}

/* perf(1) looks into its map only for memory that is no file: here mremap makes the other view. */
static void map_for_perf(size_t size, uint8_t **rw, uint8_t **rx)
{
    *rw = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (*rw == MAP_FAILED)
        return;
    *rx = mremap(*rw, 0, size, MREMAP_MAYMOVE);
    if (*rx != MAP_FAILED && mprotect(*rx, size, PROT_READ | PROT_EXEC) != 0) {
        munmap(*rx, size);
        *rx = MAP_FAILED;
    }
}

bool jit_code_open(struct jit *j, size_t size)
{
    uint8_t *rw = MAP_FAILED, *rx = MAP_FAILED;

    if (j->opt.perf)
        map_for_perf(size, &rw, &rx);
    else
        map_memfd(size, &rw, &rx);
    if (rw != MAP_FAILED && rx != MAP_FAILED) {
        j->rw = rw;
        j->to_exec = rx - rw;
        j->size = size;
        return true;
    }
    if (rw != MAP_FAILED)
        munmap(rw, size);
    if (rx != MAP_FAILED)
        munmap(rx, size);
    return false;
}

void jit_code_close(struct jit *j)
{
    if (j->rw == NULL)
        return;
    munmap(j->rw + j->to_exec, j->size);
    munmap(j->rw, j->size);
    j->rw = NULL;
}

static bool reaches(const void *near, const void *p, size_t size)
{
    intptr_t d = (intptr_t)((uintptr_t)p - (uintptr_t)near);

    return d > INT32_MIN / 2 && d + (intptr_t)size < INT32_MAX / 2;
}

void *soft_map_near(const void *near, size_t size)
{
    uintptr_t at = (uintptr_t)near & ~(uintptr_t)(2 * MiB - 1);

    for (int step = 1; step < 60; step++) {
        uintptr_t hint = at + (uintptr_t)((step & 1 ? 1 : -1) * (step + 1) / 2) * 16 * MiB;
        void *p = mmap((void *)hint, size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        if (p == MAP_FAILED)
            return NULL;
        if (reaches(near, p, size))
            return p;
        munmap(p, size);
    }
    return NULL;
}
