#!/bin/sh
# without_ad.sh QUIRE PROGRAM ARGUMENTS: run it with tables in which no processor sets A and D.
grep -q GenuineIntel /proc/cpuinfo || exit 77
quire=$1
shift
exec "$quire" run --param kvm_intel.eptad=N -- "$@"
