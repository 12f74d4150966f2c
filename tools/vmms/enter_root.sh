#!/bin/sh
# Changes to a root of its own, with some folders of the machine mounted at the same paths there.
# usage: unshare --mount enter_root.sh ROOT FOLDER... -- COMMAND...
set -eu
root=$1
shift
mount --make-rprivate /
for system in proc dev sys; do
	mkdir -p "$root/$system"
	mount --rbind "/$system" "$root/$system"
done
while [ "$1" != -- ]; do
	mkdir -p "$root$1"
	mount --bind "$1" "$root$1"
	shift
done
shift
exec chroot "$root" "$@"
