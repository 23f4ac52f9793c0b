#!/bin/sh
# Makes the models of the benchmarks, once, and prints their folder on stdout (everything else goes to stderr).
#
# They and the Python environment that makes them lie in ${XDG_CACHE_HOME:-$HOME/.cache}/modelgate/bench, in folders
# named by the checksum of what they are made from. A folder enters by rename, so a run that was stopped leaves no half.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/modelgate/bench
models=$cache/models-$(cat "$here/models.py" "$here/requirements.txt" | cksum | cut -d ' ' -f 1)
python=$cache/python-$(cksum <"$here/requirements.txt" | cut -d ' ' -f 1)

if [ ! -d "$models" ]; then
    command -v python3 >/dev/null || { echo 'bench: python3 is needed to make the models' >&2; exit 1; }
    mkdir -p "$cache"
    if [ ! -f "$python/installed" ]; then
        rm -rf "$python"
        python3 -m venv "$python" >&2 || { echo 'bench: python3 lacks venv (Debian: apt-get install python3-venv)' >&2; exit 1; }
        "$python/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt" >&2
        : >"$python/installed"
    fi
    new=$(mktemp -d "$cache/new.XXXXXX")
    trap 'rm -rf "$new"' EXIT
    "$python/bin/python" "$here/models.py" "$new/models" >&2
    mv "$new/models" "$models" 2>/dev/null || [ -d "$models" ] # another run may have been faster
fi
printf '%s\n' "$models"
