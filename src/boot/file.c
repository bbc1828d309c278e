/* SPDX-License-Identifier: MIT */
/* Kernel and module files: opened once, read with pread, so that a reset reads them again. */
#include "boot/loader.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#define LABEL_MAX    96
#define UNPACKED_MAX (1 * GiB)
#define CHUNK        65536

const char *file_label(const struct boot_file *f)
{
    size_t len = strlen(f->name);

    return len > LABEL_MAX ? f->name + (len - LABEL_MAX) : f->name;
}

/* The whole text may be a name with spaces; else the name ends at the first space. */
static int open_split(struct boot_file *f)
{
    char *space = strchr(f->name, ' ');
    int fd = open(f->name, O_RDONLY | O_CLOEXEC | O_NONBLOCK), whole = errno;

    f->args = "";
    if (fd >= 0 || errno != ENOENT || space == NULL)
        return fd;
    *space = '\0';
    fd = open(f->name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        *space = ' ';
        errno = whole;
        return -1;
    }
    f->args = space + 1;
    return fd;
}

bool file_open(struct boot_file *f, struct err *err)
{
    struct stat st;

    f->fd = open_split(f);
    if (f->fd < 0)
        return err_set(err, errno, "cannot open %s '%s': %s", f->role, file_label(f),
                       strerror(errno));
    if (fstat(f->fd, &st) != 0)
        return err_set(err, errno, "cannot look at %s '%s': %s", f->role, file_label(f),
                       strerror(errno));
    if (!S_ISREG(st.st_mode))
        return err_set(err, EINVAL, "%s '%s' is not a regular file%s", f->role, file_label(f),
                       S_ISDIR(st.st_mode) ? " but a directory" : ": copy it to one");
    if (st.st_size == 0)
        return err_set(err, EINVAL, "%s '%s' is empty", f->role, file_label(f));
    f->size = (uint64_t)st.st_size;
    return true;
}

void file_close(struct boot_file *f)
{
    if (f->name == NULL)
        return;
    if (f->fd >= 0)
        close(f->fd);
    free(f->name);
    f->name = NULL;
}

bool file_read(const struct boot_file *f, uint64_t offset, void *to, size_t len, struct err *err)
{
    uint8_t *at = to;

    if (offset > f->size || len > f->size - offset)
        return err_set(err, EINVAL, "the file is cut: it has %llu bytes and %llu are needed",
                       (unsigned long long)f->size, (unsigned long long)offset + len);
    while (len > 0) {
        ssize_t n = pread(f->fd, at, len, (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(err, errno, "cannot read at byte %llu: %s", (unsigned long long)offset,
                           strerror(errno));
        if (n == 0)
            return err_set(err, EIO, "the file became shorter while it was read");
        at += n;
        offset += (uint64_t)n;
        len -= (size_t)n;
    }
    return true;
}

bool file_send(const struct boot_file *f, uint64_t offset, int to, uint64_t to_offset, size_t len)
{
    off_t from = (off_t)offset;

    if (offset > f->size || len > f->size - offset || lseek(to, (off_t)to_offset, SEEK_SET) < 0)
        return false;
    while (len > 0) {
        ssize_t n = sendfile(to, f->fd, &from, len);

        if (n == 0 || (n < 0 && errno != EINTR))
            return false;
        if (n > 0)
            len -= (size_t)n;
    }
    return true;
}

static bool write_all(int fd, const uint8_t *from, size_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, from, len);

        if (n < 0 && errno != EINTR)
            return false;
        if (n > 0) {
            from += n;
            len -= (size_t)n;
        }
    }
    return true;
}

static bool unpack(const struct boot_file *f, z_stream *z, int fd, uint64_t *size, struct err *err)
{
    uint8_t in[4096], out[CHUNK];
    uint64_t read_at = 0;
    int status = Z_OK;

    *size = 0;
    while (status != Z_STREAM_END) {
        if (z->avail_in == 0 && read_at < f->size) {
            z->avail_in = (unsigned)min_u64(sizeof in, f->size - read_at);
            z->next_in = in;
            if (!file_read(f, read_at, in, z->avail_in, err))
                return false;
            read_at += z->avail_in;
        }
        z->next_out = out;
        z->avail_out = sizeof out;
        status = inflate(z, Z_NO_FLUSH);
        if (status != Z_OK && status != Z_STREAM_END)
            return err_set(err, EINVAL, "the gzip data is damaged or cut: copy the file again");
        *size += sizeof out - z->avail_out;
        if (*size > UNPACKED_MAX)
            return err_set(err, EFBIG, "unpacked it is larger than %llu MiB", UNPACKED_MAX / MiB);
        if (!write_all(fd, out, sizeof out - z->avail_out))
            return err_set(err, errno, "cannot unpack: %s", strerror(errno));
    }
    return *size > 0 || err_set(err, EINVAL, "nothing is packed in it");
}

bool file_gunzip(struct boot_file *f, struct err *err)
{
    z_stream z = {0};
    int fd = memfd_create("kernel", MFD_CLOEXEC);
    uint64_t size;
    bool good;

    if (fd < 0)
        return err_set(err, errno, "cannot unpack: %s", strerror(errno));
    if (inflateInit2(&z, 15 + 16) != Z_OK) { /* the largest window, gzip framing */
        close(fd);
        return err_set(err, ENOMEM, "no memory to unpack");
    }
    good = unpack(f, &z, fd, &size, err);
    inflateEnd(&z);
    if (!good) {
        close(fd);
        return false;
    }
    close(f->fd);
    f->fd = fd;
    f->size = size;
    return true;
}
