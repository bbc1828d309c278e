/* SPDX-License-Identifier: MIT */
/* The 9P server from the guest's side: what a friendly client does, and what a hostile one tries:
 * names that lead up or out, numbers without end, lengths that lie, and a host that swaps files for
 * symlinks meanwhile. */
#include "server.h"
#include "tap.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/xattr.h>
#include <unistd.h>

static struct server *s;
static char folder[] = "/tmp/hull-9p-test-XXXXXX", share[64], path_buf[512];
static int top; /* `folder`, as paths below the share's are reached by */
static uint8_t request[P9_MSIZE], reply[P9_MSIZE];
static size_t len, got;

/* ---- a client of a few lines ---- */

static void begin(unsigned type)
{
    request[4] = (uint8_t)type;
    put_le16(request + 5, 77);
    len = P9_HEADER;
}

static void u16(uint16_t v)
{
    put_le16(request + len, v);
    len += 2;
}

static void u32(uint32_t v)
{
    put_le32(request + len, v);
    len += 4;
}

static void u64(uint64_t v)
{
    put_le64(request + len, v);
    len += 8;
}

static void text(const char *t)
{
    u16((uint16_t)strlen(t));
    memcpy(request + len, t, strlen(t));
    len += strlen(t);
}

/* 0, or the error that the server answered. */
static int call_room(size_t room)
{
    unsigned type = request[4];

    put_le32(request, (uint32_t)len);
    memset(reply, 0xee, 64);
    got = server_handle(s, request, len, reply, room);
    if (got < P9_HEADER || le32(reply) != got || le16(reply + 5) != 77)
        return -1;
    if (reply[4] == P9_LERROR + 1)
        return got == P9_ERROR_LEN ? (int)le32(reply + P9_HEADER) : -1;
    return reply[4] == type + 1 ? 0 : -1;
}

static int call(void)
{
    return call_room(sizeof reply);
}

static int version(uint32_t msize, const char *name)
{
    begin(P9_VERSION);
    u32(msize);
    text(name);
    return call();
}

static int attach(uint32_t fid)
{
    begin(P9_ATTACH);
    u32(fid);
    u32(UINT32_MAX);
    text("root");
    text("");
    u32(0);
    return call();
}

static int walk1(uint32_t fid, uint32_t to, const char *name)
{
    begin(P9_WALK);
    u32(fid);
    u32(to);
    u16(1);
    text(name);
    return call();
}

static int clunk(uint32_t fid)
{
    begin(P9_CLUNK);
    u32(fid);
    return call();
}

static int lopen(uint32_t fid, uint32_t flags)
{
    begin(P9_LOPEN);
    u32(fid);
    u32(flags);
    return call();
}

static int create(uint32_t fid, const char *name, uint32_t flags, uint32_t mode)
{
    begin(P9_LCREATE);
    u32(fid);
    text(name);
    u32(flags);
    u32(mode);
    u32(getegid());
    return call();
}

static int write_at(uint32_t fid, uint64_t offset, const void *data, uint32_t count)
{
    begin(P9_WRITE);
    u32(fid);
    u64(offset);
    u32(count);
    memcpy(request + len, data, count);
    len += count;
    return call();
}

static int read_at(uint32_t fid, uint64_t offset, uint32_t count)
{
    begin(P9_READ);
    u32(fid);
    u64(offset);
    u32(count);
    return call();
}

static int named(unsigned type, uint32_t fid, const char *name)
{
    begin(type);
    u32(fid);
    text(name);
    if (type == P9_MKDIR) {
        u32(0755);
        u32(getegid());
    } else if (type == P9_SYMLINK) {
        text("target");
        u32(getegid());
    } else if (type == P9_MKNOD) {
        u32(S_IFREG | 0644);
        u64(0);
        u32(getegid());
    } else if (type == P9_UNLINKAT)
        u32(0);
    return call();
}

/* `fid` at name below the root, which is fid 0. */
static int at(uint32_t fid, const char *name)
{
    clunk(fid);
    return walk1(0, fid, name);
}

static const char *in_share(const char *name)
{
    snprintf(path_buf, sizeof path_buf, "%s/%s", share, name);
    return path_buf;
}

static bool file_is(const char *name, const char *want)
{
    char have[256] = "";
    int fd = open(in_share(name), O_RDONLY);
    ssize_t n = fd >= 0 ? read(fd, have, sizeof have - 1) : -1;

    if (fd >= 0)
        close(fd);
    return n == (ssize_t)strlen(want) && !memcmp(have, want, (size_t)n);
}

