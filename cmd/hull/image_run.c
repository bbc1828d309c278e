/* SPDX-License-Identifier: MIT */
/* Running the programs that make an image: progress lines from their output, the last of it when
 * they fail, and an end that leaves nothing behind when the user interrupts. */
#include "image.h"
#include "base/clock.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { KEPT = 12, LINE = 400 };

static volatile sig_atomic_t interrupted;
static volatile pid_t running;
static uint64_t started_ns;

struct tail { /* the last lines of a program's output */
    char line[KEPT][LINE];
    unsigned count;
};

void image_progress(const char *fmt, ...)
{
    va_list ap;

    if (!started_ns)
        started_ns = now_ns();
    fprintf(stderr, "[%3u s] ", (unsigned)((now_ns() - started_ns) / 1000000000));
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
}

static void on_signal(int number)
{
    interrupted = number;
    if (running > 0)
        kill(-running, SIGTERM); /* all that it has started too */
}

void image_catch_signals(void)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction action = {.sa_handler = on_signal};

    for (unsigned i = 0; i < ARRAY_SIZE(signals); i++)
        sigaction(signals[i], &action, NULL);
}

bool image_interrupted(void)
{
    return interrupted != 0;
}

static void take_line(struct tail *t, const char *line)
{
    /* mmdebstrap announces its steps so; what it finds about itself says nothing to users. */
    if (strncmp(line, "I: ", 3) == 0 && !strstr(line, "architecture") &&
        !strstr(line, "signed-by") && !strstr(line, "success in"))
        image_progress("%.*s", (int)strcspn(line + 3, "\n"), line + 3);
    snprintf(t->line[t->count++ % KEPT], LINE, "%s", line);
}

static void show(const struct tail *t)
{
    unsigned from = t->count > KEPT ? t->count - KEPT : 0;

    for (unsigned i = from; i < t->count; i++)
        fprintf(stderr, "  %s", t->line[i % KEPT]);
}

static pid_t spawn(char *const argv[], int *output, struct err *err)
{
    int pipes[2];
    pid_t pid;

    if (pipe2(pipes, O_CLOEXEC) != 0) {
        err_set(err, errno, "pipe: %s", strerror(errno));
        return -1;
    }
    pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        setpgid(0, 0); /* the terminal's Ctrl-C comes to us, and we pass it on */
        dup2(open("/dev/null", O_RDONLY), STDIN_FILENO);
        dup2(pipes[1], STDOUT_FILENO);
        dup2(pipes[1], STDERR_FILENO);
        execvp(argv[0], argv);
        dprintf(STDERR_FILENO, "%s: %s\n", argv[0], strerror(errno));
        _exit(127);
    }
    close(pipes[1]);
    if (pid > 0)
        setpgid(pid, pid); /* here too: whoever comes first */
    if (pid < 0) {
        err_set(err, errno, "fork: %s", strerror(errno));
        close(pipes[0]);
        return -1;
    }
    *output = pipes[0];
    return pid;
}

bool image_run(char *const argv[], struct err *err)
{
    struct tail *tail = calloc(1, sizeof *tail);
    char line[LINE];
    int output = -1, status = 0;
    FILE *in;

    if (!tail)
        return err_set(err, ENOMEM, "out of memory");
    running = spawn(argv, &output, err);
    if (running < 0) {
        free(tail);
        return false;
    }
    in = fdopen(output, "r");
    while (in && (fgets(line, sizeof line, in) || (ferror(in) && errno == EINTR))) {
        clearerr(in);
        take_line(tail, line);
        line[0] = '\0';
    }
    if (in)
        fclose(in);
    while (waitpid(running, &status, 0) < 0 && errno == EINTR)
        ;
    running = 0;
    if (status && !interrupted)
        show(tail);
    free(tail);
    if (interrupted)
        return err_set(err, EINTR, "interrupted");
    if (status)
        return err_set(err, EIO, "%s failed: its last words are above", argv[0]);
    return true;
}
