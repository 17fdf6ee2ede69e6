#!/bin/sh
# Builds the images and runs them: every sentence of docker/README.md that a machine can check. Needs a Docker engine.
#
#   docker/test.sh [--import] [--no-gem5] [--gem5-image IMAGE] [--gem5-opt PATH]
#
#   --import            where no image registry is reachable: make Debian's base image here first (base.sh, needs root)
#   --gem5-image IMAGE  what Dockerfile.gem5 builds on; also $GEM5_IMAGE; default: what it says itself
#   --gem5-opt PATH     gem5's binary in that image; also $GEM5_OPT
#   --no-gem5           leave Dockerfile.gem5 out
#
# Environment: DOCKER (docker), COMPOSE (docker compose, or docker-compose), BUILD_OPTIONS (of docker build, such as
# --network=host), TAG_PREFIX (gempim-test: the images are left there).
set -eu
cd "$(dirname "$0")/.."
docker=${DOCKER:-docker}
prefix=${TAG_PREFIX:-gempim-test}
gem5_image=${GEM5_IMAGE:-} gem5_opt=${GEM5_OPT:-} gem5=1
import=''
while [ $# -gt 0 ]; do
  case $1 in
    --import) import=1 ;;
    --no-gem5) gem5='' ;;
    --gem5-image) gem5_image=$2; shift ;;
    --gem5-opt) gem5_opt=$2; shift ;;
    *) echo "test.sh: $1: unknown option" >&2; exit 2 ;;
  esac
  shift
done
"$docker" info > /dev/null 2>&1 || { echo "test.sh: no Docker engine answers '$docker info'" >&2; exit 2; }
compose=${COMPOSE:-}
if [ -z "$compose" ]; then
  if "$docker" compose version > /dev/null 2>&1; then compose="$docker compose"
  elif command -v docker-compose > /dev/null; then compose="docker-compose"
  else echo "test.sh: neither '$docker compose' nor docker-compose is there" >&2; exit 2; fi
fi

status=0
scratch=$(mktemp -d)
trap 'status=$?; down; rm -rf "$scratch"; [ "$status" = 0 ] || echo "test.sh: FAILED" >&2' EXIT
down() {
  # shellcheck disable=SC2086 # a command of two words
  [ ! -e "$scratch/up" ] || $compose -f docker/compose.yaml --profile notebook --profile cluster down > /dev/null 2>&1 || true
}
passed=0
ok() { passed=$((passed + 1)); echo "ok $passed: $*"; }
fail() { echo "FAILED: $*" >&2; exit 1; }
folder() { mkdir -p "$scratch/$1"; chmod 777 "$scratch/$1"; echo "$scratch/$1"; }
# As strict as the README promises: nothing but /tmp and /out can be written, no network, a user that is in no list.
strictly() { "$docker" run --rm --read-only --network none --user 12345:12345 --tmpfs /tmp "$@"; }

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
revision=$(git rev-parse HEAD 2> /dev/null || echo unknown)
build() { # TAG OPTION...
  tag=$1
  shift
  # shellcheck disable=SC2086 # several options
  "$docker" build ${BUILD_OPTIONS:-} --build-arg "VERSION=$version" --build-arg "REVISION=$revision" -t "$tag" "$@" . \
    > "$scratch/build.log" 2>&1 || { tail -n 30 "$scratch/build.log" >&2; fail "building $tag"; }
  ok "builds: $tag, $("$docker" image inspect --format '{{.Size}}' "$tag" | awk '{ printf "%.0f MB", $1 / 1e6 }')"
}
labels() { # TAG
  found=$("$docker" image inspect --format \
    '{{index .Config.Labels "org.opencontainers.image.version"}} {{index .Config.Labels "org.opencontainers.image.revision"}} {{.Config.User}}' "$1")
  [ "$found" = "$version $revision 1000:1000" ] || fail "$1: labels and user: $found"
  ok "labels version and revision, and is not root's: $1"
}

base=$(sed -n 's/^ARG BASE_IMAGE=//p' docker/Dockerfile)
if [ -n "$import" ] && ! "$docker" image inspect "$base" > /dev/null 2>&1; then
  DOCKER=$docker docker/base.sh --like-host "$base"
fi

# gempim with the embedded engine.
image=$prefix:gempim
build "$image" -f docker/Dockerfile --target gempim
labels "$image"
found=$(strictly "$image" --version | sed -n 's/^gempim //p')
[ "$found" = "$version" ] || fail "gempim --version says $found"
out=$(folder demo)
strictly -v "$out:/out" "$image" demo > "$scratch/table" 2> "$scratch/log" || { cat "$scratch/log" >&2; fail demo; }
grep -q 'llama-2-7b.*sail' "$scratch/table" && [ -s "$out/report.html" ] && [ -d "$out/runs" ] || fail "demo: no table or report"
ok "demo, read-only, without network, as an unknown user: $(wc -l < "$scratch/table") lines of table, and the report"
out=$(folder plain)
"$docker" run --rm -v "$out:/out" "$image" demo > "$scratch/plain.table" 2> /dev/null
cmp "$scratch/table" "$scratch/plain.table" || fail "demo: another table as the image's own user"
ok "demo as the image's own user: the same table"
mkdir -m 755 "$scratch/closed"
if strictly -v "$scratch/closed:/out" "$image" run --model smollm2-135m -q q4_0 -n 1 > /dev/null 2> "$scratch/log"; then
  fail "a run without a place for its results ended well"
