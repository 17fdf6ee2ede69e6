#!/bin/sh
# Makes a base image without an image registry: Debian from debootstrap, imported under the name that a Dockerfile asks
# for. It stands in for the published image in tests; it is not what should be published. Needs root and debootstrap.
#
#   docker/base.sh [--like-host] [--gem5 BINARY --gem5-source FOLDER] IMAGE [SUITE]
#
#   --like-host    also copy this machine's certificates and its apt and pip settings, where it reaches package indexes
#                  through something of its own
#   --gem5         a gem5.opt of this machine (same Debian release) to put at /usr/local/bin/gem5, with the libraries it
#   --gem5-source  needs, and its source folder, whose headers go to /opt/gem5
#   SUITE          Debian release, default bookworm
set -eu
docker=${DOCKER:-docker}
host='' gem5='' source=''
while [ $# -gt 0 ]; do
  case $1 in
    --like-host) host=1 ;;
    --gem5) gem5=$2; shift ;;
    --gem5-source) source=$2; shift ;;
    -*) echo "base.sh: $1: unknown option" >&2; exit 2 ;;
    *) break ;;
  esac
  shift
done
image=${1:?IMAGE is missing: the name that the Dockerfile asks for}
suite=${2:-bookworm}
if [ -n "$gem5" ] && [ ! -f "$source/src/sim/sim_object.hh" ]; then
  echo "base.sh: --gem5-source '$source': expected gem5's source folder: src/sim/sim_object.hh is not in it" >&2
  exit 2
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
root=$scratch/root
libraries=''
if [ -n "$gem5" ]; then
  # Debian packages of the shared libraries that the binary needs here.
  for file in $(ldd "$gem5" | awk '$3 ~ /^\// { print $3 }'); do
    found=$(dpkg -S "$(realpath "$file")" 2> /dev/null || dpkg -S "$file")
    libraries="$libraries ${found%%:*}"
  done
fi
debootstrap --variant=minbase "$suite" "$root" > "$scratch/log" 2>&1 || { tail -5 "$scratch/log" >&2; exit 1; }
if [ -n "$host" ]; then
  mkdir -p "$root/etc/ssl/certs"
  cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
  [ ! -d /usr/local/share/ca-certificates ] || cp -RL /usr/local/share/ca-certificates "$root/usr/local/share/"
  [ ! -f /etc/pip.conf ] || cp -L /etc/pip.conf "$root/etc/"
  rm -f "$root/etc/apt/sources.list"
  cp -RL /etc/apt/sources.list* "$root/etc/apt/"
  rm -f "$root"/etc/apt/sources.list.d/*.disabled*
fi
# shellcheck disable=SC2086 # several packages
[ -z "$libraries" ] || chroot "$root" sh -c '
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"' \
  install $libraries > "$scratch/log" 2>&1 || { tail -5 "$scratch/log" >&2; exit 1; }
if [ -n "$gem5" ]; then
  cp -L "$gem5" "$root/usr/local/bin/gem5"
  mkdir -p "$root/opt/gem5"
  for part in src include ext; do
    (cd "$source" && find "$part" -type f \( -name '*.h' -o -name '*.hh' -o -name '*.hpp' \) -print0 \
      | tar -cf - --null -T -) | tar -C "$root/opt/gem5" -xf - --no-same-owner
  done
fi
# As the slim images of Debian: no package files, lists, manuals or translations.
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/cache/apt/*.bin "$root"/var/lib/apt/lists/* "$root"/var/log/*.log
rm -rf "$root"/usr/share/man/* "$root"/usr/share/locale/* "$root"/usr/share/info/*
find "$root/usr/share/doc" -type f ! -name copyright -delete
tar -C "$root" -cf - . | "$docker" import --change 'CMD ["bash"]' - "$image" > /dev/null
echo "$image"
