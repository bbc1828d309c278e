#!/bin/sh
# SPDX-License-Identifier: MIT
# Puts an unmodified Debian kernel into a cache: DIR/KIND/vmlinuz, vmlinux (unpacked from it), config and
# modules/lib/modules/VERSION with its modules.dep. Takes it with apt-get download, so from the host's own
# mirrors, and installs nothing. Does nothing, quickly, when it is there.
#
# Usage: fetch.sh cloud|generic [DIR]      DIR: $HULL_CACHE, or ~/.cache/hull; prints DIR/KIND
set -eu
PATH=$PATH:/usr/sbin:/sbin
case ${1-} in
cloud) meta=linux-image-cloud-amd64 ;;
generic) meta=linux-image-amd64 ;;
*) echo "Usage: fetch.sh cloud|generic [DIR]" >&2; exit 2 ;;
esac
cache=${2:-${HULL_CACHE:-$HOME/.cache/hull}}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
into=$cache/$1
if [ -e "$into/done" ]; then
    echo "$into"
    exit 0
fi

for tool in apt-get dpkg-deb depmod; do
    command -v $tool >/dev/null || { echo "fetch: $tool is missing: apt-get install ${tool%-*} kmod" >&2; exit 1; }
done
exec 9>"$cache/lock" # two tests may want it at once
flock 9
[ ! -e "$into/done" ] || { echo "$into"; exit 0; }
work=$(mktemp -d "$cache/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"

package=$(apt-cache depends --important "$meta" | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
[ -n "$package" ] || { echo "fetch: apt knows no $meta: apt-get update" >&2; exit 1; }
(cd "$work" && apt-get download -q "$package" >log 2>&1) || { cat "$work/log" >&2; exit 1; }
dpkg-deb -x "$work"/*.deb "$work/tree"

# The compressed kernel's place is in the setup header: Documentation/arch/x86/boot.rst, payload_offset.
number() { # OFFSET BYTES
    od -An -t "u$2" -j "$1" -N "$2" "$work/new/vmlinuz" | tr -d ' '
}
unpack() {
    offset=$(($(number 584 4) + ($(number 497 1) + 1) * 512))
    length=$(($(number 588 4) - 4)) # the last four bytes are the unpacked size
    size=$(number $((offset + length)) 4)
    tail -c "+$((offset + 1))" "$work/new/vmlinuz" | head -c "$length" >"$work/payload"
    case $(od -An -t x1 -N 2 "$work/payload" | tr -d ' ') in
    fd37) tool=xz ;;
    28b5) tool=zstd ;;
    1f8b) tool=gzip ;;
    0221) tool=lz4 ;;
    *) echo "fetch: the kernel is packed in an unknown way" >&2; exit 1 ;;
    esac
    command -v $tool >/dev/null || { echo "fetch: $tool is missing: apt-get install $tool" >&2; exit 1; }
    $tool -dcq <"$work/payload" >"$work/new/vmlinux"
    [ "$(stat -c %s "$work/new/vmlinux")" = "$size" ] || { echo "fetch: the kernel unpacks to a wrong size" >&2; exit 1; }
}

mkdir -p "$work/new/modules/lib"
mv "$work"/tree/boot/vmlinuz-* "$work/new/vmlinuz"
mv "$work"/tree/boot/config-* "$work/new/config"
mv "$work"/tree/lib/modules "$work/new/modules/lib/modules"
unpack
version=$(ls "$work/new/modules/lib/modules")
depmod -b "$work/new/modules" "$version"
echo "$version" >"$work/new/done"
rm -rf "$into"
mv "$work/new" "$into"
echo "$into"
