#!/bin/sh
# Usage: test_mutants.sh PRELOAD PROGRAM. Each bug must make a test of PROGRAM fail, and none no test.
# Missing are those whose window is a few instructions, or a signal's, or a harvest that finds no vCPU
# in guest mode (alone_unarmed): the simulator finds them.
preload=$1 program=$2 failed=0

# try MUTANT TEST SECONDS: 0 when the test passes.
try() {
	QUIRE_MUTANT=$1 LD_PRELOAD=$preload "$program" -s "$3" "$2" >/dev/null 2>&1
}

if ! try none get_loses_nothing 3; then
	echo "FAIL: without a bug"
	exit 1
fi
# A name that the library does not know is no run without a bug.
env QUIRE_MUTANT=no_such_bug LD_PRELOAD="$preload" true 2>/dev/null
if [ $? -ne 2 ]; then
	echo "FAIL: a bug that there is not"
	exit 1
fi
while read -r mutant test; do
	caught=0
	for seconds in 2 5 10 20; do
		if ! try "$mutant" "$test" $seconds; then
			caught=1
			break
		fi
	done
	if [ $caught = 1 ]; then
		echo "caught $mutant within $seconds s"
	else
		echo "FAIL: $mutant went unnoticed"
		failed=1
	fi
done <<LIST
harvest_unflushed get_loses_nothing
harvest_unarmed clear_loses_nothing
shared_unarmed get_loses_nothing
shared_unflushed clear_loses_nothing
ring_unarmed rings_lose_nothing
ring_unflushed rings_lose_nothing
log_start_unflushed get_loses_nothing
log_start_unprotected get_loses_nothing
log_start_huge get_loses_nothing
clear_takes_words clear_loses_nothing
own_mark_unlocked own_writes_are_not_lost
LIST
exit $failed
