/* SPDX-License-Identifier: MIT */
/* Compressed clusters: raw deflate with a 4 KiB window, or one zstd frame. The output has the size
 * of a cluster whatever the input says, so a bomb is just a damaged cluster.
 *
 * What the libraries need to work costs more to make than to use on one cluster, so each thread
 * keeps its own until it ends. */
#include "block/qcow2/qcow2.h"
#include <errno.h>
#include <libdeflate.h>
#include <pthread.h>
#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>

/* Level 4 with the 4 KiB window packs within 2 % of level 6 and takes two thirds of the time. */
enum { WINDOW_BITS = 12, DEFLATE_MEMORY = 8, DEFLATE_LEVEL = 4 };

struct codec { /* a thread's */
    z_stream deflate;
    bool deflates; /* the stream is made */
    struct libdeflate_decompressor *inflate;
    ZSTD_CCtx *zstd;
    ZSTD_DCtx *unzstd;
};

static pthread_once_t codec_once = PTHREAD_ONCE_INIT;
static pthread_key_t codec_key;

static void codec_free(void *of_thread)
{
    struct codec *c = of_thread;

    if (c->deflates)
        deflateEnd(&c->deflate);
    if (c->inflate)
        libdeflate_free_decompressor(c->inflate);
    ZSTD_freeCCtx(c->zstd);
    ZSTD_freeDCtx(c->unzstd);
    free(c);
}

static void codec_make_key(void)
{
    pthread_key_create(&codec_key, codec_free);
}

/* NULL: out of memory. */
static struct codec *codec_get(void)
{
    struct codec *c;

    pthread_once(&codec_once, codec_make_key);
    c = pthread_getspecific(codec_key);
    if (c)
        return c;
    c = calloc(1, sizeof *c);
    if (c && pthread_setspecific(codec_key, c)) {
        free(c);
        c = NULL;
    }
    return c;
}

/* ---- unpacking ---- */

/* A stream whose end mark did not fit into the sectors counted: others make such, zlib reads it. */
static int inflate_slowly(const uint8_t *in, size_t len, uint8_t *out, size_t room)
{
    z_stream z = {
        .next_in = (Bytef *)in, .avail_in = (uInt)len, .next_out = out, .avail_out = (uInt)room};
    int end;

    if (inflateInit2(&z, -WINDOW_BITS) != Z_OK)
        return -ENOMEM;
    end = inflate(&z, Z_FINISH);
    inflateEnd(&z);
    return (end == Z_STREAM_END || end == Z_BUF_ERROR) && z.avail_out == 0 ? 0 : -EIO;
}

static int inflate_cluster(struct codec *c, const uint8_t *in, size_t len, uint8_t *out,
                           size_t room)
{
    if (!c->inflate)
        c->inflate = libdeflate_alloc_decompressor();
    if (!c->inflate)
        return -ENOMEM;
    if (libdeflate_deflate_decompress(c->inflate, in, len, out, room, NULL) == LIBDEFLATE_SUCCESS)
        return 0;
    return inflate_slowly(in, len, out, room);
}

/* Sectors may hold more than the frame: only the stream interface stops where the frame does. */
static int unzstd_cluster(struct codec *c, const uint8_t *in, size_t len, uint8_t *out, size_t room)
{
    ZSTD_inBuffer from = {in, len, 0};
    ZSTD_outBuffer to = {out, room, 0};

    if (!c->unzstd)
        c->unzstd = ZSTD_createDCtx();
    if (!c->unzstd)
        return -ENOMEM;
    ZSTD_DCtx_reset(c->unzstd, ZSTD_reset_session_only);
    while (to.pos < room) {
        size_t before = to.pos + from.pos, left = ZSTD_decompressStream(c->unzstd, &to, &from);

        if (ZSTD_isError(left) || (to.pos < room && (left == 0 || to.pos + from.pos == before)))
            return -EIO;
    }
    return 0;
}

int q_unpack(const struct qcow2 *q, const uint8_t *in, size_t len, uint8_t *out)
{
    struct codec *c = codec_get();

    if (!c)
        return -ENOMEM;
    return q->h.compression ? unzstd_cluster(c, in, len, out, q->cluster_size)
                            : inflate_cluster(c, in, len, out, q->cluster_size);
}

/* ---- packing ---- */

static int deflate_cluster(struct codec *c, const uint8_t *in, size_t len, uint8_t *out,
                           size_t room)
{
    z_stream *z = &c->deflate;

    if (!c->deflates && deflateInit2(z, DEFLATE_LEVEL, Z_DEFLATED, -WINDOW_BITS, DEFLATE_MEMORY,
                                     Z_DEFAULT_STRATEGY) != Z_OK)
        return -ENOMEM;
    c->deflates = true;
    deflateReset(z);
    z->next_in = (Bytef *)in;
    z->avail_in = (uInt)len;
    z->next_out = out;
    z->avail_out = (uInt)room;
    return deflate(z, Z_FINISH) == Z_STREAM_END ? (int)(room - z->avail_out) : -ENOSPC;
}

static int zstd_cluster(struct codec *c, const uint8_t *in, size_t len, uint8_t *out, size_t room)
{
    size_t n;

    if (!c->zstd)
        c->zstd = ZSTD_createCCtx();
    if (!c->zstd)
        return -ENOMEM;
    n = ZSTD_compressCCtx(c->zstd, out, room, in, len, ZSTD_CLEVEL_DEFAULT);
    return ZSTD_isError(n) ? -ENOSPC : (int)n;
}

int q_pack(const struct qcow2 *q, const uint8_t *in, uint8_t *out, size_t room)
{
    struct codec *c = codec_get();

    if (!c)
        return -ENOMEM;
    return q->h.compression ? zstd_cluster(c, in, q->cluster_size, out, room)
                            : deflate_cluster(c, in, q->cluster_size, out, room);
}
