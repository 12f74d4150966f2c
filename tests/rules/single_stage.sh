#!/bin/sh
# single_stage.sh QUIRE PROGRAM [OPTION]: run it without nested paging; the parameter is the machine's vendor's.
if grep -q GenuineIntel /proc/cpuinfo; then
	exec "$1" run --param kvm_intel.ept=N ${3:+"$3"} -- "$2"
fi
exec "$1" run --param kvm_amd.npt=N ${3:+"$3"} -- "$2"
