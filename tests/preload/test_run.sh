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
quire-engine to start it on; build or install all of Quire, which has it" "$output"
expect 'static program in a script' '126' "$(run "'$static'; echo \$?")"
expect 'static program without the environment' '126' "$(run "env -i '$static'; echo \$?")"
expect 'doctor of a static program' 'static no' \
	"$("$quire" doctor -- "$static" | awk '/^program/ { kind = $2 } /^it is served/ { print kind, $4 }')"
expect 'doctor for machines' 'dynamic yes' "$("$quire" doctor --json -- sh | python3 -c '
import json, sys
said = json.load(sys.stdin)
print(said["program"]["answer"], said["it is served"]["answer"])')"
# One file of each kind: what is refused, and why; scripts are judged by what they name.
kinds=$(mktemp -d "${TMPDIR:-/tmp}/quire-kinds.XXXXXX")
trap 'rm -r "$kinds"' EXIT
python3 - "$kinds" "$static" <<'END'
import os, struct, sys

folder, static = sys.argv[1:]

def write(name, contents, mode=0o755):
    with open(f"{folder}/{name}", "wb") as file:
        file.write(contents)
    os.chmod(f"{folder}/{name}", mode)

def elf(segments, machine=62, kind=2):
    '''ELF of 64 bits with segments of (type, contents)'''
    head = b"\x7fELF" + bytes([kind, 1, 1]) + bytes(9)
    at, table, rest = 64 + 56 * len(segments), b"", b""
    for number, contents in segments:
        table += struct.pack("<IIQQQQQQ", number, 4, at + len(rest), 0, 0, len(contents), len(contents), 1)
        rest += contents
    return head + struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0, 64, 0, 0, 64, 56, len(segments),
                              0, 0, 0) + table + rest

INTERPRETER, NOTE = 3, 4
GLIBC = (INTERPRETER, b"/lib64/ld-linux-x86-64.so.2\0")
OTHER = struct.pack("<III", 4, 3, 1) + b"GNU\0abc\0"
GO = struct.pack("<III", 4, 3, 4) + b"Go\0\0abc\0"
write("musl", elf([(INTERPRETER, b"/lib/ld-musl-x86_64.so.1\0")]))
write("go", elf([GLIBC, (NOTE, OTHER + GO)]))
write("noted", elf([GLIBC, (NOTE, OTHER)]))
write("arm64", elf([GLIBC], machine=183))
write("small", elf([GLIBC], kind=1))
write("none", elf([]))
write("cut", elf([GLIBC])[:80])
write("plain", b"neither program nor script\n")
write("script", f"#! {static} argument\n".encode())
write("script-of-script", f"#!{folder}/script\n".encode())
write("shell-script", b"#!/bin/sh\nexit 5\n")
write("no-rights", b"#!/bin/sh\n", 0o644)
write("set-user", elf([GLIBC]), 0o755)
if os.geteuid() == 0:
    os.chown(f"{folder}/set-user", 65534, 65534)
    os.chmod(f"{folder}/set-user", 0o4755)
END

# refused NAME REASON: without an engine
refused() {
	output=$("$quire" run "$kinds/$1" 2>&1)
	expect "status of $1" 126 $?
	case $output in
	"quire run: $kinds/$1 $2"*) ;;
	*) expect "reason of $1" "$2" "$output" ;;
	esac
}

refused musl 'has another C library than glibc'
refused go 'is a Go program'
refused arm64 'is not a program for x86-64'
refused small 'is not a program for x86-64'
refused none 'is statically linked'
refused cut 'is statically linked'
refused script 'is statically linked'
refused script-of-script 'is statically linked'
if [ "$(id -u)" = 0 ]; then
	refused set-user 'is set-user-ID or set-group-ID'
fi
"$quire" run "$kinds/shell-script"
expect 'a script of a shell' 5 $?
"$quire" run "$kinds/no-rights" 2>/dev/null
expect 'a file that none may execute' 126 $?
expect 'a file on the way that none may execute' 126 \
	"$(PATH=$kinds:/nonexistent "$quire" run no-rights 2>/dev/null; echo $?)"
expect 'doctor of a program with notes' 'yes' \
	"$("$quire" doctor -- "$kinds/noted" | awk '/^it is served/ { print $4 }')"
expect 'a child that is none for this machine' 126 "$(run "'$kinds/arm64'; echo \$?")"

output=$("$quire" run --cpuid -- true 2>&1)
expect 'status of --cpuid without an engine' 126 $?
expect 'reason of --cpuid without an engine' 'quire run: --cpuid needs quire-engine, and there is none; build or install all of Quire, which has it' "$output"
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
expect 'written as on' Y "$(run "echo off > $kvm/eager_page_split; echo on > $kvm/eager_page_split
	cat $kvm/eager_page_split")"
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
expect 'the folder of the parameters' tdp_mmu "$(run "ls $kvm | grep -x tdp_mmu")"
expect "a preload of the client's" yes "$(run "env LD_PRELOAD=libm.so.6 sh -c '
	case \$LD_PRELOAD in *libquire_preload.so*libm.so.6) test -c /dev/kvm && echo yes ;; esac'")"
expect "the machine's own modules" absent "$(run "ls /sys/module/kvm_pvm || echo absent")"

exit $failed
