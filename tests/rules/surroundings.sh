#!/bin/sh
# A client in surroundings that lack something: surroundings.sh QUIRE BEHIND_DOCKER CLIENT...
set -u
quire=$1 docker=$2
shift 2
failed=0

# name, then a command to which "QUIRE run -- CLIENT" is added
try() {
	name=$1
	shift
	for client in $clients; do
		if output=$("$@" "$quire" run -- "$client" 2>&1); then
			echo "pass $name: $(basename "$client")"
		else
			echo "FAIL $name: $(basename "$client")"
			echo "$output" | tail -5
			failed=1
		fi
	done
}

# In mounts of its own, after a command of the shell's; the rest is executed.
in_mounts() {
	before=$1
	shift
	unshare -m sh -c "mount --make-rprivate / && $before && exec \"\$@\"" sh "$@"
}

clients=$*
try "Docker's default filter" "$docker"
if [ "$(id -u)" != 0 ]; then
	echo "skip the rest: not root"
	exit $failed
fi
try "nobody with no_new_privs" setpriv --reuid 65534 --regid 65534 --clear-groups --no-new-privs
try "nobody behind Docker's filter" setpriv --reuid 65534 --regid 65534 --clear-groups "$docker"
if ! in_mounts true true 2>/dev/null; then
	echo "skip the rest: no mounts of its own"
	exit $failed
fi
try "no /dev/shm" in_mounts "mount -t tmpfs -o ro,size=4k none /dev/shm"
try "a read-only root" in_mounts "mount --bind / / && mount -o remount,bind,ro /"
try "no /sys" in_mounts "mount -t tmpfs none /sys"
# Without it a program starts, and finds no /dev/kvm.
clients=$(command -v true)
try "no /proc" in_mounts "mount -t tmpfs none /proc"
exit $failed
