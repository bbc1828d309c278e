/* SPDX-License-Identifier: MIT */
/* hull image build without its long part: what users get wrong, and the whole flow with a stand-in
 * for mmdebstrap that makes a tiny root directory, so that the disk, the boot files, the cleaning
 * up and the interrupt are real. */
#include "hull.h"
#include "tap.h"
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char dir[] = "/var/tmp/hull-image-test-XXXXXX";

int usage_error(const char *verb, const struct err *err)
{
    fprintf(stderr, "hull %s: %s\n", verb, err->text);
    return EXIT_USAGE;
}

static bool sh(const char *fmt, const char *a)
{
    char text[4096];

    snprintf(text, sizeof text, fmt, a, a, a);
    return system(text) == 0;
}

static pid_t start(const char *arguments)
{
    pid_t pid = fork();

    if (pid == 0) {
        char text[4096], *argv[32];
        int n = 0;

        if (!freopen("err", "w", stderr) || !freopen("out", "w", stdout))
            _exit(99);
        snprintf(text, sizeof text, "%s", arguments);
        for (char *w = strtok(text, " "); w; w = strtok(NULL, " "))
            argv[n++] = w;
        argv[n] = NULL;
        exit(cmd_image(n, argv));
    }
    return pid;
}

static int finish(pid_t pid)
{
    int status;

    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
}

static void refuse(const char *arguments, int status, const char *want)
{
    int got = finish(start(arguments));

    ok(got == status && sh("grep -qF -e '%s' err", want), "%s: status %d, \"%s\"", arguments, got,
       want);
}

static void test_options(void)
{
    ok(finish(start("--help")) == 0 && sh("grep -q 'Usage: hull image build' out%.0s", ""),
       "--help");
    refuse("", 2, "needs a verb");
    refuse("biuld debian", 2, "biuld");
    refuse("build", 2, "debian[:RELEASE]");
    refuse("build ubuntu -o x", 2, "ubuntu");
    refuse("build debian:7 -o x", 2, "debian:7");
    refuse("build debian", 2, "-o FILE");
    refuse("build debian -o", 2, "-o needs a value");
    refuse("build debian -o x --sise 1G", 2, "did you mean --size?");
    refuse("build debian -o x --size 1M", 2, "at least 1G");
    refuse("build debian -o x --size huge", 2, "huge");
    refuse("build debian -o x --user Root", 2, "Root");
    refuse("build debian -o x --hostname a.b", 2, "a.b");
    refuse("build debian -o x --packages a;b", 2, "a;b");
    refuse("build debian -o x --kernel big", 2, "big");
    refuse("build debian -o x --ssh-key missing", 2, "missing: No such file");
    sh("echo '-----BEGIN OPENSSH PRIVATE KEY-----' > private%.0s", "");
    refuse("build debian -o x --ssh-key private", 2, "give private.pub");
    sh("touch there%.0s", "");
    refuse("build debian -o there", 1, "--force replaces it");
    refuse("build debian -o no/such/folder", 1, "no/such/folder.part: No such file");
}

/* Puts `text` into PATH as mmdebstrap. The root directory is the last argument but one. */
static void stand_in(const char *text)
{
    FILE *out = fopen("bin/mmdebstrap", "w");

    fprintf(out, "#!/bin/sh\nset -eu\nwhile [ $# -gt 2 ]; do shift; done\nroot=$1\n%s", text);
    fclose(out);
    chmod("bin/mmdebstrap", 0755);
}

