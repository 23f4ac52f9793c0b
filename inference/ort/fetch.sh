#!/bin/sh
# Gets the pinned ONNX Runtime shared library and prints its path on stdout (everything else goes to stderr).
#
#   fetch.sh [--platform linux-x64|linux-arm64|darwin-arm64]
#
# The first of these that serves is taken:
#   1. the file named by MODELGATE_ONNXRUNTIME_LIB (the operator's own: its version is checked, not its checksum);
#   2. the cache, ${XDG_CACHE_HOME:-$HOME/.cache}/modelgate/onnxruntime/VERSION/PLATFORM/libonnxruntime.so;
#   3. a library installed on this system, if it is not older than the pinned version;
#   4. a download into the cache: the PyPI wheel by pip, the npm package by npm, the official release archive by curl.
# 1 and 3 are about this machine, so --platform of another kind of machine skips them.
#
# What comes from 2 and 4 must match a checksum of onnxruntime.sha256, beside this script, or is refused. A file enters
# the cache by rename, so that concurrent runs and interrupted ones never show a half-written library.
set -eu

version=1.30.0
pinned_minor=30
checksums=$(cd "$(dirname "$0")" && pwd)/onnxruntime.sha256
tmp=
failures=

say() { printf 'onnxruntime: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
cleanup() { if [ -n "$tmp" ]; then rm -rf "$tmp"; fi; }

# failed SOURCE REASON: notes why a source gave nothing, for the closing message.
failed() {
    say "$1: $2"
    failures="$failures
  $1: $2"
}

usage() { printf 'usage: %s [--platform linux-x64|linux-arm64|darwin-arm64]\n' "$0" >&2; }

host_platform() {
    case "$(uname -s)/$(uname -m)" in
    Linux/x86_64 | Linux/amd64) echo linux-x64 ;;
    Linux/aarch64 | Linux/arm64) echo linux-arm64 ;;
    Darwin/arm64) echo darwin-arm64 ;;
    *) echo "unsupported:$(uname -s)/$(uname -m)" ;;
    esac
}

# library_version FILE: the version in the symbol versions (ELF) or the strings (Mach-O) of an ONNX Runtime library;
# nothing for any other file.
library_version() {
    found=$(LC_ALL=C grep -aoE 'VERS_[0-9]+\.[0-9]+\.[0-9]+' "$1" 2>/dev/null | head -n 1)
    if [ -n "$found" ]; then
        echo "${found#VERS_}"
    elif LC_ALL=C grep -aq OrtGetApiBase "$1" 2>/dev/null; then
        LC_ALL=C grep -aoE '1\.[0-9]+\.[0-9]+' "$1" | grep -E "^1\.$pinned_minor\." | head -n 1
    fi
}

# new_enough VERSION: is it 1.x and not older than the pinned minor version?
new_enough() {
    case "$1" in
    1.*.*) minor=${1#1.} && [ "${minor%%.*}" -ge "$pinned_minor" ] ;;
    *) false ;;
    esac
}

sha256_of() {
    if have sha256sum; then
        sha256sum "$1" | cut -d ' ' -f 1
    elif have shasum; then
        shasum -a 256 "$1" | cut -d ' ' -f 1
    elif have openssl; then
        openssl dgst -sha256 -r "$1" | cut -d ' ' -f 1
    else
        die "no tool computes a SHA-256 here: install coreutils (sha256sum) or openssl"
    fi
}

# pinned FILE [SOURCE]: is the file's checksum one of those pinned for this version and platform (and source)?
pinned() {
    sum=$(sha256_of "$1")
    while read -r want v p s; do
        if [ "$want" = "$sum" ] && [ "$v" = "$version" ] && [ "$p" = "$platform" ] && [ "${2:-$s}" = "$s" ]; then
            return 0
        fi
    done <"$checksums"
    return 1
}

