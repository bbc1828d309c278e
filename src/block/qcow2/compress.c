/* SPDX-License-Identifier: MIT */
/* Compressed clusters: raw deflate with a 4 KiB window, or one zstd frame. The output has the size
 * of a cluster whatever the input says, so a bomb is just a damaged cluster. */
#include "block/qcow2/qcow2.h"
#include <errno.h>
#include <zlib.h>
#include <zstd.h>

enum { WINDOW_BITS = 12, DEFLATE_MEMORY = 9 };

static int inflate_cluster(const uint8_t *in, size_t len, uint8_t *out, size_t room)
{
    z_stream z = {
        .next_in = (Bytef *)in, .avail_in = (uInt)len, .next_out = out, .avail_out = (uInt)room};
    int end;

    if (inflateInit2(&z, -WINDOW_BITS) != Z_OK)
        return -ENOMEM;
    end = inflate(&z, Z_FINISH);
    inflateEnd(&z);
    /* Z_BUF_ERROR with a full output: the stream's end mark did not fit into the sectors counted.
     */
    return (end == Z_STREAM_END || end == Z_BUF_ERROR) && z.avail_out == 0 ? 0 : -EIO;
}

/* Sectors may hold more than the frame: only the stream interface stops where the frame does. */
static int unzstd_cluster(const uint8_t *in, size_t len, uint8_t *out, size_t room)
{
    ZSTD_inBuffer from = {in, len, 0};
    ZSTD_outBuffer to = {out, room, 0};
    ZSTD_DCtx *z = ZSTD_createDCtx();
    int result = -EIO;

    if (!z)
        return -ENOMEM;
    while (to.pos < room) {
        size_t before = to.pos + from.pos, left = ZSTD_decompressStream(z, &to, &from);

        if (ZSTD_isError(left) || (to.pos < room && (left == 0 || to.pos + from.pos == before)))
            break;
    }
    if (to.pos == room)
        result = 0;
    ZSTD_freeDCtx(z);
    return result;
}

int q_unpack(const struct qcow2 *q, const uint8_t *in, size_t len, uint8_t *out)
{
    return q->h.compression ? unzstd_cluster(in, len, out, q->cluster_size)
                            : inflate_cluster(in, len, out, q->cluster_size);
}

static int deflate_cluster(const uint8_t *in, size_t len, uint8_t *out, size_t room)
{
    z_stream z = {
        .next_in = (Bytef *)in, .avail_in = (uInt)len, .next_out = out, .avail_out = (uInt)room};
    int end;

    if (deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -WINDOW_BITS, DEFLATE_MEMORY,
                     Z_DEFAULT_STRATEGY) != Z_OK)
        return -ENOMEM;
    end = deflate(&z, Z_FINISH);
    deflateEnd(&z);
    return end == Z_STREAM_END ? (int)(room - z.avail_out) : -ENOSPC;
}

static int zstd_cluster(const uint8_t *in, size_t len, uint8_t *out, size_t room)
{
    size_t n = ZSTD_compress(out, room, in, len, ZSTD_CLEVEL_DEFAULT);

    return ZSTD_isError(n) ? -ENOSPC : (int)n;
}

int q_pack(const struct qcow2 *q, const uint8_t *in, uint8_t *out, size_t room)
{
    return q->h.compression ? zstd_cluster(in, q->cluster_size, out, room)
                            : deflate_cluster(in, q->cluster_size, out, room);
}
