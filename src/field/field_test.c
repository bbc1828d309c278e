/* SPDX-License-Identifier: MIT */
/* One table, five uses: options, help, save, restore, dump. */
#include "field/field.h"
#include "tap.h"
#include <errno.h>
#include <stdlib.h>

enum color { RED, GREEN, BLUE };
static const char *const color_words[] = {"red", "green", "blue", NULL};

struct inner {
    uint16_t x;
    bool set;
};

struct thing {
    bool on;
    uint8_t small;
    uint16_t port;
    uint32_t cpu_count;
    uint64_t big, size;
    char name[8];
    uint8_t mac[6];
    uint8_t fifo[4];
    enum color color;
    uint8_t tiny_color;
    struct inner in, many[3];
};

static const struct field inner_fields[] = {
    FIELD(struct inner, x, 1000),
    FIELD(struct inner, set, 1),
    {0},
};

static const struct field fields[] = {
    FIELD(struct thing, on, 1),
    FIELD(struct thing, small, 15),
    FIELD(struct thing, port, UINT16_MAX),
    FIELD(struct thing, cpu_count, 64),
    FIELD(struct thing, big, UINT64_MAX),
    FIELD_SIZE(struct thing, size, 1 * GiB),
    FIELD_TEXT(struct thing, name),
    FIELD_BYTES(struct thing, mac),
    FIELD_ARRAY(struct thing, fifo, 9),
    FIELD_ENUM(struct thing, color, color_words),
    FIELD_ENUM(struct thing, tiny_color, color_words),
    FIELD_TABLE(struct thing, in, inner_fields),
    FIELD_TABLES(struct thing, many, inner_fields),
    {0},
};

static struct err e;

static void good(const char *text)
{
    struct thing t = {0};

    ok(field_parse(fields, &t, text, &e), "'%s' is taken", text);
}

static void bad(const char *text, const char *want)
{
    struct thing t = {0};

    e = (struct err){0};
    ok(!field_parse(fields, &t, text, &e) && e.code != 0 && strcmp(e.text, want) == 0, "'%s': %s",
       text, e.text);
}

static void test_parse(void)
{
    struct thing t = {0};

    ok(field_parse(fields, &t,
                   "on,small=0xf,port=80,cpu-count=8,big=18446744073709551615,size=1.5M,name=a,,b,"
                   "color=blue,tiny_color=green",
                   &e),
       "all kinds");
    ok(t.on && t.small == 15 && t.port == 80 && t.cpu_count == 8 && t.big == UINT64_MAX &&
           t.size == 1536 * KiB,
       "numbers");
    ok(strcmp(t.name, "a,b") == 0 && t.color == BLUE && t.tiny_color == GREEN, "words");
    good("");
    good("on=no");
    good("name=");
    good("small=010"); /* decimal */
    bad("smal=1", "unknown key 'smal': did you mean 'small'?");
    bad("cpucount=1", "unknown key 'cpucount': did you mean 'cpu-count'?");
    bad("zzzzzz=1", "unknown key 'zzzzzz'");
    bad("mac=1", "unknown key 'mac'");
    bad("fifo=1", "unknown key 'fifo'");
    bad("many=1", "unknown key 'many'");
    bad("small=16", "small='16' is more than 15");
    bad("port=65536", "port='65536' is more than 65535");
    bad("big=18446744073709551616", "big='18446744073709551616' is too large");
    bad("big=-1", "big='-1' is not a number");
    bad("big=1x", "big='1x' is not a number");
    bad("big= 1", "big=' 1' is not a number");
    bad("big=0x", "big='0x' is not a number");
    bad("big=", "big='' is not a number");
    bad("small", "'small' needs a value: small=...");
    bad("small=1,small=1", "'small' is given twice");
    bad("cpu-count=1,cpu_count=1", "'cpu_count' is given twice");
    bad("on=maybe", "on='maybe' is neither on nor off");
    bad("name=12345678", "name has 8 characters, at most 7 fit");
    bad("color=gren", "color='gren': did you mean 'green'?");
    bad("color=purple", "color='purple' is none of red, green, blue");
    bad("size=2G", "size='2G' is more than 1073741824");
    bad("size=2Q", "size: '2Q' is not a size such as 512M, 2G or 1.5G");
    bad(",on", "an option is empty: a comma too many?");
    bad("on,", "an option is empty: a comma too many?");
    bad("=1", "unknown key ''");
}

static void size_is(const char *text, bool valid, uint64_t want)
{
    uint64_t v = 42;

    ok(size_parse(text, &v, &e) == valid && v == (valid ? want : 42), "size '%s'", text);
}

static void test_size(void)
{
    size_is("512", true, 512);
    size_is("64K", true, 64 * KiB);
    size_is("2g", true, 2 * GiB);
    size_is("1.5G", true, 3 * GiB / 2);
    size_is("0.25K", true, 256);
    size_is("16777215T", true, 16777215ULL << 40);
    size_is("16777216T", false, 0);
    size_is("99999999999999999999", false, 0);
    size_is("15.999E", true,
            (15ULL << 60) + (uint64_t)((unsigned __int128)999 * (1ULL << 60) / 1000));
    size_is("16E", false, 0);
    size_is("", false, 0);
    size_is("G", false, 0);
    size_is("1.5", false, 0);
    size_is("1.G", false, 0);
    size_is("-1", false, 0);
    size_is("1GG", false, 0);
    size_is("1 G", false, 0);
}

