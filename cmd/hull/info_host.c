/* SPDX-License-Identifier: MIT */
/* What this host offers to machines, as JSON: engine, KVM, processor, memory, devices; and a list
 * of what limits it, each with how to change that. The keys are documented in hull-info(1). */
#include "info.h"
#include "share.h"
#include "hull.h"
#include "engine/choose.h"
#include "engine/x86/model.h"
#include "loop/uring.h"
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

/* ---- small readers ---- */

/* The first line of a file of /sys or /proc; "" if there is none. */
static const char *first_line(const char *path, char *line, size_t room)
{
    FILE *f = fopen(path, "re");

    line[0] = 0;
    if (f && fgets(line, (int)room, f))
        line[strcspn(line, "\n")] = 0;
    if (f)
        fclose(f);
    return line;
}

static long first_number(const char *path)
{
    char line[64];

    return strtol(first_line(path, line, sizeof line), NULL, 10);
}

static bool can_open(const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);

    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

static bool has_uring(void)
{
    struct err err;
    struct loop *l = loop_open(&err);
    bool has = l && loop_has_uring(l);

    loop_close(l);
    return has;
}

/* The kernel's version of Landlock; 0: none. */
static int landlock_abi(void)
{
    long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, 1u /* ask for the version */);

    return abi > 0 ? (int)abi : 0;
}

/* ---- limits ---- */

static void limit(json_t *limits, const char *what, const char *fix)
{
    json_array_append_new(limits, json_pack("{s:s, s:s}", "what", what, "fix", fix));
}

static void device_limits(json_t *info, json_t *limits)
{
    char line[64];

    if (!json_is_true(json_object_get(info, "io_uring")))
        limit(
            limits, "io_uring is forbidden: disks use a thread pool, which is slower",
            first_number("/proc/sys/kernel/io_uring_disabled") > 0
                ? "sysctl kernel.io_uring_disabled=0"
                : "allow io_uring_setup, _enter and _register in the container's seccomp profile, "
                  "or Linux 5.11 or later");
    if (!json_integer_value(json_object_get(info, "landlock")))
        limit(limits, "no Landlock: machines are fenced from files by seccomp alone",
              "Linux 5.13 or later, booted with landlock in lsm=");
    if (!json_is_true(json_object_get(info, "tap")))
        limit(limits, "/dev/net/tun cannot be opened: no --net tap",
              "modprobe tun, or be allowed to open it");
    if (!json_is_true(json_object_get(info, "vhost_net")))
        limit(limits, "/dev/vhost-net cannot be opened: tap networks cost more processor time",
              "modprobe vhost_net, and be in group kvm");
    if (!json_is_true(json_object_get(info, "vhost_vsock")))
        limit(limits, "/dev/vhost-vsock cannot be opened: --vsock works over UNIX sockets only",
              "modprobe vhost_vsock, and be in group kvm");
    if (json_is_null(json_object_get(info, "virtiofsd")))
        limit(limits, "no virtiofsd: --share by 9p only, which Debian's cloud kernel does not have",
              "install virtiofsd, or on Debian 12 qemu-system-common");
    if (first_number("/proc/sys/vm/overcommit_memory") == 2)
        limit(limits, "memory is never overcommitted: all of a machine's counts from the start",
              "sysctl vm.overcommit_memory=0");
    first_line("/sys/devices/system/clocksource/clocksource0/current_clocksource", line,
               sizeof line);
    if (line[0] && strcmp(line, "tsc") && strcmp(line, "kvm-clock"))
        limit(limits, "the host's clock is not the TSC: guests' clocks are slow to read",
              "see dmesg for why the TSC was marked unstable");
}

/* ---- parts ---- */

static void add_capability(void *to, const struct kvm_capability *c)
{
    json_array_append_new(to, json_pack("{s:s, s:i, s:s, s:s}", "name", c->name, "value", c->value,
                                        "about", c->about, "get", c->get));
}

static json_t *kvm_part(json_t *limits)
{
    json_t *caps = json_array(), *kvm = json_object();
    struct kvm_speed speed = {0};
    struct cpu_offer offer;
    struct err err = {0};
    bool usable = engine_measure(&speed, &err), nested = false;

    json_object_set_new(kvm, "usable", json_boolean(usable));
    json_object_set_new(kvm, "problem", usable ? json_null() : json_string(err.text));
    if (usable) {
        json_object_set_new(kvm, "mips", json_real((int64_t)(speed.mips * 10) / 10.0));
        json_object_set_new(kvm, "exit_us", json_real((int64_t)(speed.exit_us * 10) / 10.0));
        json_object_set_new(kvm, "hardware", json_boolean(speed.mips >= HARDWARE_MIPS));
        nested = kvm_engine.offer(&offer, &err) &&
                 (offer.feature[X86_F_VMX] != CPU_LACKS || offer.feature[X86_F_SVM] != CPU_LACKS);
        if (!nested)
            limit(limits, "guests cannot run KVM themselves",
                  "load kvm_intel or kvm_amd with nested=1, then --cpu host,+vmx or +svm");
    }
    json_object_set_new(kvm, "nested", json_boolean(nested));
    kvm_report(add_capability, caps, &err);
    json_object_set_new(kvm, "capabilities", caps);
    return kvm;
}