static void put_file(const char *path, const char *what)
{
    FILE *f = fopen(path, "w");

    if (!f || fputs(what, f) < 0 || fclose(f))
        ok(false, "%s is written", path);
}

/* ---- friendly ---- */

static void test_version(void)
{
    ok(!version(8192, "9P2000.L") && le32(reply + 7) == 8192 && le16(reply + 11) == 8 &&
           !memcmp(reply + 13, "9P2000.L", 8),
       "version");
    ok(!version(UINT32_MAX, "9P2000.L") && le32(reply + 7) == P9_MSIZE, "msize has a limit");
    ok(version(100, "9P2000.L") == EMSGSIZE, "and a least");
    ok(!version(8192, "9P2000.u") && !memcmp(reply + 13, "unknown", 7), "other versions: unknown");
    ok(!version(P9_MSIZE, "9P2000.L") && !attach(0) && reply[7] == P9_QID_DIR, "attach");
    ok(attach(0) == EEXIST, "a fid is used once");
    begin(P9_AUTH);
    ok(call() == EOPNOTSUPP, "nobody authenticates");
}

static void test_files(void)
{
    at(1, "x");
    begin(P9_WALK);
    u32(0);
    u32(1);
    u16(0);
    ok(!call() && got == 9, "a walk of no names clones");
    ok(!create(1, "file", O_RDWR | O_EXCL, 0640), "create");
    ok(!write_at(1, 0, "hello", 5) && le32(reply + 7) == 5 && file_is("file", "hello"), "write");
    ok(!read_at(1, 1, 100) && le32(reply + 7) == 4 && !memcmp(reply + 11, "ello", 4), "read");
    ok(!read_at(1, 5, 100) && !le32(reply + 7), "read at the end");
    ok(lopen(1, 0) == EBUSY && create(1, "again", O_RDWR, 0600) == EBUSY &&
           walk1(1, 1, "x") == ENOTDIR,
       "an open fid is not opened, nor walked from");
    ok(!at(2, "file") && lopen(2, 0) == 0 && write_at(2, 0, "no", 2) == EBADF, "open for reading");
    ok(!walk1(0, 3, "file"), "walk");
    begin(P9_SETATTR);
    u32(3);
    u32(1 | 8 | 0x10 | 0x20 | 0x80 | 0x100);
    u32(06755);
    u32(0);
    u32(0);
    u64(3);
    u64(11);
    u64(12);
    u64(21);
    u64(22);
    ok(!call(), "setattr");
    begin(P9_GETATTR);
    u32(3);
    u64(0x7ff);
    ok(!call() && le32(reply + 28) == (S_IFREG | 0755) && le64(reply + 56) == 3 &&
           le64(reply + 80) == 11 && le64(reply + 96) == 21,
       "getattr: mode without set-uid, size, times");
    begin(P9_SETATTR);
    u32(3);
    u32(8);
    for (unsigned i = 0; i < 3; i++)
        u32(0);
    u64((1ULL << 62) - 1);
    for (unsigned i = 0; i < 4; i++)
        u64(0);
    call(); /* the file system decides how far it goes */
    begin(P9_GETATTR);
    u32(3);
    u64(0x7ff);
    ok(!call(), "a size near the largest");
    begin(P9_STATFS);
    u32(0);
    ok(!call() && le32(reply + 11), "statfs");
    ok(!clunk(1) && !clunk(2) && clunk(1) == EBADF, "clunk, once");
}

static void test_names(void)
{
    struct stat st;

    ok(!named(P9_MKDIR, 0, "dir") && named(P9_MKDIR, 0, "dir") == EEXIST, "mkdir");
    ok(!named(P9_SYMLINK, 0, "link") && !at(4, "link") && reply[9] == P9_QID_LINK, "symlink");
    begin(P9_READLINK);
    u32(4);
    ok(!call() && le16(reply + 7) == 6 && !memcmp(reply + 9, "target", 6), "readlink");
    at(5, "dir");
    at(6, "file");
    begin(P9_LINK);
    u32(5);
    u32(6);
    text("hard");
    ok(!call() && !stat(in_share("dir/hard"), &st) && st.st_nlink == 2, "link");
    begin(P9_LINK);
    u32(0);
    u32(4);
    text("hardlink");
    ok(!call() && !lstat(in_share("hardlink"), &st) && S_ISLNK(st.st_mode), "link of a symlink");
    begin(P9_RENAMEAT);
    u32(5);
    text("hard");
    u32(0);
    text("moved");
    ok(!call() && !stat(in_share("moved"), &st), "renameat");
    begin(P9_RENAME);
    u32(6);
    u32(5);
    text("file");
    ok(!call() && !stat(in_share("dir/file"), &st), "rename, by the fid");
    begin(P9_REMOVE);
    u32(6);
    ok(!call() && stat(in_share("dir/file"), &st) && clunk(6) == EBADF, "remove, by the fid");
    begin(P9_UNLINKAT);
    u32(0);
    text("dir");
    u32(0);
    ok(call() == EISDIR, "unlinkat: of a directory only if it says so");
    begin(P9_UNLINKAT);
    u32(0);
    text("dir");
    u32(AT_REMOVEDIR);
    ok(!call(), "unlinkat");
    clunk(5);
}

