/* SPDX-License-Identifier: MIT */
/* What an image build takes from the host: Debian's mirrors, proxies and checks as apt uses them
 * here, so that building works wherever the host's own apt works; and the programs that do the
 * work. */
#include "image.h"
#include <dirent.h>
#include <errno.h>
#include <pwd.h>
#include <stdlib.h>
#include <unistd.h>

#define DEFAULT_MIRROR   "http://deb.debian.org/debian"
#define DEFAULT_SECURITY "http://deb.debian.org/debian-security"
#define KEYRING          "/usr/share/keyrings/debian-archive-keyring.gpg"

/* ---- sources.list ---- */

struct source { /* one entry, whichever format it was written in */
    char types[64], uris[1024], suites[256], components[256];
};

static const char *const codenames[] = {"bullseye", "bookworm", "trixie",  "forky",
                                        "sid",      "stable",   "testing", "unstable"};

static bool has_word(const char *text, const char *word)
{
    size_t len = strlen(word);

    for (; *text; text += strcspn(text, " \t")) {
        text += strspn(text, " \t");
        if (strncmp(text, word, len) == 0 &&
            (text[len] == '\0' || text[len] == ' ' || text[len] == '\t'))
            return true;
    }
    return false;
}

static bool has_suite(const struct source *s, const char *ending)
{
    for (unsigned i = 0; i < ARRAY_SIZE(codenames); i++) {
        char suite[64];

        snprintf(suite, sizeof suite, "%s%s", codenames[i], ending);
        if (has_word(s->suites, suite))
            return true;
    }
    return false;
}

/* Takes the entry's mirror if it is Debian's own archive or its security archive. */
static void use_source(struct host_apt *a, const struct source *s)
{
    size_t len = strcspn(s->uris, " \t");
    /* A disc that was used to install is not there any more. */
    bool usable = has_word(s->types, "deb") && has_word(s->components, "main") && len &&
                  strncmp(s->uris, "cdrom:", 6) != 0;

    if (usable && !a->security[0] && has_suite(s, "-security"))
        snprintf(a->security, sizeof a->security, "%.*s", (int)len, s->uris);
    else if (usable && !a->main[0] && has_suite(s, "")) {
        snprintf(a->main, sizeof a->main, "%.*s", (int)len, s->uris);
        snprintf(a->components, sizeof a->components, "%.200s", s->components);
    }
}

/* "deb [options] URI suite component..." */
static void read_one_line(struct host_apt *a, char *line)
{
    struct source s = {0};
    int used = 0;
    char *options;

    line[strcspn(line, "#\n")] = '\0';
    if ((options = strchr(line, '[')) && strchr(options, ']'))
        memset(options, ' ', (size_t)(strchr(options, ']') - options) + 1);
    if (sscanf(line, " %63s %1023s %255s %n", s.types, s.uris, s.suites, &used) < 3 || !used)
        return;
    snprintf(s.components, sizeof s.components, "%s", line + used);
    use_source(a, &s);
}

static void take_field(struct source *s, const char *line)
{
    static const struct {
        const char *name;
        size_t offset, size;
    } fields[] = {
        {"Types:", offsetof(struct source, types), sizeof s->types},
        {"URIs:", offsetof(struct source, uris), sizeof s->uris},
        {"Suites:", offsetof(struct source, suites), sizeof s->suites},
        {"Components:", offsetof(struct source, components), sizeof s->components},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(fields); i++) {
        size_t len = strlen(fields[i].name);

        if (strncasecmp(line, fields[i].name, len) != 0)
            continue;
        line += len + strspn(line + len, " \t");
        snprintf((char *)s + fields[i].offset, fields[i].size, "%.*s", (int)strcspn(line, "\n"),
                 line);
    }
    if (strncasecmp(line, "Enabled: no", 11) == 0)
        s->types[0] = '\0';
}

static void read_sources_file(struct host_apt *a, const char *path)
{
    bool deb822 = strlen(path) > 8 && strcmp(path + strlen(path) - 8, ".sources") == 0;
    FILE *in = fopen(path, "re");
    struct source s = {0};
    char line[2048];

    while (in && fgets(line, sizeof line, in)) {
        if (!deb822) {
            read_one_line(a, line);
        } else if (line[0] == '\n') {
            use_source(a, &s);
            s = (struct source){0};
        } else {
            take_field(&s, line);
        }
    }
    if (deb822)
        use_source(a, &s);
    if (in)
        fclose(in);
}

static bool ends_with(const char *name, const char *ending)
{
    size_t n = strlen(name), e = strlen(ending);

    return n > e && strcmp(name + n - e, ending) == 0;
}

static int is_sources_file(const struct dirent *d)
{
    return ends_with(d->d_name, ".list") || ends_with(d->d_name, ".sources");
}

static void read_sources(struct host_apt *a)
{
    struct dirent **names = NULL;
    int count = scandir("/etc/apt/sources.list.d", &names, is_sources_file, alphasort);

    read_sources_file(a, "/etc/apt/sources.list");
    for (int i = 0; i < count; i++) {
        char path[PATH_MAX];

        snprintf(path, sizeof path, "/etc/apt/sources.list.d/%s", names[i]->d_name);
        read_sources_file(a, path);
        free(names[i]);
    }
    free(names);
}

