/* SPDX-License-Identifier: MIT */
/* Opening the file or block device behind an image: what it is, how large, whose.
 *
 * The lock is an open-file-description lock: on the whole file for a writer, shared for readers. It
 * belongs to the inode, so another name for the file (a link, a bind mount) meets it
 * too, and to our open description, so it ends with the process however that dies. */
#include "block/format.h"
#include "base/log.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static bool say_cannot_open(const struct block_config *c, int code, struct err *err)
{
    const char *fix = "";

    if (code == EACCES || code == EPERM || code == EROFS)
        fix = c->readonly ? ": change its permissions"
                          : ": change its permissions, or add readonly=on";
    else if (code == EBUSY)
        fix = ": it is mounted or belongs to a volume group: unmount it, or add readonly=on";
    else if (code == EINVAL && c->cache == CACHE_NONE)
        fix = ": its file system has no direct I/O: leave out cache=none";
    return err_set(err, code, "%s: cannot be opened for %s: %s%s", c->file,
                   c->readonly ? "reading" : "writing", strerror(code), fix);
}

static bool check_kind(const char *file, const struct stat *st, struct err *err)
{
    if (S_ISREG(st->st_mode) || S_ISBLK(st->st_mode))
        return true;
    return err_set(err, EINVAL, "%s: is %s, not a disk image: give a file or a block device", file,
                   S_ISDIR(st->st_mode)    ? "a directory"
                   : S_ISCHR(st->st_mode)  ? "a character device"
                   : S_ISFIFO(st->st_mode) ? "a pipe"
                                           : "a socket");
}

static int set_lock(int fd, short type, off_t start, off_t length)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};

    return fcntl(fd, F_OFD_SETLK, &lock);
}

/* A reader's lock leaves free what QEMU's tools would take for a writer's: of their bytes it has
 * 100 (reads), 201 and 203 (nobody may write or resize), so qemu-img may read along. */
static int lock_shared(int fd)
{
    static const struct {
        off_t start, length;
        bool ours;
    } part[] = {{100, 1, true},  {201, 1, true},    {203, 1, true},  {300, 0, true},
                {0, 100, false}, {101, 100, false}, {202, 1, false}, {204, 96, false}};
    int failed = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(part) && !failed; i++)
        failed = set_lock(fd, part[i].ours ? F_RDLCK : F_UNLCK, part[i].start, part[i].length);
    return failed;
}

int image_file_lock(int fd, enum image_lock kind)
{
    if (kind == IMAGE_SHARED)
        return lock_shared(fd);
    return set_lock(fd, kind == IMAGE_FREE ? F_UNLCK : F_WRLCK, 0, 0);
}

static bool lock_file(int fd, const struct block_config *c, struct err *err)
{
    if (c->no_lock || image_file_lock(fd, c->readonly ? IMAGE_SHARED : IMAGE_EXCLUSIVE) == 0)
        return true;
    if (errno == EAGAIN || errno == EACCES)
        return err_set(err, EBUSY,
                       "%s: is in use by another machine: stop that one, or give this one %s",
                       c->file, c->readonly ? "a copy" : "a copy of the disk");
    /* Some network file systems have no locks. The user asked for this disk: go on, but say so. */
    log_warn("%s: cannot be locked (%s): make sure that no other machine uses it", c->file,
             strerror(errno));
    return true;
}

/* A number from the device's queue directory in sysfs, or `otherwise`. Partitions have it one up.
 */
static uint64_t queue_number(dev_t dev, const char *name, uint64_t otherwise)
{
    static const char *const where[] = {"", "/.."};

    for (unsigned i = 0; i < ARRAY_SIZE(where); i++) {
        char path[128], text[32] = "";
        FILE *in;

        snprintf(path, sizeof path, "/sys/dev/block/%u:%u%s/queue/%s", major(dev), minor(dev),
                 where[i], name);
        in = fopen(path, "re");
        if (!in)
            continue;
        if (!fgets(text, sizeof text, in))
            text[0] = '\0';
        fclose(in);
        return text[0] ? strtoull(text, NULL, 10) : otherwise;
    }
    return otherwise;
}