fi
tail -n 2 "$scratch/log" | grep -q 'user 12345 cannot write /out' || fail "no word about the folder that cannot be written"
ok "a folder that cannot be written is named, with the remedy"
build "$prefix:builder" -f docker/Dockerfile --target builder
# shellcheck disable=SC2016 # for the shell inside
"$docker" run --rm --network none --entrypoint sh "$prefix:builder" -c '
  cp -r /src /tmp/elsewhere && cd /tmp/elsewhere && rm -rf build && SOURCE_DATE_EPOCH=1704067200 \
    CXXFLAGS="-ffile-prefix-map=$PWD=." PATH=/build/bin:$PATH /build/bin/pip wheel -q --no-deps --no-build-isolation -w /tmp/wheel . \
  && cmp /wheel/gempim-*.whl /tmp/wheel/gempim-*.whl' > "$scratch/log" 2>&1 || { cat "$scratch/log" >&2; fail "another wheel"; }
ok "the same sources in another folder give the same wheel, to the byte"

# The services.
build "$prefix:notebook" -f docker/Dockerfile --target notebook
labels "$prefix:notebook"
export GEMPIM_IMAGE="$image" GEMPIM_NOTEBOOK_IMAGE="$prefix:notebook" GEMPIM_UID=12345 GEMPIM_GID=12345
export COMPOSE_PROJECT_NAME="gempim-test-$$" GEMPIM_EXPERIMENTS="$scratch/experiments" GEMPIM_SWEEP=test.toml
run() { # OUT ARGUMENT...
  GEMPIM_OUT=$1
  shift
  export GEMPIM_OUT
  # shellcheck disable=SC2086 # a command of two words
  $compose -f docker/compose.yaml "$@"
}
mkdir "$GEMPIM_EXPERIMENTS"
cat > "$GEMPIM_EXPERIMENTS/test.toml" << 'EOF'
[sweep]
name = "test"
baseline = "neoverse-n1"
[base.model]
name = "llama-2-7b"
quant = "q4_0"
[base.workload]
prompt = 0
tokens = 4
[axes]
"experiment.system" = ["neoverse-n1", "sail"]
"model.quant" = ["q2_k", "q3_k", "q4_0", "q5_0", "q6_k", "q8_0"]
"workload.batch" = [1, 2, 4, 8]
"workload.context" = [128, 512, 1024]
EOF
chmod -R a+rX "$GEMPIM_EXPERIMENTS"
run "$(folder demo2)" run --rm -T demo > "$scratch/composed" 2> /dev/null || fail "service demo"
cmp "$scratch/table" "$scratch/composed" || fail "service demo: another table"
ok "service demo"
alone=$(folder alone)
run "$alone" run --rm -T sweep > "$scratch/alone.table" 2> "$scratch/log" || { cat "$scratch/log" >&2; fail "service sweep"; }
[ "$(find "$alone/runs" -mindepth 1 -maxdepth 1 | wc -l)" = 144 ] || fail "service sweep: not 144 runs"
ok "service sweep"

cluster=$(folder cluster)
touch "$scratch/up"
run "$cluster" --profile cluster up > "$scratch/cluster.log" 2>&1 &
up=$!
done_runs() { find "$cluster/runs" -mindepth 1 -maxdepth 1 ! -name '.*' 2> /dev/null | wc -l; }
until [ "$(done_runs)" -ge 20 ]; do
  kill -0 "$up" 2> /dev/null || { tail -n 40 "$scratch/cluster.log" >&2; fail "the cluster ended"; }
  sleep 0.1
done
"$docker" kill "$("$docker" ps -q --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" \
  --filter label=com.docker.compose.service=worker | head -n 1)" > /dev/null
[ "$(done_runs)" -lt 144 ] || fail "the sweep was over before a worker could be killed"
client=$("$docker" ps -aq --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" \
  --filter label=com.docker.compose.service=cluster-sweep)
[ "$("$docker" wait "$client")" = 0 ] || { "$docker" logs "$client" >&2; fail "service cluster-sweep"; }
"$docker" logs "$client" 2> /dev/null > "$scratch/cluster.table"
cmp "$scratch/alone.table" "$scratch/cluster.table" || fail "service cluster-sweep: another table than the local sweep"
for path in "$alone"/runs/*; do
  other=$cluster/runs/${path##*/}
  for file in roi.jsonl result.json; do cmp "$path/$file" "$other/$file" || fail "$other: other results"; done
