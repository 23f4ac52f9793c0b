#!/bin/sh
# Lays out the files of the container image in a folder.
#
#   deploy/rootfs.sh [--program-only] FOLDER [BINARY [LIBRARY]]
#
# BINARY is bin/modelgate and LIBRARY is bin/libonnxruntime.so if they are not given (make build writes both).
#
# --program-only lays out what the project adds to the image: the program, ONNX Runtime and the empty data folder. The
# Dockerfile uses it. Without it the folder also gets what the base image brings: the C and C++ libraries and their
# loader, CA certificates, and the user nonroot (65532). Such a folder runs under chroot (deploy/chroot.sh), and
# `tar -C FOLDER -c .` of it can be imported as an image by any container engine.
#
# Run by root, the data folder belongs to nonroot.
set -eu

uid=65532

die() { printf 'rootfs: %s\n' "$*" >&2; exit 1; }

program_only=
if [ "${1:-}" = --program-only ]; then
    program_only=yes
    shift
fi
[ $# -ge 1 ] && [ $# -le 3 ] || die "usage: $0 [--program-only] FOLDER [BINARY [LIBRARY]]"
root=$1
binary=${2:-bin/modelgate}
library=${3:-bin/libonnxruntime.so}
for file in "$binary" "$library"; do
    [ -f "$file" ] || die "there is no $file; run make build first"
done
mkdir -p "$root"
[ -z "$(ls -A "$root")" ] || die "$root is not empty"

mkdir -p "$root/usr/local/bin" "$root/usr/local/lib" "$root/data"
cp -L "$binary" "$root/usr/local/bin/modelgate"
cp -L "$library" "$root/usr/local/lib/libonnxruntime.so"
chmod 755 "$root" "$root/usr/local/bin/modelgate" "$root/usr/local/lib/libonnxruntime.so"
chmod 700 "$root/data"
if [ "$(id -u)" = 0 ]; then
    chown "$uid:$uid" "$root/data"
fi
[ -z "$program_only" ] || exit 0

# The libraries that the program and the runtime ask for, each where its name is looked up, and the loader.
for file in "$binary" "$library"; do
    ldd "$file" | sed -n -e 's/.* => \(\/[^ ]*\) .*/\1/p' -e 's/^[[:space:]]*\(\/[^ ]*\) .*/\1/p'
done | sort -u | while read -r needed; do
    mkdir -p "$root$(dirname "$needed")"
    cp -L "$needed" "$root$needed"
done

mkdir -p "$root/etc/ssl/certs" "$root/home/nonroot" "$root/proc" "$root/dev" "$root/tmp"
chmod 1777 "$root/tmp"
printf 'root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:%s:%s:nonroot:/home/nonroot:/sbin/nologin\n' "$uid" "$uid" \
    >"$root/etc/passwd"
printf 'root:x:0:\nnonroot:x:%s:\n' "$uid" >"$root/etc/group"
printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"
printf '127.0.0.1 localhost\n::1 localhost\n' >"$root/etc/hosts"
for bundle in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt; do
    if [ -f "$bundle" ]; then
        cp -L "$bundle" "$root/etc/ssl/certs/ca-certificates.crt"
        break
    fi
done
