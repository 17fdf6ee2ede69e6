#!/bin/sh
# Runs gempim, whose folders `out` and `runs` are /out and /out/runs here. A folder that this user cannot write is the
# commonest mistake with a container that does not run as root: then the last line says so.
set -eu
if mkdir -p /out/runs 2> /dev/null && [ -w /out ] && [ -w /out/runs ]; then
  exec gempim "$@"
fi
gempim "$@" || {
  status=$?
  echo "gempim: user $(id -u) cannot write /out: mount a folder of that user there, or run as the folder's owner:" >&2
  echo "  mkdir -p out && docker run --rm --user \"\$(id -u):\$(id -g)\" -v \"\$PWD/out:/out\" IMAGE COMMAND" >&2
  exit "$status"
}
