#!/bin/sh
# JupyterLab on the folder /work. An empty token would switch authentication off: without one Jupyter makes one up and
# prints it. The port is open inside the container's network only; publish it on the loopback address.
set -eu
[ -n "${JUPYTER_TOKEN-}" ] || unset JUPYTER_TOKEN
mkdir -p /tmp/home /out/runs 2> /dev/null || true
# The notebooks that come with gempim go where results may be written; a file that is there already is the user's.
notebooks=$(python3 -c 'import os, gempim; print(os.path.dirname(gempim.__file__))')/analysis/notebooks
mkdir -p /out/notebooks 2> /dev/null && cp -n "$notebooks"/[!_]*.py "$notebooks"/*.txt /out/notebooks/ || true
exec jupyter lab --ip=0.0.0.0 --port="${PORT:-8888}" --no-browser --ServerApp.root_dir=/work "$@"