# cache_folder: makes the folder of the library and prints its path. Without a usable home it is a private folder in
# the temporary one; a folder there that somebody else owns is not trusted.
cache_folder() {
    tail=modelgate/onnxruntime/$version/$platform
    base=${XDG_CACHE_HOME:-${HOME:+$HOME/.cache}}
    case $base in
    /*) ;;
    *) base= ;; # a relative one is to be ignored (XDG base directory specification)
    esac
    if [ -n "$base" ] && mkdir -p "$base/$tail" 2>/dev/null && [ -w "$base/$tail" ]; then
        echo "$base/$tail"
        return
    fi
    base=${TMPDIR:-/tmp}/modelgate-cache-$(id -u)
    mkdir -m 700 "$base" 2>/dev/null || true
    # shellcheck disable=SC3067 # -O is not in POSIX, yet every sh in use has it
    if [ ! -d "$base" ] || [ -L "$base" ] || [ ! -O "$base" ]; then
        die "no cache folder: neither the user's cache folder nor $base can be used; set XDG_CACHE_HOME"
    fi
    mkdir -p "$base/$tail"
    echo "$base/$tail"
}

from_environment() {
    [ -n "${MODELGATE_ONNXRUNTIME_LIB:-}" ] || return 1
    lib=$MODELGATE_ONNXRUNTIME_LIB
    [ -f "$lib" ] && [ -r "$lib" ] ||
        die "MODELGATE_ONNXRUNTIME_LIB names $lib, which is no readable file; correct it or unset it"
    has=$(library_version "$lib")
    [ -n "$has" ] || die "MODELGATE_ONNXRUNTIME_LIB names $lib, which is no ONNX Runtime library; correct it or unset it"
    new_enough "$has" ||
        die "MODELGATE_ONNXRUNTIME_LIB names ONNX Runtime $has; 1.$pinned_minor.0 or a newer 1.x is needed"
    say "using $lib ($has), named by MODELGATE_ONNXRUNTIME_LIB"
    printf '%s/%s\n' "$(cd "$(dirname "$lib")" && pwd)" "$(basename "$lib")"
}

from_cache() {
    [ -f "$target" ] || return 1
    if pinned "$target"; then
        echo "$target"
        return 0
    fi
    say "the cached $target does not match its checksum; fetching it again"
    return 1
}

from_system() {
    ldconfig=
    for candidate in ldconfig /sbin/ldconfig /usr/sbin/ldconfig; do
        if have "$candidate"; then
            ldconfig=$candidate
            break
        fi
    done
    [ -n "$ldconfig" ] || return 1
    lib=$("$ldconfig" -p 2>/dev/null | sed -n 's/^[[:space:]]*libonnxruntime\.so.* => //p' | head -n 1)
    [ -n "$lib" ] && [ -r "$lib" ] || return 1
    has=$(library_version "$lib")
    if new_enough "$has"; then
        say "using $lib ($has), installed on this system"
        echo "$lib"
        return 0
    fi
    say "passing over the installed $lib: its version is ${has:-unknown}, 1.$pinned_minor.0 or newer is needed"
    return 1
}

# limited COMMAND...: runs it with a limit of ten minutes where the system has a way to set one. In the foreground, so
# that the interrupt key reaches the client as well.
limited() {
    if timeout --foreground 5 true 2>/dev/null; then
        timeout --foreground 600 "$@"
    else
        "$@"
    fi
}

# download_failed SOURCE: shows the end of what the client said, and keeps its first complaint for the closing message.
download_failed() {
    tail -n 6 "$tmp/log" | sed 's/^/    | /' >&2
    complaint=$(grep -iE 'error|failed|refused|timed out' "$tmp/log" | head -n 1 |
        sed "s/.*\(\[Errno[^']*\)'.*/\1/" | cut -c 1-240)
    failed "$1" "the download failed: $complaint"
}

pip_command() {
    for python in python3 python; do
        if have "$python" && "$python" -m pip --version >/dev/null 2>&1; then
            echo "$python -m pip"
            return
        fi
    done
    for pip in pip3 pip; do
        if have "$pip" && "$pip" --version >/dev/null 2>&1; then
            echo "$pip"
            return
        fi
    done
    return 1
}

# unzip_member ARCHIVE MEMBER FILE
unzip_member() {
    if have unzip; then
        unzip -p "$1" "$2" >"$3"
        return
    fi
    for python in python3 python; do
        if have "$python"; then
            "$python" -c 'import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]).open(sys.argv[2]) as member, open(sys.argv[3], "wb") as out:
    shutil.copyfileobj(member, out)' "$1" "$2" "$3"
            return
        fi
    done
    return 1
}

# fetch_pip FILE: the CPython 3.12 wheel, whatever Python runs pip; the library is the same in the wheel of every Python.
fetch_pip() {
    pip=$(pip_command) || { failed pip "there is no pip for python3 here"; return 1; }
    case $platform in
    linux-x64) tag=manylinux_2_28_x86_64 member=libonnxruntime.so.$version ;;
    linux-arm64) tag=manylinux_2_28_aarch64 member=libonnxruntime.so.$version ;;
    darwin-arm64) tag=macosx_14_0_arm64 member=libonnxruntime.$version.dylib ;;
    esac
    say "fetching onnxruntime $version for $platform with $pip (about 25 MB)"
    mkdir -p "$tmp/pip"
    # shellcheck disable=SC2086 # "python3 -m pip" is three words
    if ! PIP_REQUIRE_VIRTUALENV=0 limited $pip download --quiet --disable-pip-version-check --no-input --no-cache-dir \
        --retries 2 --timeout 30 --no-deps --only-binary=:all: --platform "$tag" --python-version 3.12 \
        --implementation cp --dest "$tmp/pip" "onnxruntime==$version" >"$tmp/log" 2>&1; then
        download_failed pip
        return 1
    fi
    unzip_member "$tmp"/pip/onnxruntime-*.whl "onnxruntime/capi/$member" "$1" 2>/dev/null ||
        { failed pip "the wheel could not be unpacked (unzip or python3 is needed)"; return 1; }
}

