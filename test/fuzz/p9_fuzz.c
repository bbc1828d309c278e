/* SPDX-License-Identifier: MIT */
/* A hostile guest of the 9P server: the input is a program of requests, most of them well formed
 * with a few fids and names, some raw bytes. Beside the shared directory lies another, to which
 * symlinks lead: what is in it must never be changed, nor come back in a reply. */
#include "server.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char folder[64], secret[32]; /* a new one for each input, so that none can know it */
static int top, proc = -1;
static const uint8_t *input;
static size_t input_left;
static uint8_t request[16384], reply[16384];
static size_t len;

static uint64_t take(unsigned bytes)
{
    uint64_t value = 0;

    bytes = (unsigned)min_size(bytes, input_left);
    memcpy(&value, input, bytes);
    input += bytes;
    input_left -= bytes;
    return value;
}

static void must(bool good)
{
    if (!good)
        abort();
}

/* ---- the host ---- */

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *f)
{
    return remove(path);
}

static void remove_tree(const char *name)
{
    char path[128];

    snprintf(path, sizeof path, "%s/%s", folder, name);
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void clean_up(void)
{
    remove_tree("share");
    remove_tree("outside");
    rmdir(folder);
}

static void put(const char *name, const char *text)
{
    int fd = openat(top, name, O_WRONLY | O_CREAT | O_TRUNC, 0644);

    must(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
}

static void begin_once(void)
{
    snprintf(folder, sizeof folder, "/dev/shm/fuzz-9p-XXXXXX");
    must(mkdtemp(folder) && (top = open(folder, O_RDONLY | O_DIRECTORY)) >= 0);
    atexit(clean_up);
    must(!mkdirat(top, "outside", 0755));
    must((proc = open("/proc/self/fd", O_PATH)) >= 0 && !fchdir(proc));
    umask(0);
}

static struct server *begin(void)
{
    struct server *s;
    uint64_t random[2];

    must(getrandom(random, sizeof random, 0) == sizeof random);
    snprintf(secret, sizeof secret, "%015llx%015llx", (unsigned long long)random[0] >> 4,
             (unsigned long long)random[1] >> 4);
    put("outside/secret", secret);
    remove_tree("share");
    must(!mkdirat(top, "share", 0755) && !mkdirat(top, "share/d", 0755));
    put("share/a", "inside");
    put("share/d/b", "inside too");
    must(!symlinkat("../outside", top, "share/out") &&
         !symlinkat("../outside/secret", top, "share/secret") &&
         !symlinkat("/", top, "share/d/root") && !mkfifoat(top, "share/d/fifo", 0666));
    s = server_open(openat(top, "share", O_RDONLY | O_DIRECTORY), dup(proc), take(1) % 8 == 7);
    must(s != NULL);
    s->count_max = 64;
    return s;
}

/* A host that changes files under the guest. */
static void host_event(void)
{
    switch (take(1) % 6) {
    case 0: renameat(top, "share/d", top, "outside/d"); break;
    case 1: renameat(top, "outside/d", top, "share/d"); break;
    case 2: renameat(top, "share/a", top, "share/d/a"); break;
    case 3: renameat(top, "share/out", top, "share/a"); break;
    case 4: symlinkat("../../outside/secret", top, "share/d/b"); break;
    default: unlinkat(top, "share/d/b", 0);
    }
}

/* A directory that was moved outside is the guest's own, as it has walked to it. */
static void check_outside(void)
{
    struct stat st;
    char text[64] = "";
    int fd = openat(top, "outside/secret", O_RDONLY);
    DIR *d;

    must(fd >= 0 && read(fd, text, sizeof text) > 0 && !strcmp(text, secret));
    must(!fstat(fd, &st) && st.st_nlink == 1 && st.st_mode == (S_IFREG | 0644));
    close(fd);
    d = fdopendir(openat(top, "outside", O_RDONLY | O_DIRECTORY));
    must(d != NULL);
    for (struct dirent *e; (e = readdir(d));)
        must(e->d_name[0] == '.' || !strcmp(e->d_name, "secret") || !strcmp(e->d_name, "d"));
    closedir(d);
    remove_tree("outside/d");
}

/* ---- the guest ---- */

/* f: a fid, s: a name, 1 2 4 8: numbers, n: names and their count, d: data and its length */
static const struct form {
    uint8_t type;
    const char *fields;
} forms[] = {
    {P9_ATTACH, "f4ss4"},  {P9_WALK, "ffn"},           {P9_WALK, "ffn"},
    {P9_LOPEN, "f4"},      {P9_LCREATE, "fs444"},      {P9_READ, "f84"},
    {P9_WRITE, "f8d"},     {P9_READDIR, "f84"},        {P9_CLUNK, "f"},
    {P9_REMOVE, "f"},      {P9_MKDIR, "fs44"},         {P9_SYMLINK, "fss4"},
    {P9_MKNOD, "fs4444"},  {P9_LINK, "ffs"},           {P9_RENAME, "ffs"},
    {P9_RENAMEAT, "fsfs"}, {P9_UNLINKAT, "fs4"},       {P9_READLINK, "f"},
    {P9_GETATTR, "f8"},    {P9_SETATTR, "f444488888"}, {P9_STATFS, "f"},
    {P9_XATTRWALK, "ffs"}, {P9_XATTRCREATE, "fs84"},   {P9_FSYNC, "f4"},
    {P9_LOCK, "f14884s"},  {P9_GETLOCK, "f1884s"},     {P9_VERSION, "4s"},
    {P9_FLUSH, "2"},       {P9_AUTH, "4ss4"},
};

static void number(unsigned bytes)
{
    uint64_t v = take(1);

    if (v == 255)
        v = UINT64_MAX;
    else if (v & 128)
        v = take(bytes);
    memcpy(request + len, &v, bytes);
    len += bytes;
}

static void name(void)
{
    static const char *const names[] = {
        "a",   "b",        "d", "out",     "secret",     "root",          "fifo",
        "new", "..",       ".", "",        "../outside", "/dev/null",     "user.test",
        "x/y", "9P2000.L", "/", "d/../..", "outside",    "../../outside", "security.capability"};
    unsigned i = (unsigned)take(1);
    size_t n;

    if (i < 250) {
        n = strlen(names[i % ARRAY_SIZE(names)]);
        memcpy(request + len + 2, names[i % ARRAY_SIZE(names)], n);
    } else {
        n = (size_t)take(2) & 1023;
        for (size_t k = 0; k < n; k++)
            request[len + 2 + k] = (uint8_t)(take(1) | 1);
    }
    put_le16(request + len, (uint16_t)n);
    len += 2 + n;
}

static void field(char f)
{
    unsigned n;

    switch (f) {
    case 'f':
        put_le32(request + len, take(1) & 15);
        len += 4;
        break;
    case 's': name(); break;
    case 'n':
        n = (unsigned)take(1) % 5;
        put_le16(request + len, (uint16_t)n);
        len += 2;
        while (n--)
            name();
        break;
    case 'd':
        n = (unsigned)take(1);
        put_le32(request + len, n);
        memset(request + len + 4, 'd', n);
        len += 4 + n;
        break;
    default: number((unsigned)(f - '0'));
    }
}

static void build(void)
{
    unsigned op = (unsigned)take(1);

    len = P9_HEADER;
    put_le16(request + 5, 1);
    if (op < 240) {
        const struct form *f = &forms[op % ARRAY_SIZE(forms)];

        request[4] = f->type;
        for (const char *p = f->fields; *p; p++)
            field(*p);
        put_le32(request, (uint32_t)len);
        return;
    }
    request[4] = (uint8_t)take(1);
    for (unsigned n = (unsigned)take(1); n; n--)
        request[len++] = (uint8_t)take(1);
    put_le32(request, take(1) & 1 ? (uint32_t)len : (uint32_t)take(4));
}

static void step(struct server *s)
{
    uint8_t room = (uint8_t)take(1);
    size_t got;

    if (room == 77) {
        host_event();
        return;
    }
    build();
    got = server_handle(s, request, len, reply, room < 200 ? sizeof reply : room - 200u);
    must(got <= (room < 200 ? sizeof reply : room - 200u));
    must(!got || le32(reply) == got);
    must(!memmem(reply, got, secret, strlen(secret)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct server *s;

    if (proc < 0)
        begin_once();
    input = data;
    input_left = size;
    s = begin();
    for (unsigned i = 0; input_left && i < 100; i++)
        step(s);
    server_close(s);
    check_outside();
    return 0;
}
