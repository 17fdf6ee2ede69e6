#!/bin/sh
# Renews the pins: every package of the images with its version and the hashes of its files, for Python 3.11 and newer.
# Needs uv (pip install uv). Give it --upgrade for the newest versions; without, only what a changed input needs changes.
set -eu
cd "$(dirname "$0")/requirements"
command -v uv > /dev/null || { echo "lock.sh: uv is not on the PATH: pip install uv" >&2; exit 2; }

lock() { # OUTPUT INPUT [OPTION...]
  output=$1
  shift
  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
    --custom-compile-command 'docker/lock.sh' --output-file "$output" "$@"
}

lock run.txt ../../pyproject.toml --extra dask "$@"
lock build.txt build.in "$@"
lock notebook.txt notebook.in "$@"
