#!/bin/sh
# `quire run` without an engine: what it refuses, how it ends, and the parameters that its processes share.
# usage: test_run.sh QUIRE STATIC_PROGRAM FILTER_CLIENT

quire=$1
static=$2
filter=$3
failed=0

# expect WHAT WANTED GOT
expect() {
	if [ "$2" != "$3" ]; then
		echo "FAILED: $1: wanted '$2', got '$3'"
		failed=1
	fi
}

run() {
	"$quire" run -- sh -c "$1" 2>/dev/null
}

kvm=/sys/module/kvm/parameters

output=$("$quire" run "$static" 2>&1)
expect 'status of a static program' 126 $?
expect 'reason for a static program' "quire run: $static is statically linked, and there is no \
quire-engine to start it on" "$output"
expect 'static program in a script' '126' "$(run "'$static'; echo \$?")"
expect 'static program without the environment' '126' "$(run "env -i '$static'; echo \$?")"
expect 'doctor of a static program' 'static no' \
	"$("$quire" doctor -- "$static" | awk '/^program/ { kind = $2 } /^it is served/ { print kind, $4 }')"
expect 'doctor for machines' 'dynamic yes' "$("$quire" doctor --json -- sh | python3 -c '
import json, sys
said = json.load(sys.stdin)
print(said["program"]["answer"], said["it is served"]["answer"])')"
output=$("$quire" run --cpuid -- true 2>&1)
expect 'status of --cpuid without an engine' 126 $?
expect 'reason of --cpuid without an engine' 'quire run: --cpuid needs quire-engine, and there is none' "$output"
expect 'doctor of --cpuid without an engine' real "$("$quire" doctor | sed -n 's/^CPUID of programs *\([a-z]*\) .*/\1/p')"
expect 'doctor of raw calls' '1' "$("$quire" doctor | grep -c '^raw system calls  *\(served\|not served\)  *[a-z]')"
expect 'doctor of the decoder' '1' "$("$quire" doctor | grep -c '^decoder  *found  *[a-z]')"
served=$("$quire" doctor --json -- sh | python3 -c '
import json, sys
said = json.load(sys.stdin)
print(said["raw system calls"]["answer"], "kernel" in said["it is served"]["meaning"])')
case $served in
'served True' | 'not served False') ;;
*) expect 'doctor of raw calls of a program' 'served True, or not served False' "$served" ;;
esac
expect 'doctor of the translator' '1' "$("$quire" doctor | grep -c '^translator  *\(yes\|no\)  *[a-z]')"
"$quire" run /nonexistent/program 2>/dev/null
expect 'status of a missing program' 127 $?
"$quire" run 2>/dev/null
expect 'status without a program' 2 $?

# The machine's own KVM is out of reach. Only a caller without privileges gives up the right to more.
privileged=$(awk '/^CapEff/ { print substr($2, length($2) - 5, 1) ~ /[2367abef]/ }' /proc/self/status)
"$quire" run -- "$filter" $((1 - privileged))
expect 'the filter' 0 $?
if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
	setpriv --reuid 65534 --clear-groups "$quire" run -- "$filter" 1
	expect 'the filter of a user' 0 $?
fi

run 'exit 7'
expect 'exit status' 7 $?
expect 'end by a signal' 143 "$(sh -c '"$0" run sh -c "kill \$\$" 2>/dev/null; echo $?' "$quire")"

# A signal to the command reaches the program, and its state is gone after it.
"$quire" run sh -c 'trap "exit 9" TERM; echo $QUIRE_RUN_DIR > '"${TMPDIR:-/tmp}/quire-test.$$"'
	while :; do sleep 0.05; done' &
pid=$!
while [ ! -s "${TMPDIR:-/tmp}/quire-test.$$" ]; do sleep 0.05; done
directory=$(cat "${TMPDIR:-/tmp}/quire-test.$$")
rm -f "${TMPDIR:-/tmp}/quire-test.$$"
expect 'directory of the run' yes "$([ -d "$directory" ] && echo yes)"
kill -TERM $pid
wait $pid
expect 'status after SIGTERM' 9 $?
expect 'directory after the run' no "$([ -d "$directory" ] && echo yes || echo no)"

expect 'the device' yes "$(run 'test -c /dev/kvm && test -r /dev/kvm && echo yes')"
expect 'the device without the environment' yes \
	"$(run "env -i sh -c 'test -c /dev/kvm && test -e $kvm/tdp_mmu && echo yes'")"
expect 'default of a parameter' Y "$(run "cat $kvm/tdp_mmu")"
expect 'read-only parameter' refused "$(run "(echo N > $kvm/tdp_mmu) || echo refused")"
expect 'set before the start' N \
	"$("$quire" run --param kvm.tdp_mmu=0 cat $kvm/tdp_mmu)"
expect 'written by a shell' N "$(run "echo off > $kvm/eager_page_split; cat $kvm/eager_page_split")"
expect 'written by tee' 100 \
	"$(run "echo 0100 | sed s/^0// | tee $kvm/nx_huge_pages_recovery_period_ms >/dev/null
		cat $kvm/nx_huge_pages_recovery_period_ms")"
expect 'bad value' 'refused 0' \
	"$(run "echo 3600001 > $kvm/nx_huge_pages_recovery_period_ms || printf 'refused '
		cat $kvm/nx_huge_pages_recovery_period_ms")"
expect 'shorter than what was there' 7 \
	"$(run "echo 7 > $kvm/halt_poll_ns; cat $kvm/halt_poll_ns")"
expect 'a run of its own' Y "$(run "cat $kvm/eager_page_split")"
expect 'one byte' Y "$(run "head -c 1 $kvm/eager_page_split")"
expect 'never is for ever' 'refused never' \
	"$(run "echo never > $kvm/nx_huge_pages; (echo force > $kvm/nx_huge_pages) || printf 'refused '
		cat $kvm/nx_huge_pages")"
expect 'off and on and auto' 'N Y N Y' \
	"$(run "for word in off force auto 1; do echo \$word > $kvm/nx_huge_pages
		cat $kvm/nx_huge_pages; done" | tr '\n' ' ' | sed 's/ $//')"
expect 'unknown parameter' absent "$(run "cat $kvm/no_such_thing || echo absent")"
expect "the machine's own modules" absent "$(run "ls /sys/module/kvm_pvm || echo absent")"

exit $failed
