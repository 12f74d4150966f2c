#!/bin/sh
# The parameter nx_huge_pages: what it takes, and that "never" looks at every process of the run.
# usage: test_nx_parameter.sh QUIRE

quire=$1
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

# One process makes a VM and keeps it until its input ends.
holder='import fcntl, os, sys
vm = fcntl.ioctl(os.open("/dev/kvm", os.O_RDWR), 0xae01, 0)
print("there", flush=True)
sys.stdin.read()
os.close(vm)
print("gone", flush=True)
sys.stdin = open("'"${TMPDIR:-/tmp}/quire-fifo.$$"'")
sys.stdin.read()'
fifo=${TMPDIR:-/tmp}/quire-fifo.$$
expect 'never while another process has a VM' 'busy N there gone never' "$(run "
	try() { (echo never > $kvm/nx_huge_pages) 2>/dev/null || printf 'busy '; cat $kvm/nx_huge_pages; }
	mkfifo $fifo $fifo.in
	python3 -c '$holder' < $fifo.in > $fifo.out &
	exec 3> $fifo.in
	until [ -s $fifo.out ]; do sleep 0.05; done
	try
	exec 3>&-
	until grep -q gone $fifo.out; do sleep 0.05; done
	cat $fifo.out
	try
	: > $fifo
	wait" | tr '\n' ' ' | sed 's/ $//')"
rm -f "$fifo" "$fifo.in" "$fifo.out"
expect 'a VM whose process was killed' 'never' "$(run "
	python3 -c '
import fcntl, os, signal
vm = fcntl.ioctl(os.open(\"/dev/kvm\", os.O_RDWR), 0xae01, 0)
os.kill(os.getpid(), signal.SIGKILL)'
	echo never > $kvm/nx_huge_pages
	cat $kvm/nx_huge_pages")"

exit $failed
