/* SPDX-License-Identifier: MIT */
/* What goes into the disk beside Debian's packages: a handful of settings, and the script that
 * mmdebstrap runs when the packages are in. The aim is a system that a Debian user knows, less what
 * a virtual machine only waits for.
 *
 * The initramfs is Debian's tiny-initramfs: 300 KB that load virtio-blk and mount the root, where
 * the usual one unpacks 50 MB and runs udev twice. */
#include "image.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

struct file {
    const char *path; /* below `work` */
    unsigned mode;
    const char *text;
};

/* The same for everyone. */
static const struct file fixed[] = {
    {"overlay/etc/systemd/network/80-hull.network", 0644,
     "# Every Ethernet device asks for an address.\n"
     "[Match]\nName=e*\n\n[Network]\nDHCP=yes\n\n[DHCPv4]\nUseMTU=yes\nUseHostname=no\n"},
    /* systemd-resolved takes a tenth of the boot's work; without it somebody must write
       resolv.conf. */
    {"overlay/etc/systemd/system/hull-resolv.path", 0644,
     "[Unit]\nDescription=Watch for name servers from the network\n\n"
     "[Path]\nPathChanged=/run/systemd/netif/state\n\n[Install]\nWantedBy=multi-user.target\n"},
    {"overlay/etc/systemd/system/hull-resolv.service", 0644,
     "[Unit]\nDescription=Write resolv.conf\nAfter=systemd-networkd.service\n\n"
     "[Service]\nType=oneshot\nExecStart=/usr/local/lib/hull/resolv\n\n"
     "[Install]\nWantedBy=multi-user.target\n"},
    {"overlay/usr/local/lib/hull/resolv", 0755,
     "#!/bin/sh\n# Puts the name servers that systemd-networkd has got into resolv.conf. A link "
     "there belongs to\n"
     "# another program, such as systemd-resolved once it is installed.\nset -eu\n"
     "state=/run/systemd/netif/state file=/etc/resolv.conf\n"
     "[ -L $file ] || [ ! -e $state ] && exit 0\n"
     "new=$(while IFS='=' read -r key value; do\n"
     "    case $key in\n"
     "    DNS) for server in $value; do echo \"nameserver ${server%%#*}\"; done ;;\n"
     "    DOMAINS) [ -z \"$value\" ] || echo \"search $value\" ;;\n"
     "    esac\ndone <$state)\n"
     "[ -n \"$new\" ] || exit 0\n"
     "printf '%s\\n' \"$new\" >$file.new\nmv $file.new $file\n"},
    /* Half of the boot's device events are about virtual terminals, CPU features and other things
     * that nothing here acts on. Serial ports are: a login prompt waits for them. */
    {"overlay/etc/systemd/system/systemd-udev-trigger.service.d/hull.conf", 0644,
     "[Service]\nExecStart=\n"
     "ExecStart=-/bin/udevadm trigger --action=add --subsystem-nomatch=tty --subsystem-nomatch=vc "
     "--subsystem-nomatch=cpu --subsystem-nomatch=wakeup --subsystem-nomatch=bdi "
     "--subsystem-nomatch=workqueue --subsystem-nomatch=memory --subsystem-nomatch=event_source "
     "--subsystem-nomatch=clockevents --subsystem-nomatch=clocksource --subsystem-nomatch=leds "
     "--subsystem-nomatch=container --subsystem-nomatch=module\n"
     "ExecStart=-/bin/udevadm trigger --action=add --subsystem-match=tty --sysname-match=ttyS[0-3] "
     "--sysname-match=hvc*\n"},
    /* On the soft engine of a busy host a boot can take minutes: with systemd's 90 s for a device
     * to appear, the serial port's login prompt would be given up. */
    {"overlay/etc/systemd/system.conf.d/hull.conf", 0644,
     "[Manager]\nDefaultDeviceTimeoutSec=15min\nDefaultTimeoutStartSec=15min\n"},
    {"overlay/etc/default/locale", 0644, "LANG=C.UTF-8\n"},
    {"overlay/etc/systemd/system/hull-firstboot.service", 0644,
     "[Unit]\nDescription=Make what must differ between machines\n"
     "ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key\nBefore=ssh.service\n"
     "After=local-fs.target\n\n"
     "[Service]\nType=oneshot\nExecStart=/usr/local/lib/hull/firstboot\n\n"
     "[Install]\nWantedBy=multi-user.target\n"},
    /* RSA keys take long to find; nobody needs them for a new machine. */
    {"overlay/usr/local/lib/hull/firstboot", 0755,
     "#!/bin/sh\n# Runs once, on the first boot: host keys of this machine alone. The machine id "
     "is\n"
     "# made by systemd and the root file system grown by systemd-growfs (see /etc/fstab).\nset "
     "-eu\n"
     "for type in ecdsa ed25519; do\n"
     "    rm -f /etc/ssh/ssh_host_${type}_key\n"
     "    ssh-keygen -q -t $type -N '' -C \"$(hostname)\" -f /etc/ssh/ssh_host_${type}_key\n"
     "done\n"},
    {"early/etc/tiny-initramfs/tiny-initramfs.conf", 0644,
     "# What the root disk of any hull machine needs; names that this kernel lacks are left out.\n"
     "AUTO_MODULES=no\nMICROCODE=no\n"
     "INCLUDE_MODULES=virtio_pci,virtio_blk,virtio_scsi,sd_mod,ahci,nvme,ext4,crc32c_intel\n"},
    {"early/etc/kernel-img.conf", 0644, "do_symlinks = yes\nlink_in_boot = yes\n"},
};

