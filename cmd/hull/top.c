/* SPDX-License-Identifier: MIT */
/* hull top: what one running machine's soft engine does, and where its guest spends its time.
 *
 * Two answers of x-hull-query-jit, an interval apart, make one picture: counters as rates, samples
 * as shares. */
#include "base/clock.h"
#include "hull.h"
#include "qmp_client.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define ROWS_MIN 5

struct top_options {
    const char *qmp;
    double interval;
    bool once, json;
};

static void print_help(void)
{
    printf("Usage: hull top --qmp SOCKET [options]\n\n"
           "Shows what a running machine's soft engine does: how busy its vCPUs are, what the JIT\n"
           "translates, what misses its tables, and the guest's busiest addresses. On a terminal "
           "the\npicture is drawn anew until Ctrl-C; elsewhere there is one picture.\n\n"
           "Options:\n"
           "  --qmp SOCKET     the machine's control socket (hull run --qmp SOCKET)\n"
           "  --interval S     seconds between pictures (default 1)\n"
           "  --once           one picture, also on a terminal\n"
           "  --json           one picture for programs; see hull-top(1) for the keys\n"
           "\nExamples:\n"
           "  hull top --qmp m.sock\n"
           "  hull top --qmp m.sock --once --interval 5\n");
}

static bool read_option(struct top_options *o, int argc, char **argv, int *i, struct err *err)
{
    const char *arg = argv[*i];
    bool value = !strcmp(arg, "--qmp") || !strcmp(arg, "--interval");
    char *end;

    if (value && *i + 1 == argc)
        return err_set(err, EINVAL, "%s needs a value", arg);
    if (!strcmp(arg, "--qmp")) {
        o->qmp = argv[++*i];
    } else if (!strcmp(arg, "--interval")) {
        o->interval = strtod(argv[++*i], &end);
        if (*end || !(o->interval >= 0.1 && o->interval <= 3600))
            return err_set(err, EINVAL, "--interval %s: must be 0.1 to 3600 seconds", argv[*i]);
    } else if (!strcmp(arg, "--once")) {
        o->once = true;
    } else if (!strcmp(arg, "--json")) {
        o->json = o->once = true;
    } else {
        return err_set(err, EINVAL, "%s: no such option", arg);
    }
    return true;
}

static bool read_options(struct top_options *o, int argc, char **argv, struct err *err)
{
    for (int i = 0; i < argc; i++) {
        if (!read_option(o, argc, argv, &i, err))
            return false;
    }
    return o->qmp || err_set(err, EINVAL, "expected --qmp SOCKET");
}

/* ---- numbers ---- */

static double number(json_t *o, const char *name)
{
    return (double)json_integer_value(json_object_get(o, name));
}

static double rate(json_t *from, json_t *to, const char *name, double seconds)
{
    return (number(to, name) - number(from, name)) / seconds;
}

/* At most seven characters. */
static const char *shown(double n, char text[16])
{
    if (n < 99999.5)
        snprintf(text, 16, "%.0f", n < 0 ? 0 : n);
    else if (n < 1e8)
        snprintf(text, 16, "%.0fk", n / 1e3);
    else
        snprintf(text, 16, "%.0fM", n / 1e6);
    return text;
}

static double busy(json_t *from, json_t *to)
{
    double asked = number(to, "asked") - number(from, "asked");

    return asked > 0 ? 100 * (number(to, "samples") - number(from, "samples")) / asked : 0;
}

/* ---- the picture ---- */

static const struct column {
    const char *title, *name;
} columns[] = {{"instr/s", "instructions"}, {"blocks/s", "blocks"},
               {"transl/s", "jit-blocks"},  {"calls/s", "jit-calls"},
               {"enters/s", "jit-enters"},  {"tlb-miss/s", "tlb-misses"},
               {"flush/s", "tlb-flushes"},  {"jump-miss/s", "jit-jump-misses"}};

static void print_vcpu(json_t *from, json_t *to, double seconds)
{
    char text[16];

    printf("%4.0f %7.0f %4.0f%%", number(to, "cpu-index"), number(to, "thread-id"), busy(from, to));
    for (unsigned i = 0; i < ARRAY_SIZE(columns); i++) {
        bool part = i == 0 && !json_is_true(json_object_get(to, "exact"));

        printf(" %*s%s", (int)strlen(columns[i].title) - part,
               shown(rate(from, to, columns[i].name, seconds), text), part ? "*" : "");
    }
    printf(" %8s\n", json_is_true(json_object_get(to, "jit"))
                         ? shown(number(to, "jit-code-used") / 1024, text)
                         : "off");
}

static void print_vcpus(json_t *from, json_t *to, double seconds)
{
    json_t *a = json_object_get(from, "cpus"), *b = json_object_get(to, "cpus"), *cpu;
    bool part = false;
    size_t i;

    printf("vCPU  thread  busy");
    for (i = 0; i < ARRAY_SIZE(columns); i++)
        printf(" %s", columns[i].title);
    printf(" code-KiB\n");
    json_array_foreach(b, i, cpu)
    {
        print_vcpu(json_array_get(a, i), cpu, seconds);
        part |= !json_is_true(json_object_get(cpu, "exact"));
    }
    if (part)
        printf("* without those of translated code (HULL_JIT=count counts all)\n");
}