static void test_nearest(void)
{
    static const char *const verbs[] = {"run", "image", "restore", "info", "create", "x", NULL};
    const char *n;

    ok((n = nearest_word("restroe", verbs)) && strcmp(n, "restore") == 0, "swapped letters");
    ok((n = nearest_word("imag", verbs)) && strcmp(n, "image") == 0, "missing letter");
    ok((n = nearest_word("rest", verbs)) && strcmp(n, "restore") == 0, "abbreviation");
    ok((n = nearest_word("RUN", verbs)) && strcmp(n, "run") == 0, "case");
    ok(nearest_word("frobnicate", verbs) == NULL && nearest_word("", verbs) == NULL,
       "nothing near");
    ok(nearest_word("q", verbs) == NULL, "a single letter is like nothing");
}

static struct thing sample(void)
{
    struct thing t = {.on = true,
                      .small = 7,
                      .port = 4321,
                      .cpu_count = 3,
                      .big = ~5ULL,
                      .size = 99,
                      .name = "vm",
                      .mac = {1, 2, 3, 4, 5, 6},
                      .fifo = {9, 8, 7, 6},
                      .color = BLUE,
                      .tiny_color = GREEN,
                      .in = {5, true}};

    for (unsigned i = 0; i < 3; i++)
        t.many[i] = (struct inner){(uint16_t)(i * 10), i & 1};
    return t;
}

static void test_save(void)
{
    struct thing a = sample(), b = {0};
    struct stream s = {0}, again = {0};

    ok(field_save(fields, &a, &s, &e), "save");
    ok(field_restore(fields, &b, &s, &e) && s.at == s.size, "restore reads all");
    ok(field_save(fields, &b, &again, &e) && again.size == s.size &&
           memcmp(again.data, s.data, s.size) == 0,
       "save, restore, save: equal bytes");
    ok(b.big == a.big && strcmp(b.name, "vm") == 0 && b.many[2].x == 20 && b.color == BLUE,
       "values are back");
    for (size_t cut = 0; cut < s.size; cut++) {
        struct stream in = {.data = s.data, .size = cut};

        if (field_restore(fields, &b, &in, &e) || e.text[0] == '\0') {
            ok(false, "a stream cut at %zu is refused", cut);
            break;
        }
    }
    stream_free(&again);
    a.small = 16;
    again = (struct stream){0};
    ok(!field_save(fields, &a, &again, &e) && strstr(e.text, "small is 16, over its limit 15"),
       "save checks limits");
    stream_free(&again);
    stream_free(&s);
}

/* Every byte of a saved state changed in turn: restore refuses it or gives values within limits. */
static void test_hostile(void)
{
    struct thing a = sample(), b;
    struct stream s = {0}, out = {0};
    unsigned refused = 0, wild = 0;

    field_save(fields, &a, &s, &e);
    for (size_t i = 0; i < s.size; i++) {
        for (unsigned flip = 1; flip < 256; flip += 37) {
            struct stream in = {.data = s.data, .size = s.size};

            s.data[i] ^= (uint8_t)flip;
            memset(&b, 0, sizeof b);
            if (!field_restore(fields, &b, &in, &e))
                refused++;
            else
                wild += !field_save(fields, &b, &out, &e);
            s.data[i] ^= (uint8_t)flip;
            stream_free(&out);
        }
    }
    ok(refused > 100 && wild == 0, "changed bytes: %u refused, %u slipped through", refused, wild);
    stream_free(&s);
}

static void test_versions(void)
{
    static const struct field old[] = {
        FIELD(struct thing, on, 1), FIELD(struct thing, small, 15), {0}};
    struct thing a = sample(), b = {.port = 77};
    struct stream s = {0};

    field_save(old, &a, &s, &e);
    ok(field_restore(fields, &b, &s, &e) && b.small == 7 && b.port == 77,
       "an older state restores");
    stream_free(&s);
    field_save(fields, &a, &s, &e);
    ok(!field_restore(old, &b, &s, &e) && strstr(e.text, "newer"), "a newer one is refused");
    stream_free(&s);
}

static void test_text(void)
{
    struct thing a = sample();
    char *text = NULL;
    size_t len;
    FILE *f = open_memstream(&text, &len);

    field_dump(fields, &a, f, 2);
    fflush(f);
    ok(strstr(text, "  on: on\n") && strstr(text, "  name: vm\n") &&
           strstr(text, "  mac: 010203040506\n") && strstr(text, "  color: blue\n") &&
           strstr(text, "  in:\n    x: 5\n") && strstr(text, "  many[2]:\n    x: 0x14\n") &&
           strstr(text, "  fifo: 9 8 7 6\n"),
       "dump");
    fclose(f);
    free(text);
    f = open_memstream(&text, &len);
    field_help(fields, f, 0);
    fflush(f);
    ok(strstr(text, "cpu-count=N\n") && strstr(text, "color=red|green|blue\n") &&
           !strstr(text, "mac"),
       "help");
    fclose(f);
    free(text);
}

int main(void)
{
    test_parse();
    test_size();
    test_nearest();
    test_save();
    test_hostile();
    test_versions();
    test_text();
    return tap_done();
}
