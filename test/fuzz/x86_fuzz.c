/* SPDX-License-Identifier: MIT */
/* The decoder on arbitrary bytes in all modes: it must not read past them, what it accepts must
 * format and encode again, and the new bytes must mean the same. The first byte picks a length to
 * cut at. */
#include "engine/x86/encode.h"
#include "engine/x86/table.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds)
{
    if (!holds)
        abort();
}

/* The bytes' own look is not part of the meaning. */
static bool same(struct insn a, struct insn b)
{
    a.length = b.length = 0;
    a.rex = b.rex = 0;
    a.modrm = b.modrm = 0;
    return !memcmp(&a, &b, sizeof a);
}

static void check_prefix(const struct insn *in, const uint8_t *bytes, enum x86_mode mode)
{
    struct insn part;

    for (unsigned len = 0; len < in->length; len++)
        must(x86_decode(&part, bytes, len, mode) == X86_NEED_MORE);
}

static void check(const uint8_t *bytes, size_t len, enum x86_mode mode, size_t room)
{
    struct insn in, again;
    uint8_t out[X86_INSN_MAX];
    char text[128];
    unsigned n;

    if (x86_decode(&in, bytes, len, mode) != X86_DECODED)
        return;
    must(in.length >= 1 && in.length <= X86_INSN_MAX && in.length <= len &&
         in.form < x86_form_count);
    must(x86_form[in.form].op == in.op && x86_form[in.form].modes >> mode & 1);
    must(in.mem ? x86_mem_operand(&in) >= 0 || x86_form[in.form].class == X86_UNDEF
                : x86_mem_size(&in) == 0);
    x86_format(&in, 0x1000, text, sizeof text);
    must(strlen(text) >= 2 && strlen(text) + 1 < sizeof text);
    x86_format(&in, 0x1000, text, room);
    check_prefix(&in, bytes, mode);
    n = x86_encode(&in, mode, out);
    must(n && x86_decode(&again, out, n, mode) == X86_DECODED && again.length == n &&
         same(in, again));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *bytes;
    size_t len;

    if (size < 2)
        return 0;
    len = size - 1 < 20 ? size - 1 : 20;
    bytes = malloc(len); /* exactly: the sanitizer sees a read past the end */
    memcpy(bytes, data + 1, len);
    for (unsigned mode = X86_MODE_16; mode <= X86_MODE_64; mode++)
        check(bytes, len, mode, data[0] & 127);
    free(bytes);
    return 0;
}
