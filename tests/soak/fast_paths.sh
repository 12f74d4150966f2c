#!/bin/sh
# fast_paths.sh QUIRE PRELOAD TRANSCRIPT DIRTY PROGRAM...: the rules as clients see them, without one fast path after the other: they
# pass, each as it does with all. PRELOAD is the library that can do without them. TRANSCRIPT says what a guest and its hypervisor see:
# the same, too. DIRTY, the rules of dirty logging, has fast faults, and none where they are off.
quire=$1 preload=$2 transcript=$3 dirty=$4 failed=0
shift 3
here=$(mktemp -d) || exit 1
trap 'rm -rf "$here"' EXIT
# The command finds the library that stands beside it.
cp "$quire" "$here/quire" && cp "$preload" "$here/libquire_preload.so" || exit 1

# The list of all fast paths: those that the library is built to do without, and those with a parameter.
built=$(sed -n '/define QUIRE_\(HOST_\)\{0,1\}SLOW_LIST/,/^$/s/.*X(\([a-z_]*\), .*/\1/p' "$(dirname "$0")/../../src/base/mutant.h")
parameters="kvm.eager_page_split kvm.mmio_caching kvm.tdp_mmu"

fail() {
	echo "FAIL: $*"
	failed=1
}

# without PATH ARGS...: `quire run` with these arguments, and no fast path PATH; its output in $here/out.
without() {
	path=$1
	shift
	case $path in
	*.*) QUIRE_MUTANT=none "$here/quire" run --param "$path=N" "$@" >"$here/out" 2>"$here/err" ;;
	*) QUIRE_MUTANT=$path "$here/quire" run "$@" >"$here/out" 2>"$here/err" ;;
	esac
}

# Without a parameter a whole program may have no rule left: its type of VM is not there (77).
rules() {
	without "$@"
	case $?$1 in
	0* | 77kvm.*) ;;
	*)
		fail "$*"
		tail -n 20 "$here/out" "$here/err"
		;;
	esac
}

# Is what was seen without a path the same as what is seen with all of them?
same() {
	cmp -s "$here/plain" "$here/out"
}

# Fast faults of the run of DIRTY without PATH, all processes together.
fast_faults() {
	rules "$1" --stats "$here/stats" -- "$dirty"
	grep -o '"pf_fast": *[0-9]*' "$here/stats" | awk '{ sum += $2 } END { print sum + 0 }'
}

[ "$(echo "$built" | wc -w)" -ge 4 ] || fail "src/base/mutant.h names: $built"
some=$(fast_faults none) none=$(fast_faults fast_fault_off)
if [ "$some" -eq 0 ] || [ "$none" -ne 0 ]; then
	fail "$some fast faults, $none with these off"
fi

for name in with_a_log with_a_log_that_is_cleared with_private_memory; do
	rules none -- "$transcript" $name
	cp "$here/out" "$here/plain"
	[ "$(wc -l <"$here/plain")" -gt 3000 ] || fail "$name is short"
	for path in $built $parameters; do
		# Shadow pages serve no VM with private memory.
		[ "$path $name" != "kvm.tdp_mmu with_private_memory" ] || continue
		rules "$path" -- "$transcript" $name
		same || {
			fail "$name: $path: a guest sees something else"
			diff "$here/plain" "$here/out" | head -n 10
		}
	done
done
# A library that shows a guest something else is noticed, though no check of the transcript's own fails.
rules zap_spares_huge -- "$transcript" $name
! same || fail "zap_spares_huge is not noticed"

# What came of each rule of $here/out, but for those that are skipped without the path: they are about the path itself, or about VMs
# that it alone serves. The library that is built without one has none of these.
verdicts() {
	case $1 in
	*.*) skipped=$(sed -n 's/^skip //p' "$here/out") ;;
	*) skipped= ;;
	esac
	for file in plain out; do
		grep '^\(pass\|skip\|FAIL\) ' "$here/$file" | grep -vxF "$(for name in $skipped; do echo "pass $name"; echo "skip $name"; done)" >"$here/$file.rules"
	done
}
for program; do
	rules none -- "$program"
	cp "$here/out" "$here/plain"
	for path in $built $parameters; do
		rules "$path" -- "$program"
		verdicts "$path"
		cmp -s "$here/plain.rules" "$here/out.rules" || {
			fail "$program: $path: other rules pass"
			diff "$here/plain.rules" "$here/out.rules"
		}
	done
done
exit $failed
