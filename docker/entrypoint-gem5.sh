#!/bin/sh
# As entrypoint.sh, with a cache that a run may write: checkpoints and whatever is built later go to /out/.cache, and
# what the image has built already is linked there.
set -eu
built=/opt/gempim/cache/gempim
cache=/out/.cache/gempim
if mkdir -p "$cache" 2> /dev/null && [ -w "$cache" ]; then
  for kept in "$built"/*/*; do
    link=$cache/${kept#"$built/"}
    if [ ! -e "$link" ]; then
      mkdir -p "${link%/*}"
      ln -sfn "$kept" "$link"
    fi
  done
  export XDG_CACHE_HOME=/out/.cache
fi
exec gempim-entrypoint "$@"