/* Every name comes once, however the listing is cut. */
static unsigned list(uint32_t count)
{
    static const char dots[] = ".";
    unsigned names = 0;
    uint64_t offset = 0;

    at(8, "many");
    if (lopen(8, 0))
        return 0;
    for (unsigned turn = 0; turn < 1000; turn++) {
        begin(P9_READDIR);
        u32(8);
        u64(offset);
        u32(count);
        if (call() || !le32(reply + 7))
            break;
        for (size_t i = 11; i < got;) {
            offset = le64(reply + i + 13);
            names += reply[i + 24] != dots[0];
            i += 24u + le16(reply + i + 22);
        }
    }
    return names;
}

static void test_listing(void)
{
    char name[32];

    mkdir(in_share("many"), 0755);
    for (unsigned i = 0; i < 300; i++) {
        snprintf(name, sizeof name, "many/entry-%u", i);
        put_file(in_share(name), "");
    }
    ok(list(65536) == 300 && list(200) == 300 && list(700) == 300, "readdir in pieces of any size");
    ok(list(10) == 0, "and in none");
}

static void test_xattr(void)
{
    char value[8];

    put_file(in_share("attributed"), "");
    at(9, "attributed");
    begin(P9_XATTRCREATE);
    u32(9);
    text("user.test");
    u64(5);
    u32(0);
    if (call() || write_at(9, 0, "value", 5) || clunk(9)) {
        tap_skip("xattr", "no user.* attributes in /tmp");
        return;
    }
    ok(getxattr(in_share("attributed"), "user.test", value, sizeof value) == 5 &&
           !memcmp(value, "value", 5),
       "xattrcreate");
    at(9, "attributed");
    begin(P9_XATTRWALK);
    u32(9);
    u32(10);
    text("user.test");
    ok(!call() && le64(reply + 7) == 5 && !read_at(10, 0, 64) && !memcmp(reply + 11, "value", 5),
       "xattrwalk");
    clunk(10);
    begin(P9_XATTRWALK);
    u32(9);
    u32(10);
    text("");
    ok(!call() && le64(reply + 7) == 10 && !read_at(10, 0, 64) &&
           !memcmp(reply + 11, "user.test", 10),
       "the list of names");
    clunk(10);
    begin(P9_XATTRCREATE);
    u32(9);
    text("user.test");
    u64(0);
    u32(XATTR_REPLACE);
    ok(!call() && !clunk(9) && getxattr(in_share("attributed"), "user.test", value, 8) < 0,
       "removing one");
    at(9, "attributed");
    begin(P9_XATTRCREATE);
    u32(9);
    text("security.capability");
    u64(5);
    u32(0);
    ok(call() == EOPNOTSUPP, "others than user.* are not there");
    begin(P9_XATTRCREATE);
    u32(9);
    text("user.test");
    u64(1ULL << 62);
    u32(0);
    ok(call() == E2BIG, "nor huge ones");
}

/* ---- hostile ---- */

