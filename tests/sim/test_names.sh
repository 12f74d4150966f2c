#!/bin/sh
# test_names.sh PROGRAM...: a bug's name that PROGRAM does not know is an error, alone or after one that it does.
failed=0
for program; do
	for names in "no_such_bug" "none no_such_bug"; do
		# shellcheck disable=SC2086 # one word a name
		said=$("$program" $names 2>&1)
		status=$?
		case $status:$said in
		2:*"no 'no_such_bug'"*) ;;
		*)
			echo "FAIL: $program $names: status $status: $said"
			failed=1
			;;
		esac
	done
done
exit $failed
