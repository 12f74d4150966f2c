#!/bin/sh
# fast_paths.sh QUIRE PRELOAD DIRTY PROGRAM...: the rules as clients see them, without one fast path after the other. PRELOAD is the
# library that can do without them. DIRTY, the rules of dirty logging, has fast faults, and none where they are off.
quire=$1 preload=$2 dirty=$3 failed=0
shift 2
here=$(mktemp -d) || exit 1
trap 'rm -rf "$here"' EXIT
# The command finds the library that stands beside it.
cp "$quire" "$here/quire" && cp "$preload" "$here/libquire_preload.so" || exit 1

# rules PATH ARGS...: without fast path PATH, with these arguments of the command.
rules() {
	path=$1
	shift
	if ! QUIRE_MUTANT=$path "$here/quire" run "$@" >"$here/out" 2>&1; then
		echo "FAIL: $path $*"
		tail -n 20 "$here/out"
		failed=1
	fi
}

# Fast faults of the run of DIRTY without PATH, all processes together.
fast_faults() {
	rules "$1" --stats "$here/stats" -- "$dirty"
	grep -o '"pf_fast": *[0-9]*' "$here/stats" | awk '{ sum += $2 } END { print sum + 0 }'
}

some=$(fast_faults none) none=$(fast_faults fast_fault_off)
if [ "$some" -eq 0 ] || [ "$none" -ne 0 ]; then
	echo "FAIL: $some fast faults, $none with these off"
	failed=1
fi
for program; do
	for path in fast_fault_off hint_off ahead_off biglock_plain; do
		rules $path -- "$program"
	done
	for parameter in kvm.eager_page_split kvm.mmio_caching; do
		rules none --param $parameter=N -- "$program"
	done
done
exit $failed
