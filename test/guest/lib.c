/* SPDX-License-Identifier: MIT */
/* TAP on the debug port; see guest.h. */
#include "guest.h"

static int count, failed;

static void put(char c)
{
    outb(0x402, (uint8_t)c);
}

static void put_number(uint64_t v, unsigned base, bool negative)
{
    char text[24];
    int n = 0;

    do {
        unsigned digit;

        if (base == 16) {
            digit = v & 15;
            v >>= 4;
        } else { /* no 64-bit division in 32-bit guests */
            digit = (uint32_t)v % 10;
            v = (uint32_t)v / 10;
        }
        text[n++] = "0123456789abcdef"[digit];
    } while (v);
    if (negative)
        put('-');
    while (n)
        put(text[--n]);
}

static void put_text(const char *s)
{
    while (*s)
        put(*s++);
}

static void vprint(const char *f, va_list ap)
{
    for (; *f; f++) {
        if (*f != '%') {
            put(*f);
            continue;
        }
        switch (*++f) {
        case 's': put_text(va_arg(ap, const char *)); break;
        case 'c': put((char)va_arg(ap, int)); break;
        case 'x': put_number(va_arg(ap, unsigned), 16, false); break;
        case 'u': put_number(va_arg(ap, unsigned), 10, false); break;
        case 'l': /* %llx */
            f += 2;
            put_number(va_arg(ap, unsigned long long), 16, false);
            break;
        case 'd': {
            int v = va_arg(ap, int);

            put_number(v < 0 ? (uint64_t) - (int64_t)v : (uint64_t)v, 10, v < 0);
            break;
        }
        default: put(*f);
        }
    }
}

void print(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vprint(fmt, ap);
    va_end(ap);
}

static bool report(bool pass, const char *fmt, va_list ap)
{
    print("%s %d - ", pass ? "ok" : "not ok", ++count);
    vprint(fmt, ap);
    put('\n');
    failed += !pass;
    return pass;
}

bool ok(bool pass, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    report(pass, fmt, ap);
    va_end(ap);
    return pass;
}

bool is(uint64_t got, uint64_t want, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    report(got == want, fmt, ap);
    va_end(ap);
    if (got != want)
        print("# got 0x%llx, want 0x%llx\n", (unsigned long long)got, (unsigned long long)want);
    return got == want;
}

void skip(const char *name, const char *why)
{
    print("ok %d - %s # SKIP %s\n", ++count, name, why);
}

void todo(const char *name, const char *why)
{
    print("not ok %d - %s # TODO %s\n", ++count, name, why);
}

bool tcg(void)
{
    uint32_t id[4];

    cpuid(0x40000000, 0, id);
    return id[1] == 0x54474354; /* "TCGT" */
}

int done(void)
{
    print("1..%d\n", count);
    return failed != 0;
}

_Noreturn void guest_exit(int code)
{
    for (;;)
        outb(0xf4, (uint8_t)code);
}

void *memset(void *to, int byte, size_t n)
{
    uint8_t *p = to;

    while (n--)
        *p++ = (uint8_t)byte;
    return to;
}

void *memcpy(void *to, const void *from, size_t n)
{
    uint8_t *p = to;
    const uint8_t *q = from;

    while (n--)
        *p++ = *q++;
    return to;
}
