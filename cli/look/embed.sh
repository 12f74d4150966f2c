#!/bin/sh
# Makes an object of a file, whose bytes are between _binary_NAME_start and _binary_NAME_end.
# usage: embed.sh LD FILE OBJECT
set -eu
folder=$(cd "$(dirname "$3")" && pwd)
object=$folder/$(basename "$3")
cd "$(dirname "$2")"
exec "$1" -r -b binary -z noexecstack -o "$object" "$(basename "$2")"
