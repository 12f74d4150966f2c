#!/bin/sh
# Makes the archive that users link: one object, in which only the public names are global.
# usage: archive.sh INTERNAL-ARCHIVE OUTPUT AR OBJCOPY COMPILER...
set -eu
input=$1 output=$2 ar=$3 objcopy=$4
shift 4
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
object=$folder/$(basename "$output" .a | sed s/^lib//).o
"$@" -r -nostdlib -o "$object" -Wl,--whole-archive "$input"
# The sources are compiled with hidden visibility; QUIRE_API makes an exception of what is public.
"$objcopy" --localize-hidden "$object"
rm -f "$output"
"$ar" rcsD "$output" "$object"
