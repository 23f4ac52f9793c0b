#!/bin/sh
# Installs the servers that modelgate is compared with, each once and into a Python environment of its own, and prints a
# line for each on stdout (everything else goes to stderr): its name and the path of its Python, or its name, a dash and
# why it could not be installed. What can't be had does not stop the others.
#
# The environments lie in ${XDG_CACHE_HOME:-$HOME/.cache}/modelgate/bench, in folders named by the checksum of what is
# installed into them; together they take about 1.6 GB.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/modelgate/bench

command -v python3 >/dev/null || { echo 'compare: python3 is needed for the other servers' >&2; exit 1; }
mkdir -p "$cache"
for requirements in "$here"/*/requirements.txt; do
    name=$(basename "$(dirname "$requirements")")
    python=$cache/$name-$(cksum <"$requirements" | cut -d ' ' -f 1)
    if [ ! -f "$python/installed" ]; then
        echo "compare: installing $name" >&2
        rm -rf "$python"
        if ! python3 -m venv "$python" >"$cache/$name.log" 2>&1 ||
            ! "$python/bin/pip" install --quiet --disable-pip-version-check -r "$requirements" >>"$cache/$name.log" 2>&1; then
            printf '%s - %s\n' "$name" "$(grep . "$cache/$name.log" | tail -n 1)"
            continue
        fi
        : >"$python/installed"
    fi
    printf '%s %s\n' "$name" "$python/bin/python"
done
