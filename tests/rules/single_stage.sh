#!/bin/sh
# single_stage.sh QUIRE PROGRAM: run it without nested paging; the parameter is the machine's vendor's.
if grep -q GenuineIntel /proc/cpuinfo; then
	exec "$1" run --param kvm_intel.ept=N -- "$2"
fi
exec "$1" run --param kvm_amd.npt=N -- "$2"