/* Run by mmdebstrap before the first package: $1 is the root directory. */
static const char early_hook[] =
    "#!/bin/sh\nset -eu\n"
    "cp -R --no-preserve=ownership \"$(dirname \"$0\")/early/.\" \"$1/\"\n";

/* Run by mmdebstrap after the last. Settings come in the environment, not in the text. */
static const char late_hook[] =
    "#!/bin/sh\nset -eu\n"
    "root=$1 here=$(dirname \"$0\")\n"
    "cp -R --no-preserve=ownership \"$here/overlay/.\" \"$root/\"\n"
    "chroot \"$root\" useradd --create-home --shell /bin/bash --groups sudo,adm \"$HULL_USER\"\n"
    "printf '%s:%s\\n' \"$HULL_USER\" \"$HULL_PASSWORD\" | chroot \"$root\" chpasswd\n"
    "if [ -s \"$here/keys\" ]; then\n"
    "    home=$root/home/$HULL_USER\n"
    "    mkdir -m 700 \"$home/.ssh\"\n"
    "    install -m 600 \"$here/keys\" \"$home/.ssh/authorized_keys\"\n"
    "    chroot \"$root\" chown -R \"$HULL_USER:$HULL_USER\" \"/home/$HULL_USER/.ssh\"\n"
    "fi\n"
    "chroot \"$root\" systemctl --quiet enable systemd-networkd ssh hull-firstboot "
    "hull-resolv.path hull-resolv.service\n"
    /* Nothing here waits for the network, checks LVM snapshots, or updates itself unasked. */
    "chroot \"$root\" systemctl --quiet mask systemd-networkd-wait-online.service apt-daily.timer "
    "\\\n"
    "    apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service dev-hugepages.mount \\\n"
    "    modprobe@configfs.service modprobe@dm_mod.service modprobe@drm.service \\\n"
    "    modprobe@efi_pstore.service modprobe@fuse.service modprobe@loop.service\n"
    "echo '# hull-resolv.service writes this' >\"$root/etc/resolv.conf\"\n"
    /* Each machine makes its own. */
    "rm -f \"$root\"/etc/ssh/ssh_host_* \"$root/var/lib/dbus/machine-id\" "
    "\"$root/var/lib/systemd/random-seed\"\n"
    ": > \"$root/etc/machine-id\"\n"
    /* mmdebstrap's own settings for apt were for the build. */
    "rm -f \"$root/etc/apt/apt.conf.d/99mmdebstrap\" \"$root/etc/apt/sources.list\" "
    "\"$root\"/etc/apt/sources.list.d/*.sources\n"
    "cp \"$here/guest.sources\" \"$root/etc/apt/sources.list.d/debian.sources\"\n"
    "cp \"$here/guest.aptconf\" \"$root/etc/apt/apt.conf.d/90hull\"\n"
    "chroot \"$root\" update-tirfs >/dev/null\n";

static bool make_parents(const char *path, struct err *err)
{
    char dir[PATH_MAX];

    snprintf(dir, sizeof dir, "%s", path);
    for (char *at = strchr(dir + 1, '/'); at; at = strchr(at + 1, '/')) {
        *at = '\0';
        if (mkdir(dir, 0755) != 0 && errno != EEXIST)
            return err_set(err, errno, "%s: %s", dir, strerror(errno));
        *at = '/';
    }
    return true;
}

static bool write_file(const char *work, const char *name, unsigned mode, const char *text,
                       struct err *err)
{
    char path[PATH_MAX];
    int fd;

    if ((size_t)snprintf(path, sizeof path, "%s/%s", work, name) >= sizeof path)
        return err_set(err, ENAMETOOLONG, "%s/%s: name too long", work, name);
    if (!make_parents(path, err))
        return false;
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
    if (fd < 0 || fchmod(fd, mode) != 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text)) {
        err_set(err, errno, "%s: %s", path, strerror(errno));
        if (fd >= 0)
            close(fd);
        return false;
    }
    close(fd);
    return true;
}