done
[ -z "$(find "$cluster/runs" -mindepth 1 -maxdepth 1 -name '.*')" ] || fail "service cluster-sweep: left unfinished runs"
run "$cluster" --profile cluster down > /dev/null 2>&1
wait "$up" || true
ok "service cluster-sweep: a worker of 2 killed, and the results are the local sweep's"

export GEMPIM_NOTEBOOK_PORT=18888 JUPYTER_TOKEN=a-token-for-this-test-only
run "$(folder notebook)" --profile notebook up -d > "$scratch/log" 2>&1 || { cat "$scratch/log" >&2; fail "service notebook"; }
server=$("$docker" ps -q --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME")
tries=0
until [ "$("$docker" inspect --format '{{.State.Health.Status}}' "$server")" = healthy ]; do
  tries=$((tries + 1))
  [ "$tries" -lt 120 ] || { "$docker" logs "$server" >&2; fail "service notebook: not healthy after 2 minutes"; }
  sleep 1
done
status() { curl --silent --noproxy '*' --output /dev/null --write-out '%{http_code}' "http://127.0.0.1:18888/api/contents$1"; }
[ "$(status '')" = 403 ] || fail "service notebook: $(status '') without the token"
[ "$(status "?token=$JUPYTER_TOKEN")" = 200 ] || fail "service notebook: $(status "?token=$JUPYTER_TOKEN") with the token"
"$docker" port "$server" | grep -v '127\.0\.0\.1:' && fail "service notebook: open to the network"
run "$scratch/notebook" --profile notebook down > /dev/null 2>&1
rm "$scratch/up"
ok "service notebook: healthy, on the loopback address, and only with the token"
"$docker" run --rm --network none -e JUPYTER_TOKEN= --entrypoint sh "$prefix:notebook" -c '
  gempim-notebook > /tmp/log 2>&1 & sleep 15; grep -qE "token=[0-9a-f]{32}" /tmp/log || { cat /tmp/log; exit 1; }' \
  || fail "an empty token switched authentication off"
ok "an empty token is no token: Jupyter makes one up"

# gempim in gem5.
if [ -z "$gem5" ]; then
  echo "NOT CHECKED: Dockerfile.gem5 (--no-gem5)"
  echo "docker/test.sh: $passed checks passed"
  exit 0
fi
set --
[ -z "$gem5_image" ] || set -- "$@" --build-arg "GEM5_IMAGE=$gem5_image"
[ -z "$gem5_opt" ] || set -- "$@" --build-arg "GEM5_OPT=$gem5_opt"
# shellcheck disable=SC2086 # several options
if "$docker" build ${BUILD_OPTIONS:-} -f docker/Dockerfile.gem5 --build-arg "GEM5_IMAGE=$base" . > "$scratch/log" 2>&1; then
  fail "Dockerfile.gem5 builds on an image that has no gem5"
fi
grep -q "has no program .*--build-arg GEM5_IMAGE=IMAGE.*--build-arg GEM5_OPT=PATH" "$scratch/log" || fail "no word about GEM5_IMAGE"
ok "an image without gem5 is refused, with what to give"
image=$prefix:gem5
build "$image" -f docker/Dockerfile.gem5 "$@"
labels "$image"
strictly "$image" doctor > "$scratch/log" || { cat "$scratch/log" >&2; fail doctor; }
grep '^ok .*gem5.opt' "$scratch/log" || fail "doctor: no gem5"
out=$(folder gem5)
programs=$(strictly -v "$out:/out" "$image" micro build)
for engine in "gem5-se --cpu o3" "gem5-fs --cpu timing --fast-forward"; do
  # shellcheck disable=SC2086 # an engine and its options
  strictly -v "$out:/out" "$image" run --engine $engine --system sail --binary "$programs/gemv" \
    --args '--type q4_0 --n 64 --k 256 --path lutmm --check --m5' -o json > "$scratch/rows" 2> "$scratch/log" \
    || { tail -n 30 "$scratch/log" >&2; fail "$engine"; }
  grep -q '"PIM commands": *[1-9]' "$scratch/rows" || { cat "$scratch/rows" >&2; fail "$engine: no PIM command"; }
  ok "${engine%% *}: lutmm gives the right product with the image's own plug-in and guest"
done
strictly -v "$out:/out" "$image" model synth --shape smollm2-135m -q q4_0 --layers 2 --vocab 300 --out /out/small.gguf > /dev/null 2>&1
strictly -v "$out:/out" "$image" run --engine gem5-se --system sail --gguf /out/small.gguf --prompt a --tokens 1 --cpu timing \
  --caches none --sample all -o json > "$scratch/rows" 2> "$scratch/log" || { tail -n 30 "$scratch/log" >&2; fail "llama.cpp in gem5"; }
grep -q '"pim_commands": *[1-9]' "$scratch/rows" || { cat "$scratch/rows" >&2; fail "llama.cpp in gem5: no PIM command"; }
[ -d "$out/.cache/gempim/llama" ] || fail "llama.cpp in gem5: no checkpoint in /out/.cache"
ok "gem5-se: llama.cpp runs, and what it keeps is in /out/.cache"
echo "docker/test.sh: $passed checks passed"
