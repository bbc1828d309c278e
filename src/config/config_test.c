/* SPDX-License-Identifier: MIT */
/* The command line and JSON: what is read, what is refused and with which words. */
#include "config/config.h"
#include "tap.h"
#include <stdlib.h>

static struct config config, again;

static bool parse(const char *line, struct err *err)
{
    static char text[1024];
    char *argv[32];
    int argc = 0;

    snprintf(text, sizeof text, "%s", line);
    for (char *word = strtok(text, " "); word; word = strtok(NULL, " "))
        argv[argc++] = word;
    config_defaults(&config);
    err->text[0] = 0;
    return config_parse_args(&config, argc, argv, err);
}

static void refused(const char *line, const char *words)
{
    struct err err;
    bool done = parse(line, &err);

    ok(!done && strstr(err.text, words), "refused: %s (%s)", line, err.text);
}

static void test_read(void)
{
    struct err err;

    ok(parse("disk.img --cpus 4 --memory=2G --net user,forward=tcp:2222:22 --kernel k --append a=b",
             &err),
       "a usual line: %s", err.text);
    ok(config.cpus == 4 && config.memory == 2 * GiB && config.net_count == 1, "numbers and sizes");
    ok(!config.hugepages, "no huge pages unless asked for");
    ok(parse("--kernel k --memory 4G,hugepages=on", &err) && config.hugepages &&
           config.memory == 4 * GiB,
       "huge pages are an option of the memory: %s", err.text);
    parse("disk.img", &err);
    ok(config.disk_count == 1 && !strcmp(config.disk[0].file, "disk.img") && config.disk[0].discard,
       "an image without an option is a disk");
    ok(parse("--disk a,,b.img,readonly=on,serial=X1,cache=none", &err) && config.disk[0].readonly &&
           !strcmp(config.disk[0].file, "a,b.img") && !strcmp(config.disk[0].serial, "X1"),
       "a doubled comma belongs to the file name: %s", err.text);
}

static void test_share(void)
{
    const struct config_share *s = config.share;
    struct err err;

    ok(parse("--kernel k --share /a/b/ --share /c:d:tag,readonly=on,type=9p --share /e:f/g", &err),
       "shares: %s", err.text);
    ok(config.share_count == 3 && !strcmp(s[0].tag, "b") && !strcmp(s[1].dir, "/c:d") &&
           !strcmp(s[1].tag, "tag") && s[1].readonly && !strcmp(s[2].dir, "/e:f/g") &&
           !strcmp(s[2].tag, "g"),
       "a share's name is its directory's, or what follows a colon");
    refused("--kernel k --share .", "give it a name");
    refused("--kernel k --share /", "give it a name");
    refused("--kernel k --share /a:", "must be DIR or DIR:TAG");
    refused("--kernel k --share /a:x123456789012345678901234567890123456", "longer than 36");
    refused("--kernel k --share /a --share /b/a", "two shares are named a");
    refused("--kernel k --share /a,type=9pp", "did you mean 9p?");
    refused("--kernel k --share /a,readony=on", "did you mean 'readonly'?");
}

static void test_refused(void)
{
    refused("--cpu", "--cpu needs a value");
    refused("--enginge soft", "did you mean --engine?");
    refused("--cpus 0", "must be 1 to");
    refused("--kernel k --vsock 2", "a guest's CID is 3 or more");
    refused("--kernel k --vsock 4294967295", "stands for any CID");
    refused("--kernel k --vsock x", "must be a whole number");
    refused("--kernel k --vsock 3,sock=/x", "did you mean 'socket'?");
    refused("--cpus 1000", "must be");
    refused("--memory 0", "at least 2M");
    refused("--memory 1M", "at least 2M");
    refused("--memory lots", "--memory lots");
    refused("--memory 1G,hugpages=on", "did you mean 'hugepages'?");
    refused("--memory 3M,hugepages=on", "multiple of 2M");
    refused("--engine kvn", "did you mean kvm?");
    refused("--disk d,formt=raw", "format");
    refused("--disk d,cache=writebak", "did you mean writeback?");
    refused("--initrd i", "needs --kernel");
    refused("--firmware bios", "not in this version");
    refused("--timeout 0", "at least 1");
    refused("--exit-on-panic=yes", "takes no value");
}

static void test_json(void)
{
    struct err err;
    char *text;

    parse("a.img --disk b.img,serial=S --net none --cpus 3 --random-seed 7 --port p,socket=/x "
          "--vsock 3,socket=/v --share /d:t,readonly=on",
          &err);
    text = config_to_json(&config);
    ok(text && config_from_json(&again, text, strlen(text), &err), "json is read back: %s",
       err.text);
    ok(!memcmp(&config, &again, sizeof config), "and gives the same config");
    free(text);
    text = "{\"cpus\": 2, \"cpuz\": 3}";
    ok(!config_from_json(&again, text, strlen(text), &err) && strstr(err.text, "cpuz"),
       "unknown member: %s", err.text);
    text = "{\"disk\": 3}";
    ok(!config_from_json(&again, text, strlen(text), &err), "wrong type: %s", err.text);
    text = "{\"cpus\": 2";
    ok(!config_from_json(&again, text, strlen(text), &err), "broken JSON: %s", err.text);
}

int main(void)
{
    test_read();
    test_share();
    test_refused();
    test_json();
    return tap_done();
}