static json_t *processor_part(void)
{
    json_t *flags = json_array(), *levels = json_array();
    static const char *const level[] = {"x86-64-v2", "x86-64-v3"};
    uint8_t lacks[X86_F_COUNT], without[X86_F_COUNT];
    struct cpu_offer offer;
    char vendor[13], brand[49];
    uint32_t signature;

    host_identity(vendor, &signature, brand);
    for (unsigned f = X86_F_BASE + 1; f < X86_F_COUNT; f++)
        if (host_features()[f])
            json_array_append_new(flags, json_string(cpu_feature_name(f)));
    cpu_offer_soft(&offer);
    for (unsigned i = 0; i < ARRAY_SIZE(level); i++)
        if (cpu_model_gaps(level[i], &offer, lacks, without) && !memchr(lacks, 1, sizeof lacks))
            json_array_append_new(levels, json_string(level[i]));
    return json_pack("{s:s, s:s, s:i, s:o, s:o}", "vendor", vendor, "name", brand, "tsc_khz",
                     (int)host_tsc_khz(), "levels", levels, "flags", flags);
}

/* The word in brackets is the one in force. */
static json_t *huge_pages_part(json_t *limits)
{
    char line[128], *word, *end;

    first_line("/sys/kernel/mm/transparent_hugepage/enabled", line, sizeof line);
    word = strchr(line, '[');
    end = word ? strchr(word, ']') : NULL;
    if (end)
        *end = 0;
    if (!end || !strcmp(word + 1, "never"))
        limit(limits, "no transparent huge pages: guest memory is slower",
              "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled");
    return json_pack("{s:s, s:i, s:i}", "transparent", end ? word + 1 : "missing", "reserved",
                     (int)first_number("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"),
                     "free",
                     (int)first_number("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages"));
}

#define VULNERABILITIES "/sys/devices/system/cpu/vulnerabilities"

static json_t *mitigations_part(void)
{
    json_t *all = json_object();
    DIR *dir = opendir(VULNERABILITIES);
    struct dirent *e;

    while (dir && (e = readdir(dir)) != NULL) {
        char path[512], line[256];

        if (e->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, VULNERABILITIES "/%s", e->d_name);
        json_object_set_new(all, e->d_name, json_string(first_line(path, line, sizeof line)));
    }
    if (dir)
        closedir(dir);
    return all;
}

static json_t *model_names(void)
{
    json_t *list = json_array();

    for (const char *const *name = cpu_model_names(); *name; name++)
        json_array_append_new(list, json_string(*name));
    return list;
}

json_t *info_host(void)
{
    json_t *info, *limits = json_array(), *kvm = kvm_part(limits);
    struct engine_choice choice;
    struct utsname host;
    struct sysinfo memory;

    engine_choose("auto", &choice, NULL);
    uname(&host);
    sysinfo(&memory);
    if (choice.second_best)
        json_array_insert_new(limits, 0,
                              json_pack("{s:s, s:s}", "what",
                                        "machines run on the soft engine, which is slower than KVM",
                                        "fix", choice.reason));
    info = json_pack(
        "{s:s, s:s, s:s, s:s, s:i, s:I, s:b, s:b, s:b, s:b, s:b, s:i, s:o}", "version",
        HULL_VERSION, "kernel", host.release, "engine", choice.ops->name, "reason", choice.reason,
        "cpus", get_nprocs(), "memory", (json_int_t)memory.totalram * memory.mem_unit, "kvm_device",
        !access("/dev/kvm", F_OK), "io_uring", has_uring(), "tap", can_open("/dev/net/tun"),
        "vhost_net", can_open("/dev/vhost-net"), "vhost_vsock", can_open("/dev/vhost-vsock"),
        "landlock", landlock_abi(), "cpu_models", model_names());
    json_object_set_new(info, "virtiofsd",
                        virtiofsd_path() ? json_string(virtiofsd_path()) : json_null());
    json_object_set_new(info, "kvm", kvm);
    json_object_set_new(info, "processor", processor_part());
    json_object_set_new(info, "huge_pages", huge_pages_part(limits));
    json_object_set_new(info, "mitigations", mitigations_part());
    device_limits(info, limits);
    json_object_set_new(info, "limits", limits);
    return info;
}
