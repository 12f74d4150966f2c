#!/bin/sh
# test_unknown.sh ORDER_PAIRS: a pair's name that it does not know is an error.
said=$("$1" --pairs "no such pair" 2>&1)
status=$?
case $status:$said in
2:*"'no such pair'"*) ;;
*)
	echo "FAIL: status $status: $said"
	exit 1
	;;
esac
