#!/bin/sh
# The long runs: other distributions, the build without each part, the container in full, ThreadSanitizer for
# SECONDS (60) a test, what the tests cover of the folders around /dev/kvm, each memory order of the library taken
# away, lines of it changed, simulations and fuzzers with seeds that no run had before, tests in a guest with an older kernel, real VMMs
# ten times over, then every program of the kernel's in its long form, up to LIMIT (1200) seconds each. Fails where
# one of these does worse than docs/CONFORMANCE.md says.
# usage: soak.sh [--list | --only STEP] [SECONDS [LIMIT]]
# A step that fails holds up none that come after it: the last line says which did. --list says what they are, --only
# runs one of them by its number.
set -eu
cd "$(dirname "$0")/../.."
only=
case ${1:-} in
--list)
	only=none
	shift
	;;
--only)
	only=$2
	shift 2
	;;
esac
for word; do
	case $word in
	'' | *[!0-9]*)
		echo "soak: '$word' is no number of seconds; usage: ./dev soak [--list | --only STEP] [SECONDS [LIMIT]]" >&2
		exit 2
		;;
	esac
done
seconds=${1:-60}
seed=$(date +%s)
# Each says which it is of how many; how far it is itself, most of them tell (tools/progress.py).
steps=$(($(grep -c '^step ' tests/soak/soak.sh) + 5)) # the fuzzers stand in a loop
at=0 failed= unbuilt= ran=
wanted() {
	[ -z "$only" ] || [ "$only" = "$1" ]
}
# What the next step needs of build/.
needs() {
	[ "$only" != none ] || echo "  needs $*"
	! wanted $((at + 1)) || ninja -C build "$@" || unbuilt=yes
}
step() {
	at=$((at + 1))
	[ "$only" != none ] || echo "$at $*"
	wanted $at || return 0
	ran=yes
	echo "----- soak: step $at of $steps, after $(($(date +%s) - seed)) s: $*"
	[ -z "$unbuilt" ] && "$@" || failed="$failed $at"
	unbuilt=
}
# The commit that a program was built of: seeds mean the same runs as long as it is the same.
commit() {
	"$@" --commit 2>/dev/null || echo unknown
}
# Of what says nothing of itself: for how long it runs.
timed="python3 tools/progress.py --what soak --"
step python3 tools/checks.py roots options
step $timed python3 tests/package/test_container.py build/examples/private-vm/private-vm
step $timed sh tests/stress/run_tsan.sh "$seconds"
step ./dev coverage --gate
needs tests/sim/order/order_pairs
step $timed build/tests/sim/order/order_pairs --long --choices 2
step $timed python3 tests/sim/order/order.py build/tests/sim/order/order_pairs --all-but tests/sim/order/argued.txt
step $timed python3 tests/sim/order/order.py build/tests/sim/order/order_pairs --survives tests/sim/order/argued.txt
needs cli/sim/quire-sim-order
step $timed python3 tests/sim/order/order.py build/cli/sim/quire-sim-order --seeds 20000 --all-but tests/sim/order/caught.txt tests/sim/order/argued.txt
step $timed python3 tests/sim/order/order.py build/cli/sim/quire-sim-order --seeds 20000 --survives tests/sim/order/argued.txt
# Planted bugs, from the first seed on.
needs tests/sim/sim_mutants
step $timed build/tests/sim/sim_mutants
# One line after the other is changed; a sample that no run had before.
step ./dev mutate --sample $((seconds * 10)) --seed "$seed"
needs cli/sim/quire-sim tests/sim/test_interleave
step python3 tools/progress.py --what sim --unit seeds -- build/cli/sim/quire-sim --from "${seed}000" --seeds $((seconds * 1000))
# Ten million seeds, always the same; a soak that was killed goes on with them.
mkdir -p build/soak
step ./dev sim --seeds 10000000 --json "build/soak/sim-$(commit build/cli/sim/quire-sim).json"
needs cli/sim/quire-sim-order
step ./dev sim --order --seeds 200000 --json "build/soak/sim-order-$(commit build/cli/sim/quire-sim --order).json"
# The pairs in the one format that CI leaves out.
step $timed build/tests/sim/test_interleave "power without r and c"
needs tests/frontend/test_frontend_wake
step $timed build/quire run -- build/tests/frontend/test_frontend_wake "$seconds"
needs tests/signals/test_fork
step $timed build/quire run -- build/tests/signals/test_fork 10000
# All rules of KVM's own calls without one fast path after the other.
needs tests/soak/libquire_soak_preload.so
step meson test -C build fast-paths # builds the programs
step $timed sh tests/soak/fast_paths.sh build/quire build/tests/soak/libquire_soak_preload.so build/tests/soak/transcript \
	build/tests/rules/test_dirty \
	$(for name in slots gmem_slots gmem_huge gmem_link gmem_write gmem_userfault gmem_convert prefault exits iobus misc stats \
		async_pf async_pages paging pv debug cpu smm descriptors userfault; do echo "build/tests/rules/test_$name"; done)
# They go on from what earlier runs found.
for name in descriptor instruction ioctl nested paging; do
	step ./dev fuzz "$name" --seconds "$seconds" --jobs "$(nproc)"
done
# All tests of the rules under an older kernel, as root and as nobody. The first makes them.
step python3 tools/checks.py tcg-guest
step $timed python3 tools/tcg_guest.py --all build
step python3 tools/run_vmms.py --times 10 qemu
step python3 tools/run_vmms.py --times 10 migration
# What CI runs translated, by the interpreter alone.
step python3 tools/run_vmms.py --param kvm.quire_translate=N qemu
step python3 tools/run_vmms.py --param kvm.quire_translate=N migration
step python3 tools/conformance.py --param kvm.quire_translate=N
# Each translated instruction of a boot, and of the kernel's programs, beside the interpreter.
step python3 tools/run_vmms.py --param kvm.quire_lockstep=Y --only "boot pc default vmlinux -smp 1" qemu
step python3 tools/conformance.py --param kvm.quire_lockstep=Y --limit "${2:-1200}"
step python3 tools/conformance.py --all --known --limit "${2:-1200}"
[ "$only" != none ] || exit 0
if [ -z "$ran" ]; then
	echo "soak: there is no step '$only' of $steps; ./dev soak --list says what they are" >&2
	exit 2
fi
if [ -n "$failed" ]; then
	echo "soak: failed:$failed of $steps steps, in $(($(date +%s) - seed)) s"
	exit 1
fi
echo "soak: passed, ${only:+step $only of }$steps steps, in $(($(date +%s) - seed)) s"