# fetch_npm FILE: npm pack runs no script of the package, and the package holds the CPU library of every platform.
fetch_npm() {
    have npm && npm --version >/dev/null 2>&1 || { failed npm "there is no npm here"; return 1; }
    case $platform in
    linux-x64) member=linux/x64/libonnxruntime.so.1 ;;
    linux-arm64) member=linux/arm64/libonnxruntime.so.1 ;;
    darwin-arm64) member=darwin/arm64/libonnxruntime.$version.dylib ;;
    esac
    say "fetching onnxruntime-node $version with npm (about 115 MB, all platforms in one package)"
    mkdir -p "$tmp/npm"
    if ! (cd "$tmp/npm" && npm_config_cache=$tmp/npm-cache npm_config_update_notifier=false limited npm pack \
        --loglevel=error --ignore-scripts --fetch-retries=2 --fetch-retry-mintimeout=2000 --fetch-retry-maxtimeout=8000 \
        "onnxruntime-node@$version") >"$tmp/log" 2>&1; then
        download_failed npm
        return 1
    fi
    tar -xzOf "$tmp"/npm/onnxruntime-node-*.tgz "package/bin/napi-v6/$member" >"$1" 2>/dev/null ||
        { failed npm "the package could not be unpacked"; return 1; }
}

# fetch_release FILE: the archive of ONNX Runtime's own release page.
fetch_release() {
    have curl || { failed "release archive" "there is no curl here"; return 1; }
    case $platform in
    linux-x64) name=onnxruntime-linux-x64-$version member=libonnxruntime.so.$version ;;
    linux-arm64) name=onnxruntime-linux-aarch64-$version member=libonnxruntime.so.$version ;;
    darwin-arm64) name=onnxruntime-osx-arm64-$version member=libonnxruntime.$version.dylib ;;
    esac
    say "fetching the official release archive $name.tgz with curl"
    if ! curl --fail --silent --show-error --location --proto '=https' --retry 2 --connect-timeout 20 --max-time 600 \
        --output "$tmp/release.tgz" \
        "https://github.com/microsoft/onnxruntime/releases/download/v$version/$name.tgz" 2>"$tmp/log"; then
        download_failed "release archive"
        return 1
    fi
    tar -xzOf "$tmp/release.tgz" "$name/lib/$member" >"$1" 2>/dev/null ||
        { failed "release archive" "the archive could not be unpacked"; return 1; }
}

# fetch SOURCE: downloads from one source, checks the file, and puts it into the cache.
fetch() {
    "fetch_$1" "$tmp/$1.lib" || return 1
    if ! pinned "$tmp/$1.lib" "$1"; then
        failed "$1" "REFUSED: the library's SHA-256 is $(sha256_of "$tmp/$1.lib"), which is not the pinned one"
        return 1
    fi
    chmod 755 "$tmp/$1.lib" && mv -f "$tmp/$1.lib" "$target" ||
        { failed "$1" "the library could not be put into $folder"; return 1; }
    say "fetched $version from $1 into $target"
    echo "$target"
}

host=$(host_platform)
platform=$host
while [ $# -gt 0 ]; do
    case "$1" in
    --platform)
        [ $# -ge 2 ] || { usage; exit 2; }
        platform=$2
        shift 2
        ;;
    -h | --help) usage; exit 0 ;;
    *) usage; exit 2 ;;
    esac
done
if [ "$platform" = "$host" ]; then
    if [ -n "${MODELGATE_ONNXRUNTIME_LIB:-}" ]; then
        from_environment
        exit
    fi
fi
case $platform in
linux-x64 | linux-arm64 | darwin-arm64) ;;
*) die "no ONNX Runtime is pinned for $platform; build one of version 1.$pinned_minor.0 or newer and set MODELGATE_ONNXRUNTIME_LIB to its path" ;;
esac

# The name is the same on every platform (macOS does not mind it), so that nothing else needs to know about platforms.
folder=$(cache_folder)
target=$folder/libonnxruntime.so
from_cache && exit
[ "$platform" = "$host" ] && from_system && exit

trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
# What a killed run left behind.
find "$folder" -maxdepth 1 -name '.fetch.*' -mtime +1 -exec rm -rf {} + 2>/dev/null || true
tmp=$(mktemp -d "$folder/.fetch.XXXXXX")
for source in pip npm release; do
    fetch "$source" && exit
done
die "no source gave ONNX Runtime $version for $platform:$failures
One of them suffices: make pip or npm able to download, or get libonnxruntime yourself (version 1.$pinned_minor.0 or a
newer 1.x, from the PyPI package onnxruntime, the npm package onnxruntime-node or ONNX Runtime's release page) and set
MODELGATE_ONNXRUNTIME_LIB to its path."