/* ---- apt.conf ---- */

/* What decides whether this host reaches its mirror. Credentials are left out: the guest would show
 * them. */
static bool wanted_option(const char *line)
{
    static const char *const names[] = {
        "Acquire::http::Proxy",        "Acquire::https::Proxy",      "Acquire::http::Proxy::",
        "Acquire::https::Proxy::",     "Acquire::Check-Valid-Until", "Acquire::Check-Date",
        "Acquire::ForceIPv4",          "Acquire::ForceIPv6",         "Acquire::Retries",
        "Acquire::https::Verify-Peer", "Acquire::https::CaInfo",
    };
    size_t len = strcspn(line, " ");

    for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
        size_t n = strlen(names[i]);

        if ((len == n || (names[i][n - 1] == ':' && len > n)) && strncmp(line, names[i], n) == 0)
            return strstr(line, "\"\"") == NULL;
    }
    return false;
}

static void add_option(struct host_apt *a, const char *line)
{
    size_t n = strlen(a->options);

    if (n + strlen(line) < sizeof a->options)
        strcpy(a->options + n, line);
}

static void read_options(struct host_apt *a)
{
    static const char *const schemes[] = {"http", "https"};
    FILE *in = popen("apt-config dump 2>/dev/null", "re");
    char line[1024];

    while (in && fgets(line, sizeof line, in)) {
        if (wanted_option(line))
            add_option(a, line);
    }
    if (in)
        pclose(in);
    for (unsigned i = 0; i < ARRAY_SIZE(schemes);
         i++) { /* apt takes these from the environment too */
        char name[32];
        const char *value;

        snprintf(name, sizeof name, "%s_proxy", schemes[i]);
        value = getenv(name);
        snprintf(line, sizeof line, "Acquire::%s::Proxy ", schemes[i]);
        if (!value || !*value || strpbrk(value, "\"\n") || strstr(a->options, line))
            continue;
        snprintf(line, sizeof line, "Acquire::%s::Proxy \"%.900s\";\n", schemes[i], value);
        add_option(a, line);
    }
}

bool host_apt_read(struct host_apt *a, const struct image_options *o, struct err *err)
{
    *a = (struct host_apt){0};
    read_sources(a);
    read_options(a);
    if (!a->main[0]) {
        strcpy(a->main, DEFAULT_MIRROR);
        strcpy(a->components, "main");
    }
    if (!a->security[0])
        strcpy(a->security, DEFAULT_SECURITY);
    if (o->mirror[0])
        snprintf(a->main, sizeof a->main, "%s", o->mirror);
    strcpy(a->keyring, KEYRING);
    if (access(a->keyring, R_OK) != 0)
        return err_set(err, ENOENT, "%s is missing: apt-get install debian-archive-keyring",
                       a->keyring);
    return true;
}

/* ---- programs ---- */

static bool in_path(const char *name)
{
    const char *at = getenv("PATH");

    while (at && *at) {
        char path[PATH_MAX];
        size_t len = strcspn(at, ":");

        snprintf(path, sizeof path, "%.*s/%s", (int)len, at, name);
        if (access(path, X_OK) == 0)
            return true;
        at += len + (at[len] == ':');
    }
    return false;
}

static bool has_subids(const char *path, struct err *err)
{
    const struct passwd *who = getpwuid(getuid());
    char line[256], name[128], id[32];
    FILE *in = fopen(path, "re");
    bool found = false;

    snprintf(name, sizeof name, "%s:", who ? who->pw_name : "");
    snprintf(id, sizeof id, "%u:", getuid());
    while (in && fgets(line, sizeof line, in))
        found |= (name[1] && strncmp(line, name, strlen(name)) == 0) ||
                 strncmp(line, id, strlen(id)) == 0;
    if (in)
        fclose(in);
    if (found)
        return true;
    return err_set(
        err, EPERM,
        "%s gives this user no range of user ids, which a build without root needs: sudo usermod "
        "--add-subuids 100000-165535 --add-subgids 100000-165535 $USER",
        path);
}

bool host_tools_check(bool root, struct err *err)
{
    static const struct {
        const char *program, *package;
        bool user_only;
    } tools[] = {
        {"mmdebstrap", "mmdebstrap", false}, {"mke2fs", "e2fsprogs", false},
        {"newuidmap", "uidmap", true},       {"unshare", "util-linux", true},
        {"apt-get", "apt", false},
    };
    char path[4096];

    /* Ordinary users often have no sbin in their PATH, where mke2fs is. */
    snprintf(path, sizeof path, "%.3900s:/usr/local/sbin:/usr/sbin:/sbin",
             getenv("PATH") ? getenv("PATH") : "/usr/bin:/bin");
    setenv("PATH", path, 1);
    for (unsigned i = 0; i < ARRAY_SIZE(tools); i++) {
        if (!(root && tools[i].user_only) && !in_path(tools[i].program))
            return err_set(err, ENOENT, "%s is missing: apt-get install %s", tools[i].program,
                           tools[i].package);
    }
    return root || (has_subids("/etc/subuid", err) && has_subids("/etc/subgid", err));
}