static void test_build(void)
{
    stand_in("mkdir \"$root/boot\" \"$root/etc\"\n"
             "echo kernel >\"$root/boot/vmlinuz-1\"\nln -s vmlinuz-1 \"$root/boot/vmlinuz\"\n"
             "echo initramfs >\"$root/boot/initrd.img-1\"\nln -s initrd.img-1 "
             "\"$root/boot/initrd.img\"\n"
             "echo hello >\"$root/etc/motd\"\n");
    if (!ok(finish(start("build debian -o disk.img --size 1G")) == 0, "build"))
        sh("sed 's/^/# /' err%.0s", "");
    ok(sh("[ $(stat -c %%s disk.img) = 1073741824 ]%.0s", ""), "the disk has its size");
    ok(sh("[ $(stat -c %%b disk.img) -lt 100000 ]%.0s", ""), "and holes");
    ok(sh("PATH=$PATH:/sbin:/usr/sbin; e2fsck -fn disk.img >/dev/null 2>&1%.0s", ""),
       "its file system is clean");
    ok(sh("PATH=$PATH:/sbin:/usr/sbin; debugfs -R 'cat /etc/motd' disk.img 2>/dev/null | grep -q "
          "hello%.0s",
          ""),
       "and holds the files");
    ok(sh("PATH=$PATH:/sbin:/usr/sbin; debugfs -R 'stat /etc/motd' disk.img 2>/dev/null | "
          "grep -q 'User: *0 *Group: *0 '%.0s",
          ""),
       "which are root's");
    ok(sh("grep -q kernel disk.img.boot/vmlinuz && grep -q initramfs disk.img.boot/initrd%.0s", ""),
       "boot files");
    ok(sh("PATH=$PATH:/sbin:/usr/sbin; grep -q \"root=UUID=$(dumpe2fs -h disk.img 2>/dev/null | "
          "sed -n 's/Filesystem UUID: *//p') ro\" disk.img.boot/cmdline%.0s",
          ""),
       "the command line names the disk's root");
    ok(sh("grep -q '^user debian, password [a-z2-9]\\{12\\}$' out%.0s", ""),
       "a password is made up and told");
    ok(sh("[ ! -e disk.img.part ] && [ ! -e disk.img.boot.part ] && [ -z \"$(ls tmp)\" ]%.0s", ""),
       "nothing else is left");
}

static void test_failure(void)
{
    stand_in("echo 'E: the mirror is on fire'\nmkdir \"$root/boot\"\nexit 1\n");
    ok(finish(start("build debian -o disk.img --force")) == 1, "a failing build: exit 1");
    ok(sh("grep -q 'the mirror is on fire' err%.0s", ""), "shows the last words");
    ok(sh("grep -q kernel disk.img.boot/vmlinuz && [ -z \"$(ls tmp)\" ] && [ ! -e disk.img.part "
          "]%.0s",
          ""),
       "keeps the old disk and leaves nothing");
}

static void test_interrupt(void)
{
    pid_t pid;

    stand_in("echo $$ >>started; mkdir \"$root/boot\"\nsleep 30 & wait\n");
    pid = start("build debian -o other.img");
    for (int i = 0; i < 500 && access("started", F_OK) != 0; i++)
        usleep(10000);
    kill(pid, SIGINT);
    ok(finish(pid) == 130, "interrupted: exit 130");
    ok(sh("[ -z \"$(ls tmp)\" ] && [ ! -e other.img ] && [ ! -e other.img.part ] && "
          "[ ! -e other.img.boot.part ]%.0s",
          ""),
       "and nothing is left");
}

static bool can_unshare(void)
{
    return sh(geteuid() == 0
                  ? "unshare --mount --pid --fork true 2>/dev/null%.0s"
                  : "unshare --mount --pid --fork --map-root-user --map-auto true 2>/dev/null%.0s",
              "");
}

int main(void)
{
    char path[4096];

    log_setup("hull", LOG_WARN);
    if (!mkdtemp(dir) || chdir(dir) != 0 || !sh("mkdir bin tmp%.0s", "")) {
        printf("Bail out! %s\n", dir);
        return 1;
    }
    snprintf(path, sizeof path, "%s/bin:%s", dir, getenv("PATH"));
    setenv("PATH", path, 1);
    snprintf(path, sizeof path, "%s/tmp", dir);
    setenv("TMPDIR", path, 1);
    stand_in("exit 1\n");
    test_options();
    if (access("/usr/share/keyrings/debian-archive-keyring.gpg", R_OK) != 0 || !can_unshare()) {
        tap_skip("building", "no namespaces or no keyring here");
    } else {
        test_build();
        test_failure();
        test_interrupt();
    }
    sh("rm -rf %s", dir);
    return tap_done();
}