static void test_ways_out(void)
{
    static const char *const names[] = {"..",  "../outside", "/etc", "dir/../..", ".",
                                        "a/b", "",           "/",    "./x"};
    static const unsigned makers[] = {P9_MKDIR, P9_SYMLINK, P9_MKNOD, P9_UNLINKAT};
    struct stat st, root;
    bool good = true;

    mkdir(in_share("dir"), 0755);
    for (unsigned i = 1; i < ARRAY_SIZE(names); i++)
        good &= at(20, names[i]) == ENOENT;
    ok(good, "no walk by a name that is a path");
    stat(share, &root);
    ok(!at(20, "..") && le64(reply + 14) == root.st_ino, "above the root is the root");
    at(20, "dir");
    ok(!walk1(20, 21, "..") && le64(reply + 14) == root.st_ino && !walk1(21, 22, "..") &&
           le64(reply + 14) == root.st_ino,
       "and .. is where one came from");
    clunk(21);
    clunk(22);
    for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
        for (unsigned k = 0; k < ARRAY_SIZE(makers); k++)
            good &= named(makers[k], 20, names[i]) == EINVAL;
    for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
        good &= create(20, names[i], O_RDWR, 0644) == EINVAL;
        begin(P9_RENAMEAT);
        u32(0);
        text("many");
        u32(20);
        text(names[i]);
        good &= call() == EINVAL;
    }
    ok(good, "nothing is made, renamed or removed by such names");
    begin(P9_WALK);
    u32(0);
    u32(23);
    u16(1);
    u16(4);
    memcpy(request + len, "di\0r", 4);
    len += 4;
    ok(call() == ENAMETOOLONG, "no NUL in a name");

    ok(!symlinkat("../outside", AT_FDCWD, in_share("out")) &&
           !symlinkat("/etc", AT_FDCWD, in_share("etc")),
       "symlinks to the outside");
    at(24, "out");
    ok(walk1(24, 25, "secret") == ENOTDIR && lopen(24, 0) == ELOOP &&
           create(24, "new", O_RDWR, 0644) == ENOTDIR && named(P9_MKDIR, 24, "new") == ENOTDIR,
       "lead nowhere, whatever is asked of them");
    ok(create(0, "out", O_RDWR, 0644) == ELOOP && create(0, "out", O_RDWR | O_EXCL, 0644) == EEXIST,
       "nor does creating a file of their name");
    begin(P9_SETATTR);
    u32(24);
    u32(8);
    for (unsigned i = 0; i < 3; i++)
        u32(0);
    for (unsigned i = 0; i < 5; i++)
        u64(0);
    ok(call() == EINVAL, "nor truncating");
    /* A directory that the host takes out of the share keeps its fid; what is above stays hidden.
     */
    mkdir(in_share("taken"), 0755);
    at(26, "taken");
    renameat(AT_FDCWD, in_share("taken"), top, "taken");
    ok(!walk1(26, 27, "..") && le64(reply + 14) == root.st_ino && walk1(26, 28, "../outside") != 0,
       "a directory that was moved out does not lead out");
    fstatat(top, "outside/secret", &st, 0);
    ok(st.st_size == 6, "the outside is as it was");
    clunk(27);
}

static void test_special(void)
{
    begin(P9_MKNOD);
    u32(0);
    text("null");
    u32(S_IFCHR | 0666);
    u32(1);
    u32(3);
    u32(0);
    ok(call() == EPERM, "no device is made");
    mkfifo(in_share("fifo"), 0666);
    ok(!at(30, "fifo") && lopen(30, 0) == EPERM && create(0, "fifo", O_RDWR, 0644) == EPERM,
       "no FIFO is opened, so nobody waits for its other end");
    if (!mknodat(AT_FDCWD, in_share("zero"), S_IFCHR | 0666, 0x105)) {
        ok(!at(31, "zero") && lopen(31, 0) == EPERM && lopen(31, 1) == EPERM,
           "no device is opened");
        clunk(31);
    } else
        tap_skip("devices", "only root can make one");
}

static void test_lies(void)
{
    uint8_t small[64] = {0};
    bool good = true;

    ok(clunk(12345) == EBADF && read_at(UINT32_MAX, 0, 1) == EBADF, "fids that do not exist");
    at(40, "attributed");
    lopen(40, 2);
    ok(!read_at(40, UINT64_MAX, UINT32_MAX) || le32(reply + 7) == EINVAL, "offsets without end");
    begin(P9_READ);
    u32(40);
    u64(0);
    u32(UINT32_MAX);
    ok(!call_room(20) && got <= 20, "a read into little room");
    begin(P9_WRITE);
    u32(40);
    u64(0);
    u32(UINT32_MAX);
    ok(call() == EINVAL, "a write of more than was sent");
    begin(P9_WALK);
    u32(0);
    u32(41);
    u16(17);
    ok(call() == EINVAL, "a walk of 17 names");
    begin(P9_WALK);
    u32(0);
    u32(41);
    u16(16);
    ok(call() == ENAMETOOLONG, "a walk of names that are not there");
    begin(P9_MKDIR);
    u32(0);
    u16(60000);
    ok(call() == EINVAL, "a name that is longer than its request");
    for (unsigned type = 0; type < 256; type++) {
        begin(type);
        good &= call() != -1 || type == P9_VERSION;
        put_le32(small, sizeof small);
        small[4] = (uint8_t)type;
        for (size_t l = 0; l <= sizeof small; l++)
            for (size_t room = 0; room < 32; room += 11)
                server_handle(s, small, l, reply, room);
    }
    ok(good, "every type, empty, short and cut");
    version(P9_MSIZE, "9P2000.L");
    ok(!attach(0), "and it goes on");
    put_le32(request, 3);
    ok(server_handle(s, request, 11, reply, 64) == P9_ERROR_LEN, "a size below the header's");
    put_le32(request, 5000);
    ok(server_handle(s, request, 11, reply, 64) == P9_ERROR_LEN, "a size above what was sent");
}