static bool describe_device(struct image_file *f, const struct stat *st, const char *file,
                            struct err *err)
{
    unsigned physical = 512;

    if (ioctl(f->fd, BLKGETSIZE64, &f->size) != 0)
        return err_set(err, errno, "%s: cannot tell its size: %s", file, strerror(errno));
    ioctl(f->fd, BLKPBSZGET, &physical);
    f->is_device = true;
    f->block_size = physical;
    f->discard_align = (uint32_t)queue_number(st->st_rdev, "discard_granularity", physical);
    f->rotational = queue_number(st->st_rdev, "rotational", 0) != 0;
    return true;
}

static bool describe(struct image_file *f, const char *file, struct err *err)
{
    struct stat st;

    if (fstat(f->fd, &st) != 0)
        return err_set(err, errno, "%s: %s", file, strerror(errno));
    if (!check_kind(file, &st, err))
        return false;
    f->dev = st.st_dev;
    f->ino = st.st_ino;
    if (S_ISBLK(st.st_mode))
        return describe_device(f, &st, file, err);
    f->size = (uint64_t)st.st_size;
    f->block_size = st.st_blksize > 512 ? (uint32_t)st.st_blksize : 512;
    f->discard_align = f->block_size;
    f->rotational = queue_number(st.st_dev, "rotational", 0) != 0;
    return true;
}

/* What O_DIRECT asks of offsets and memory here: the kernel says since 6.1, else a device's sector
 * or, for files, a page, which is enough everywhere. The C library's struct statx is older than the
 * answer: two 32-bit words, for memory and for offsets, at byte 0x98. */
static uint32_t direct_align(const struct image_file *f)
{
    enum { DIOALIGN = 0x2000, MASK_WORD = 0, ALIGN_WORD = 0x98 / 4 };
    uint32_t answer[64] = {0}, sector = 0;

    if (syscall(SYS_statx, f->fd, "", AT_EMPTY_PATH, DIOALIGN, answer) == 0 &&
        (answer[MASK_WORD] & DIOALIGN) && answer[ALIGN_WORD + 1])
        return answer[ALIGN_WORD] > answer[ALIGN_WORD + 1] ? answer[ALIGN_WORD]
                                                           : answer[ALIGN_WORD + 1];
    if (f->is_device && ioctl(f->fd, BLKSSZGET, &sector) == 0 && sector)
        return sector;
    return 4096;
}

bool image_file_open(struct image_file *f, const struct block_config *c, struct err *err)
{
    int flags = (c->readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY;
    struct stat st;

    *f = (struct image_file){.fd = -1, .readonly = c->readonly};
    if (!c->file[0])
        return err_set(err, EINVAL, "a disk needs a file: FILE[,key=value]...");
    /* Looking first keeps us from waiting in open() for a pipe's other end. */
    if (stat(c->file, &st) != 0)
        return err_set(err, errno, "%s: %s%s", c->file, strerror(errno),
                       errno == ENOENT ? ": check the name, or make one with truncate -s SIZE FILE"
                                       : "");
    if (!check_kind(c->file, &st, err))
        return false;
    if (S_ISBLK(st.st_mode) && !c->readonly)
        flags |= O_EXCL; /* refused while the host has it mounted */
    if (c->cache == CACHE_NONE)
        flags |= O_DIRECT;
    f->fd = open(c->file, flags);
    if (f->fd < 0)
        return say_cannot_open(c, errno, err);
    if (!lock_file(f->fd, c, err) || !describe(f, c->file, err))
        goto close_file;
    if (c->cache == CACHE_NONE)
        f->direct_align = direct_align(f);
    return true;
close_file:
    image_file_close(f);
    return false;
}

void image_file_close(struct image_file *f)
{
    if (f->fd >= 0)
        close(f->fd);
    f->fd = -1;
}