static void sources(char *text, size_t size, const struct image_options *o,
                    const struct host_apt *a)
{
    size_t n = (size_t)snprintf(
        text, size, "Types: deb\nURIs: %s\nSuites: %s%s%s%s\nComponents: %s\nSigned-By: %s\n",
        a->main, o->codename, o->mirror[0] ? "" : " ", o->mirror[0] ? "" : o->codename,
        o->mirror[0] ? "" : "-updates", a->components, a->keyring);

    if (!o->mirror[0])
        snprintf(text + n, size - n,
                 "\nTypes: deb\nURIs: %s\nSuites: %s-security\nComponents: %s\nSigned-By: %s\n",
                 a->security, o->codename, a->components, a->keyring);
}

/* A proxy on the host's loopback is at 10.0.2.2 for the guest of a user-mode network. */
static void guest_aptconf(char *text, size_t size, const char *options)
{
    static const char *const locals[] = {"//127.0.0.1", "//localhost", "//[::1]"};
    size_t n = (size_t)snprintf(
        text, size,
        "Acquire::Languages \"none\";\n// As on the host that this system was made on:\n");

    while (*options && n + 32 < size) {
        size_t skip = 0;

        for (unsigned i = 0; i < ARRAY_SIZE(locals) && !skip; i++)
            skip = strncmp(options, locals[i], strlen(locals[i])) == 0 ? strlen(locals[i]) : 0;
        if (skip) {
            n += (size_t)snprintf(text + n, size - n, "//10.0.2.2");
            options += skip;
        } else {
            text[n++] = *options++;
        }
    }
    text[n] = '\0';
}

/* What the build gives apt and dpkg on top of the host's settings. */
static const char build_aptconf[] =
    "Acquire::Languages \"none\";\nAPT::Install-Recommends \"false\";\n";

static bool write_apt(const char *work, const struct image_options *o, const struct host_apt *a,
                      struct err *err)
{
    char text[16384];

    snprintf(text, sizeof text, "%s%s", build_aptconf, a->options);
    if (!write_file(work, "aptconf", 0644, text, err))
        return false;
    sources(text, sizeof text, o, a);
    if (!write_file(work, "build.sources", 0644, text, err) ||
        !write_file(work, "guest.sources", 0644, text, err))
        return false;
    guest_aptconf(text, sizeof text, a->options);
    return write_file(work, "guest.aptconf", 0644, text, err);
}

static bool write_own(const char *work, const struct image_options *o, const char *uuid,
                      struct err *err)
{
    char text[1024];

    snprintf(text, sizeof text, "%s\n", o->hostname);
    if (!write_file(work, "overlay/etc/hostname", 0644, text, err))
        return false;
    snprintf(text, sizeof text,
             "127.0.0.1 localhost\n127.0.1.1 %s\n::1 localhost ip6-localhost ip6-loopback\n",
             o->hostname);
    if (!write_file(work, "overlay/etc/hosts", 0644, text, err))
        return false;
    snprintf(text, sizeof text, "UUID=%s / ext4 errors=remount-ro,x-systemd.growfs 0 1\n", uuid);
    if (!write_file(work, "overlay/etc/fstab", 0644, text, err))
        return false;
    snprintf(text, sizeof text, "%s ALL=(ALL) NOPASSWD: ALL\n", o->user);
    if (!write_file(work, "overlay/etc/sudoers.d/hull", 0440, text, err))
        return false;
    /* Where a key is given, guessing passwords over the network must not help. */
    snprintf(text, sizeof text, "PasswordAuthentication %s\n", o->ssh_key[0] ? "no" : "yes");
    return write_file(work, "overlay/etc/ssh/sshd_config.d/hull.conf", 0644, text, err) &&
           write_file(work, "keys", 0644, o->ssh_key, err);
}

bool guest_write(const char *work, const struct image_options *o, const struct host_apt *a,
                 const char *uuid, struct err *err)
{
    for (unsigned i = 0; i < ARRAY_SIZE(fixed); i++) {
        if (!write_file(work, fixed[i].path, fixed[i].mode, fixed[i].text, err))
            return false;
    }
    setenv("HULL_USER", o->user, 1);
    setenv("HULL_PASSWORD", o->password, 1);
    return write_own(work, o, uuid, err) && write_apt(work, o, a, err) &&
           write_file(work, "early-hook", 0755, early_hook, err) &&
           write_file(work, "late-hook", 0755, late_hook, err);
}

void guest_packages(const struct image_options *o, char *text, size_t size)
{
    snprintf(
        text, size,
        "systemd-sysv,udev,dbus,libpam-systemd,openssh-server,sudo,iproute2,"
        "iputils-ping,procps,ca-certificates,netbase,less,nano,e2fsprogs,tiny-initramfs,%s%s%s",
        strcmp(o->kernel, "generic") == 0 ? "linux-image-amd64" : "linux-image-cloud-amd64",
        o->packages[0] ? "," : "", o->packages);
}
