/* SPDX-License-Identifier: MIT */
/* Numbers of the NBD protocol (github.com/NetworkBlockDevice/nbd, doc/proto.md). */
#ifndef HULL_NBD_PROTOCOL_H
#define HULL_NBD_PROTOCOL_H

#define NBD_MAGIC            0x4e42444d41474943ULL /* "NBDMAGIC" */
#define NBD_OPTION_MAGIC     0x49484156454f5054ULL /* "IHAVEOPT" */
#define NBD_REPLY_MAGIC      0x0003e889045565a9ULL
#define NBD_REQUEST_MAGIC    0x25609513u
#define NBD_SIMPLE_MAGIC     0x67446698u
#define NBD_STRUCTURED_MAGIC 0x668e33efu

enum {
    NBD_OPTION_MAX = 16384,     /* of ours: bytes of an option */
    NBD_REQUEST_MAX = 32 << 20, /* of data in a request */
    NBD_ID_ALLOCATION = 1,      /* ours: contexts */
    NBD_ID_BITMAP = 2,
};

enum { NBD_FIXED_NEWSTYLE = 1, NBD_NO_ZEROES = 2 };

enum {
    NBD_FLAG_HAS_FLAGS = 1,
    NBD_FLAG_READ_ONLY = 2,
    NBD_FLAG_SEND_FLUSH = 4,
    NBD_FLAG_SEND_FUA = 8,
    NBD_FLAG_SEND_TRIM = 32,
    NBD_FLAG_SEND_ZEROES = 64,
    NBD_FLAG_MULTI_CONN = 256,
};

enum {
    NBD_OPT_EXPORT_NAME = 1,
    NBD_OPT_ABORT = 2,
    NBD_OPT_LIST = 3,
    NBD_OPT_INFO = 6,
    NBD_OPT_GO = 7,
    NBD_OPT_STRUCTURED_REPLY = 8,
    NBD_OPT_LIST_META_CONTEXT = 9,
    NBD_OPT_SET_META_CONTEXT = 10,
};

#define NBD_REP_ACK          1u
#define NBD_REP_SERVER       2u
#define NBD_REP_INFO         3u
#define NBD_REP_META_CONTEXT 4u
#define NBD_REP_ERR_UNSUP    0x80000001u
#define NBD_REP_ERR_INVALID  0x80000003u
#define NBD_REP_ERR_UNKNOWN  0x80000006u

enum { NBD_INFO_EXPORT = 0, NBD_INFO_BLOCK_SIZE = 3 };

enum {
    NBD_CMD_READ = 0,
    NBD_CMD_WRITE = 1,
    NBD_CMD_DISC = 2,
    NBD_CMD_FLUSH = 3,
    NBD_CMD_TRIM = 4,
    NBD_CMD_ZEROES = 6,
    NBD_CMD_STATUS = 7,
};

enum { NBD_CMD_FLAG_FUA = 1, NBD_CMD_FLAG_NO_HOLE = 2, NBD_CMD_FLAG_ONE = 8 };

enum {
    NBD_CHUNK_DONE = 1,
    NBD_CHUNK_NONE = 0,
    NBD_CHUNK_DATA = 1,
    NBD_CHUNK_STATUS = 5,
    NBD_CHUNK_ERROR = 0x8001,
};

#endif
