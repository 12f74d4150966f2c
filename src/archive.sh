#!/bin/sh
# Makes the archive that users link: one object, in which only the public names are global.
# usage: archive.sh INTERNAL-ARCHIVE OUTPUT AR OBJCOPY COMPILER...
set -eu
input=$1 output=$2 ar=$3 objcopy=$4
shift 4
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$@" -r -nostdlib -o "$folder/quire.o" -Wl,--whole-archive "$input"
# The sources are compiled with hidden visibility; QUIRE_API makes an exception of what is public.
"$objcopy" --localize-hidden "$folder/quire.o"
rm -f "$output"
"$ar" rcsD "$output" "$folder/quire.o"
