#!/bin/sh
# The headers that the plug-in is compiled against: those of the image, or else gem5's sources at the tag of the version
# that the binary says it is. Nothing of gem5 is compiled.
#
#   gem5-headers.sh BINARY FOLDER "VERSION=COMMIT VERSION=COMMIT ..."
set -eu
binary=$1 folder=$2 pins=$3
if [ -f "$folder/src/sim/sim_object.hh" ]; then
  echo "gem5's headers: those of the image, $folder"
  exit 0
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
printf 'import _m5.core\nprint("gem5-version", _m5.core.gem5Version)\n' > "$scratch/version.py"
version=$("$binary" --quiet --outdir="$scratch/m5out" "$scratch/version.py" | sed -n 's/^gem5-version //p')
commit=''
for pin in $pins; do
  [ "${pin%%=*}" != "$version" ] || commit=${pin#*=}
done
if [ -z "$commit" ]; then
  echo "$binary is gem5 $version; this image is for: $pins" >&2
  echo "Another gem5: GEM5_IMAGE with one of these versions, or GEM5_SOURCE with the headers of yours in the image" >&2
  exit 1
fi
git clone --quiet --depth 1 --branch "v$version" --filter=blob:none --sparse https://github.com/gem5/gem5 "$scratch/gem5"
found=$(git -C "$scratch/gem5" rev-parse HEAD)
[ "$found" = "$commit" ] || { echo "gem5's tag v$version is $found, pinned is $commit" >&2; exit 1; }
git -C "$scratch/gem5" sparse-checkout set src include ext
mkdir -p "$folder"
(cd "$scratch/gem5" && find src include ext -type f \( -name '*.h' -o -name '*.hh' -o -name '*.hpp' \) -print0 \
  | tar -cf - --null -T -) | tar -C "$folder" -xf -
