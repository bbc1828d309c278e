/* SPDX-License-Identifier: MIT */
/* Copying a disk image: FICLONE, else data by data with copy_file_range. */
#include "copy.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

static bool copy_range(int from, int to, off_t at, off_t end)
{
    while (at < end) {
        off_t in = at, out = at;
        ssize_t n = copy_file_range(from, &in, to, &out, (size_t)(end - at), 0);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n == 0; /* it ends here: somebody has cut it */
        at += n;
    }
    return true;
}

static bool copy_data(int from, int to, off_t size)
{
    off_t at = 0;

    while (at < size) {
        off_t data = lseek(from, at, SEEK_DATA), end;

        if (data < 0)
            return errno == ENXIO; /* only a hole is left */
        end = lseek(from, data, SEEK_HOLE);
        if (end < 0 || !copy_range(from, to, data, end))
            return false;
        at = end;
    }
    return true;
}

bool copy_to_fd(const char *from, int to, const char *name, struct err *err)
{
    int in = open(from, O_RDONLY | O_CLOEXEC);
    struct stat st;
    bool good;

    if (in < 0 || fstat(in, &st)) {
        err_set(err, errno, "%s: %s", from, strerror(errno));
        if (in >= 0)
            close(in);
        return false;
    }
    good = S_ISREG(st.st_mode) || err_set(err, EINVAL, "%s: only files can be copied", from);
    if (good && ioctl(to, FICLONE, in) &&
        (ftruncate(to, st.st_size) || !copy_data(in, to, st.st_size)))
        good = err_set(err, errno, "%s: cannot be copied to %s: %s", from, name, strerror(errno));
    if (good)
        futimens(to, (struct timespec[]){st.st_atim, st.st_mtim});
    close(in);
    return good;
}

bool copy_file(const char *from, const char *to, struct err *err)
{
    int fd = open(to, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    bool good = fd >= 0 || err_set(err, errno, "%s: %s", to, strerror(errno));

    good = good && copy_to_fd(from, fd, to, err);
    if (good && fsync(fd))
        good = err_set(err, errno, "%s: %s", to, strerror(errno));
    if (fd >= 0 && close(fd) && good)
        good = err_set(err, errno, "%s: %s", to, strerror(errno));
    return good;
}
