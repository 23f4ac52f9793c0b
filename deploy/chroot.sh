#!/bin/sh
# Runs a command in a folder made by deploy/rootfs.sh the way deploy/compose.yaml runs the image: as user 65532, with a
# read-only root but for /data, without capabilities and without a way to gain any. Needs root, util-linux, coreutils.
#
#   deploy/chroot.sh FOLDER COMMAND [ARGUMENT...]
#
# The command replaces this script, so that signals to its process reach the command. Of the caller's environment it sees
# the variables MODELGATE_... and PATH; the paths that the image sets are set unless the caller does.
set -eu

if [ "${1:-}" != --inside ]; then
    [ $# -ge 2 ] || { echo "usage: $0 FOLDER COMMAND [ARGUMENT...]" >&2; exit 2; }
    exec unshare --mount --propagation private -- /bin/sh "$0" --inside "$@"
fi
shift
root=$1
shift

mount --bind "$root" "$root"
mount --bind "$root/data" "$root/data"
# What of /proc and /dev a container has and the program needs: it starts itself again for each model.
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
mount -t tmpfs -o nosuid,nodev,noexec,mode=755 tmpfs "$root/dev"
: >"$root/dev/null"
mount --bind /dev/null "$root/dev/null"
mount -o remount,bind,ro "$root/dev/null"
mount -o remount,ro "$root/dev"
mount -o remount,bind,ro "$root"

export MODELGATE_DATA="${MODELGATE_DATA:-/data}"
export MODELGATE_ONNXRUNTIME_LIB="${MODELGATE_ONNXRUNTIME_LIB:-/usr/local/lib/libonnxruntime.so}"
for name in $(env | sed -n 's/^\([A-Za-z_][A-Za-z0-9_]*\)=.*/\1/p'); do
    case $name in
    MODELGATE_* | PATH) ;;
    *) unset "$name" 2>/dev/null || true ;;
    esac
done
export HOME=/home/nonroot
cd /
# chroot needs three capabilities to become nonroot; it loses them by doing so.
exec setpriv --no-new-privs --bounding-set=-all,+sys_chroot,+setuid,+setgid --inh-caps=-all \
    chroot --groups=65532 --userspec=65532:65532 "$root" "$@"
