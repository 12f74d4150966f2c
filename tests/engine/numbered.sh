#!/bin/sh
# numbered.sh QUIRE PROGRAM: processes on the engine whose numbers are upper halves of the engine's addresses.
unshare --pid --fork --mount-proc true 2>/dev/null || exit 77
quire=$1
shift
for number in 32384 32400; do # 0x7e80: its mappings; 0x7e90: its image, whose half was once taken for a number
	unshare --pid --fork --mount-proc "$quire" run -- sh -c '
		echo $(($1 - 1)) >/proc/sys/kernel/ns_last_pid || exit 1
		"$2" &
		[ $! -eq "$1" ] || exit 1
		wait $!' sh "$number" "$@" || exit 1
done
