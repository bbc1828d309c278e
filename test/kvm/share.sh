# SPDX-License-Identifier: MIT
# A directory of the outer machine in a guest on KVM, by 9p. What both sides see is told by checksum.
#
# Usage: share.sh SHARE TMP
share=$1 dir=$2/dir
mkdir "$dir" "$2/other"
echo secret >"$2/other/secret"
ln -s ../other/secret "$dir/out"
head -c 8000000 /dev/urandom >"$dir/in"
echo "l1: in $(sha256sum <"$dir/in")"
hull run --engine kvm --kernel "$share/generic" --initrd "$share/generic.cpio.gz" --append "console=ttyS0 quiet panic=-1 l2=share" \
    --cpu x86-64-v2,-xsave --memory 256M --cpus 2 --timeout 280 --net none --share "$dir:work,type=9p" 2>&1
echo "l1: status $?"
echo "l1: out $(sha256sum <"$dir/out2")"
echo "l1: files $(ls "$dir/many" | wc -l) $(cat "$dir"/many/* | sort -n | sha256sum)"
