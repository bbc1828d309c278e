/* SPDX-License-Identifier: MIT */
/* Making and checking the checksums of saved memory; the layout is in sums.h. */
#include "machine/sums.h"
#include "base/bits.h"
#include "machine/saved.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define VERSION        1
#define CHUNK          (1 * MiB)
#define HEAD_LEN       32
#define SIZE_MAX_BYTES (1ULL << 46)

static const char magic[8] = "hullsums";

static bool read_at(int fd, void *to, size_t len, uint64_t at)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = pread(fd, (char *)to + done, len - done, (off_t)(at + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n == 0)
            errno = EIO; /* shorter than it was */
        if (n <= 0)
            return false;
        done += (size_t)n;
    }
    return true;
}

static bool is_zero(const uint8_t *bytes, size_t len)
{
    return !bytes[0] && !memcmp(bytes, bytes + 1, len - 1);
}

/* Of the chunk at `at`, which may be the short last one. `next` is where data comes next. */
static bool sum_chunk(int fd, uint8_t *buffer, uint64_t at, uint64_t size, uint64_t *next,
                      uint64_t *sum)
{
    size_t len = min_u64(CHUNK, size - at);
    off_t data;

    *sum = 0;
    if (*next <= at) {
        data = lseek(fd, (off_t)at, SEEK_DATA);
        *next = data >= 0 ? (uint64_t)data : errno == ENXIO ? size : at;
    }
    if (*next >= at + len)
        return true;
    if (!read_at(fd, buffer, len, at))
        return false;
    *next = at + len;
    if (!is_zero(buffer, len)) {
        *sum = xxh64(buffer, len);
        *sum += !*sum; /* 0 is taken */
    }
    return true;
}

/* The file as it has to be. NULL on error. */
static uint8_t *make_sums(int memory, int state, size_t *len, struct err *err)
{
    struct stat m, s;
    uint64_t size, count, next = 0, sum;
    uint8_t *bytes, *buffer, tail[8];
    bool good;

    if (fstat(memory, &m) || fstat(state, &s) || s.st_size < 8 ||
        (uint64_t)m.st_size > SIZE_MAX_BYTES || !read_at(state, tail, 8, (uint64_t)s.st_size - 8)) {
        err_set(err, EIO, "the snapshot cannot be read");
        return NULL;
    }
    size = (uint64_t)m.st_size;
    count = (size + CHUNK - 1) / CHUNK;
    *len = HEAD_LEN + 8 * (count + 1);
    bytes = calloc(1, *len);
    buffer = malloc(CHUNK);
    good = (bytes && buffer) || err_set(err, ENOMEM, "no memory for checksums");
    for (uint64_t i = 0; good && i < count; i++) {
        good = sum_chunk(memory, buffer, i * CHUNK, size, &next, &sum) ||
               err_set(err, errno, "memory cannot be read: %s", strerror(errno));
        if (good)
            put_le64(bytes + HEAD_LEN + 8 * i, sum);
    }
    free(buffer);
    if (!good) {
        free(bytes);
        return NULL;
    }
    memcpy(bytes, magic, sizeof magic);
    put_le32(bytes + 8, VERSION);
    put_le32(bytes + 12, CHUNK);
    put_le64(bytes + 16, size);
    memcpy(bytes + 24, tail, sizeof tail);
    put_le64(bytes + *len - 8, xxh64(bytes, *len - 8));
    return bytes;
}

bool sums_write(int memory, int state, int to, struct err *err)
{
    size_t len;
    uint8_t *bytes = make_sums(memory, state, &len, err);
    bool good = bytes != NULL;

    for (size_t done = 0; good && done < len;) {
        ssize_t n = pwrite(to, bytes + done, len - done, (off_t)done);

        if (n <= 0 && errno != EINTR)
            good = err_set(err, errno, SUMS_FILE " cannot be written: %s", strerror(errno));
        done += n > 0 ? (size_t)n : 0;
    }
    free(bytes);
    return good;
}

static bool compare(const uint8_t *file, const uint8_t *now, size_t len, const char *dir,
                    struct err *err)
{
    if (le64(file + len - 8) != xxh64(file, len - 8))
        return err_set(err, EINVAL, "%s/" SUMS_FILE ": is damaged or was altered", dir);
    if (memcmp(file + 24, now + 24, 8))
        return err_set(err, EINVAL, "%s/" SUMS_FILE ": belongs to another state", dir);
    for (size_t at = HEAD_LEN; at < len - 8; at += 8)
        if (le64(file + at) != le64(now + at))
            return err_set(err, EINVAL,
                           "%s/memory: is damaged or was altered within the MiB at %llu MiB", dir,
                           (unsigned long long)(at - HEAD_LEN) / 8);
    return true;
}

static bool check_files(const char *dir, int memory, int state, int sums, struct err *err)
{
    size_t len = 0;
    struct stat st;
    uint8_t *now, *file;
    bool good;

    if (fstat(sums, &st) || !S_ISREG(st.st_mode))
        return err_set(err, EINVAL, "%s/" SUMS_FILE ": is not a file", dir);
    now = make_sums(memory, state, &len, err);
    if (!now)
        return err_wrap(err, "%s", dir);
    file = malloc(len);
    good = file || err_set(err, ENOMEM, "no memory for checksums");
    if (good &&
        ((size_t)st.st_size != len || !read_at(sums, file, len, 0) || memcmp(file, now, 24)))
        good = err_set(
            err, EINVAL,
            "%s/" SUMS_FILE ": does not fit the memory: it was cut, altered, or is newer", dir);
    good = good && compare(file, now, len, dir, err);
    free(file);
    free(now);
    return good;
}

bool sums_check(const char *dir, struct err *err)
{
    int memory = saved_file(dir, "memory", err);
    int state = memory >= 0 ? saved_file(dir, "state", err) : -1;
    int sums = state >= 0 ? saved_file(dir, SUMS_FILE, err) : -1;
    bool good;

    if (state >= 0 && sums < 0)
        err_set(err, ENOENT, "%s: has no checksums (" SUMS_FILE "), an earlier hull saved it", dir);
    good = sums >= 0 && check_files(dir, memory, state, sums, err);
    if (memory >= 0)
        close(memory);
    if (state >= 0)
        close(state);
    if (sums >= 0)
        close(sums);
    return good;
}
