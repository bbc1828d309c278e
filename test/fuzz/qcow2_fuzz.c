/* SPDX-License-Identifier: MIT */
/* qcow2 images from strangers: a small good image in memory, changed as the input says, is opened,
 * read, checked, mended and written. The first byte chooses the kind of image; then come patches:
 * where (3 bytes), how many bytes (1), the bytes. */
#include "block/bitmap.h"
#include "block/format.h"
#include "block/image.h"
#include "block/qcow2/qcow2.h"
#include <errno.h>
#include <stdlib.h>

enum { STORE = 1 << 20 };

static uint8_t store[STORE];
static struct loop *loop;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void memory_submit(struct block *b, struct block_req *req)
{
    uint64_t at = req->offset;
    bool inside = req->op == BLOCK_FLUSH || (at <= STORE && req->length <= STORE - at);

    if (req->op == BLOCK_READ)
        for (int i = 0; i < req->iov_count; i++)
            memset(req->iov[i].iov_base, 0, req->iov[i].iov_len);
    for (int i = 0; inside && i < req->iov_count; i++) {
        if (req->op == BLOCK_READ)
            memcpy(req->iov[i].iov_base, store + at, req->iov[i].iov_len);
        else if (req->op == BLOCK_WRITE)
            memcpy(store + at, req->iov[i].iov_base, req->iov[i].iov_len);
        at += req->iov[i].iov_len;
    }
    if (inside && req->op == BLOCK_WRITE)
        b->end = max_u64(b->end, at);
    block_done_later(b, req, inside || req->op == BLOCK_READ ? 0 : -ENOSPC);
}

static bool memory_open(struct block *b, struct err *err)
{
    (void)b;
    (void)err;
    return true;
}

static void memory_close(struct block *b)
{
    (void)b;
}

static const struct block_ops memory_ops = {
    .name = "memory", .open = memory_open, .submit = memory_submit, .close = memory_close};

static struct block *memory_node(uint64_t end, bool readonly)
{
    struct block_config c = {.growable = true, .file = "memory"};
    struct block *b = block_new(loop, &c);

    if (!b)
        abort();
    b->ops = &memory_ops;
    b->size = BIT(62);
    b->end = end;
    b->readonly = readonly;
    return b;
}

static uint64_t good_image(uint8_t kind)
{
    static const uint32_t sizes[] = {512, 4096, 16384, 65536};
    struct block_create c = {.format = "qcow2",
                             .cluster_size = sizes[kind & 3],
                             .zstd = kind & 4,
                             .extended_l2 = (kind & 3) >= 2 && (kind & 8)};
    struct block_config with = {.file = "memory", .format = "qcow2"};
    struct block *under = memory_node(0, false), *b;
    static uint8_t text[65536];
    struct err err;
    uint64_t end;

    memset(store, 0, sizeof store);
    if (!q_create(under, &c, 300000 / 512 * 512, &err))
        abort();
    b = block_open_over(under, &with, &err);
    if (!b)
        abort();
    memset(text, kind, sizeof text);
    block_run(b, BLOCK_WRITE, BLOCK_REQ_COMPRESS, 0, text, sizeof text);
    block_run(b, BLOCK_WRITE, 0, 100352, text, 5120);
    if (kind & 32)
        block_bitmap_add(b, "m", 4096, BITMAP_PERSISTENT, &err);
    if (kind & 16)
        block_snapshot_create(b, "s", &err);
    block_run(b, BLOCK_WRITE, 0, 100864, text, 512);
    block_run(b, BLOCK_FLUSH, 0, 0, NULL, 0);
    block_close(b); /* stores the bitmap; what lies behind the image is zero */
    for (end = STORE; end > 512 && !store[end - 1]; end--)
        ;
    return align_up(end, c.cluster_size);
}

static void use(uint64_t end, bool readonly)
{
    struct block_config c = {
        .file = "memory", .format = "qcow2", .alone = true, .readonly = readonly, .discard = true};
    struct block *under = memory_node(end, readonly), *b;
    struct block_check check = {0};
    struct block_extent e;
    static uint8_t buffer[65536];
    struct err err;
    uint64_t size;

    b = block_open_over(under, &c, &err);
    if (!b) {
        block_close(under);
        return;
    }
    size = min_u64(b->size, 400000 / 512 * 512);
    for (uint64_t at = 0; at < size; at += sizeof buffer) {
        uint64_t n = min_u64(size - at, sizeof buffer);

        block_run(b, BLOCK_READ, 0, at, buffer, n);
        if (!readonly)
            block_run(b, at & 65536 ? BLOCK_WRITE_ZEROES : BLOCK_WRITE, BLOCK_REQ_UNMAP, at,
                      at & 65536 ? NULL : buffer, n / 1024 * 512);
        block_map(b, at, n, &e, &err);
    }
    block_check(b, readonly ? 0 : BLOCK_FIX_LEAKS | BLOCK_FIX_ERRORS, &check, &err);
    if (!readonly)
        block_snapshot_delete(b, "s", &err);
    block_close(b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err err;
    uint64_t end;

    if (!loop)
        loop = loop_open(&err);
    if (!loop || size < 1)
        return 0;
    end = good_image(data[0]);
    for (size_t at = 1; at + 4 <= size;) {
        uint32_t where = le32(data + at) & 0xffffff, n = data[at + 3];

        at += 4;
        n = (uint32_t)min_u64(n, size - at);
        if (where < end && n <= STORE - where)
            memcpy(store + where, data + at, n);
        at += n;
    }
    if (be64(store + 72) & Q_INCOMPAT_DATA_FILE)
        return 0; /* it would name a file of this host */
    use(end, true);
    use(end, false);
    return 0;
}
