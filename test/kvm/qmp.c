/* SPDX-License-Identifier: MIT */
/* For the outer machine, which has no Python: sends QMP commands and prints their answers.
 *
 *   kvm-qmp SOCKET COMMAND...     COMMAND as {"execute":"query-balloon"} */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* The next line that is no event; false: the machine has gone. */
static int answer(FILE *in, char *line, int room)
{
    while (fgets(line, room, in))
        if (!strstr(line, "\"event\""))
            return 1;
    return 0;
}

static int say(int fd, FILE *in, const char *command, char *line, int room)
{
    return write(fd, command, strlen(command)) > 0 && write(fd, "\n", 1) == 1 &&
           answer(in, line, room);
}

int main(int argc, char **argv)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    static char line[1 << 16];
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    FILE *in;

    if (argc < 2 || strlen(argv[1]) >= sizeof to.sun_path)
        return 2;
    strcpy(to.sun_path, argv[1]);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) || !(in = fdopen(fd, "r"))) {
        perror(argv[1]);
        return 1;
    }
    if (!answer(in, line, sizeof line) ||
        !say(fd, in, "{\"execute\":\"qmp_capabilities\"}", line, sizeof line))
        return 1;
    for (int i = 2; i < argc; i++) {
        if (!say(fd, in, argv[i], line, sizeof line))
            return 1;
        fputs(line, stdout);
    }
    return 0;
}