static void test_many_fids(void)
{
    unsigned n = 0;
    int error = 0;

    s->count_max = 1000;
    while (!error && n < 2000) {
        begin(P9_WALK);
        u32(0);
        u32(1000 + n);
        u16(0);
        error = call();
        n += !error;
    }
    ok(error == EMFILE && n == 999, "fids have a limit (%u)", n);
    version(P9_MSIZE, "9P2000.L");
    ok(s->count == 0 && !attach(0), "a new version forgets them all");
}

/* ---- a host, or a second guest, that swaps a file for a symlink while it is walked to ---- */

static volatile bool swapping = true;

static void *swap(void *unused)
{
    char file[128], link[128], name[128];

    snprintf(file, sizeof file, "%s/is-file", share);
    snprintf(link, sizeof link, "%s/is-link", share);
    snprintf(name, sizeof name, "%s/racy", share);
    for (unsigned i = 0; swapping; i++) {
        unlink(file);
        unlink(link);
        put_file(file, "inside");
        if (symlink("../outside/secret", link) || rename(i % 2 ? file : link, name))
            break;
    }
    return NULL;
}

static void test_race(void)
{
    unsigned inside = 0, outside = 0, refused = 0;
    pthread_t thread;

    put_file(in_share("racy"), "inside");
    pthread_create(&thread, NULL, swap, NULL);
    for (unsigned i = 0; i < 20000; i++) {
        int error;

        if (i % 2) /* by a walk, or by its name as if it were to be created */
            error = at(50, "racy") ?: lopen(50, 0);
        else {
            clunk(50);
            begin(P9_WALK);
            u32(0);
            u32(50);
            u16(0);
            error = call() ?: create(50, "racy", O_RDWR, 0600);
        }
        if (error)
            refused++;
        else if (!read_at(50, 0, 100) && le32(reply + 7) == 6)
            memcmp(reply + 11, "inside", 6) ? outside++ : inside++;
    }
    swapping = false;
    pthread_join(thread, NULL);
    ok(!outside && inside && refused, "a file that turns into a symlink: %u times read, %u refused",
       inside, refused);
}

static void test_readonly(void)
{
    struct server *writable = s;

    s = server_open(open(share, O_RDONLY | O_DIRECTORY), open("/proc/self/fd", O_PATH), true);
    version(P9_MSIZE, "9P2000.L");
    attach(0);
    at(60, "attributed");
    ok(lopen(60, 2) == EROFS && lopen(60, 01000) == EROFS && !lopen(60, 0), "read-only: open");
    ok(create(0, "new", O_RDWR, 0600) == EROFS && named(P9_MKDIR, 0, "new") == EROFS &&
           named(P9_UNLINKAT, 0, "attributed") == EROFS && write_at(60, 0, "x", 1) == EROFS,
       "read-only: changes");
    begin(P9_REMOVE);
    u32(60);
    ok(call() == EROFS && clunk(60) == EBADF, "read-only: remove takes the fid along");
    server_close(s);
    s = writable;
}

static unsigned descriptors(void)
{
    DIR *d = opendir("/proc/self/fd");
    unsigned n = 0;

    while (d && readdir(d))
        n++;
    closedir(d);
    return n;
}

int main(void)
{
    unsigned before;
    char command[128];

    umask(022);
    if (!mkdtemp(folder))
        return 1;
    snprintf(share, sizeof share, "%s/share", folder);
    top = open(folder, O_RDONLY | O_DIRECTORY);
    if (mkdir(share, 0755) || mkdirat(top, "outside", 0755) || fchdir(top))
        return 1;
    put_file("outside/secret", "secret");
    if (chdir("/proc/self/fd"))
        return 1;
    before = descriptors();
    s = server_open(open(share, O_RDONLY | O_DIRECTORY), open("/proc/self/fd", O_PATH), false);
    if (!ok(s != NULL, "opens"))
        return tap_done();
    test_version();
    test_files();
    test_names();
    test_listing();
    test_xattr();
    test_ways_out();
    test_special();
    test_lies();
    test_many_fids();
    test_race();
    test_readonly();
    server_close(s);
    ok(descriptors() == before, "no descriptor is left");
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command) ? 1 : tap_done();
}