static double sum(json_t *answer, const char *name)
{
    json_t *cpu;
    double n = 0;
    size_t i;

    json_array_foreach(json_object_get(answer, "cpus"), i, cpu) n += number(cpu, name);
    return n;
}

static void print_code(json_t *from, json_t *to, double seconds)
{
    json_t *a = json_object_get(from, "code-writes"), *b = json_object_get(to, "code-writes");

    printf("\ncode written, a second: by the guest %.0f, by devices %.0f, beside code %.0f\n",
           rate(a, b, "guest", seconds), rate(a, b, "device", seconds),
           rate(a, b, "beside", seconds));
    printf("dropped since the start: changed %.0f, other addresses %.0f, caches %.0f + %.0f, pages "
           "left to the interpreter %.0f\n",
           sum(to, "jit-dropped-changed"), sum(to, "jit-dropped-aliases"), sum(to, "jit-flushes"),
           sum(to, "block-resets"), sum(to, "jit-pages-banned"));
}

static void print_top(json_t *to, unsigned rows)
{
    json_t *top = json_object_get(to, "top"), *row;
    double all = 0;
    size_t i;

    for (i = 0; i < json_array_size(json_object_get(to, "cpus")); i++) {
        double n = number(json_array_get(json_object_get(to, "cpus"), i), "samples");

        all += n < 1024 ? n : 1024; /* as many as are kept */
    }
    printf("\nshare ring address             (of the last %.0f samples)\n", all);
    json_array_foreach(top, i, row)
    {
        if (i < rows)
            printf("%4.1f%% %4.0f %s\n", all > 0 ? 100 * number(row, "samples") / all : 0,
                   number(row, "ring"), json_string_value(json_object_get(row, "address")));
    }
}

static unsigned rows_left(json_t *answer, bool live)
{
    struct winsize w;
    unsigned used = 9 + (unsigned)json_array_size(json_object_get(answer, "cpus"));

    if (!live || ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) != 0)
        return 20;
    return w.ws_row > used + ROWS_MIN ? w.ws_row - used : ROWS_MIN;
}

static void print_json(json_t *from, json_t *to, double seconds)
{
    json_t *all = json_pack("{s:f, s:O, s:O}", "seconds", seconds, "before", from, "now", to);
    char *text = json_dumps(all, JSON_INDENT(2));

    printf("%s\n", text ? text : "{}");
    free(text);
    json_decref(all);
}

static json_t *ask(struct qmp_client *q, struct err *err)
{
    return qmp_client_call(q, "x-hull-query-jit", json_pack("{s:b}", "sample", 1), err);
}

/* The lease of samples is three seconds: longer intervals renew it. */
static json_t *ask_after(struct qmp_client *q, double seconds, struct err *err)
{
    uint64_t end = now_ns() + (uint64_t)(seconds * 1e9);
    json_t *answer = NULL;

    for (uint64_t now = now_ns(); now < end; now = now_ns()) {
        uint64_t left = end - now < 1000000000 ? end - now : 1000000000;

        usleep((useconds_t)(left / 1000));
        json_decref(answer);
        answer = ask(q, err);
        if (answer == NULL)
            return NULL;
    }
    return answer;
}

static bool show(const struct top_options *o, struct qmp_client *q, struct err *err)
{
    bool live = !o->once && isatty(STDOUT_FILENO);
    json_t *from = ask(q, err), *to;
    uint64_t at = now_ns();

    while (from) {
        double seconds;

        to = ask_after(q, o->interval, err);
        if (to == NULL)
            break;
        seconds = (double)(now_ns() - at) / 1e9;
        at = now_ns();
        if (o->json) {
            print_json(from, to, seconds);
        } else {
            if (live)
                printf("\033[H\033[2J");
            print_vcpus(from, to, seconds);
            print_code(from, to, seconds);
            print_top(to, rows_left(to, live));
        }
        fflush(stdout);
        json_decref(from);
        from = to;
        if (!live)
            break;
    }
    json_decref(from);
    return from != NULL && to != NULL;
}

int cmd_top(int argc, char **argv)
{
    struct top_options o = {.interval = 1};
    struct qmp_client q;
    struct err err;
    bool done;

    if (argc == 1 && (!strcmp(argv[0], "--help") || !strcmp(argv[0], "-h"))) {
        print_help();
        return EXIT_DONE;
    }
    if (!read_options(&o, argc, argv, &err))
        return usage_error("top", &err);
    done = qmp_client_open(&q, o.qmp, &err) && show(&o, &q, &err);
    qmp_client_close(&q);
    if (!done)
        log_error("%s: %s", o.qmp, err.text);
    return done ? EXIT_DONE : EXIT_FAILED;
}
