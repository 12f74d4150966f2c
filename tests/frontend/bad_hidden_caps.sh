#!/bin/sh
# A list of capabilities that makes no sense is refused, and no program runs.
quire=$1
for list in NO_SUCH_CAP 99999 12abc "SREGS2,,-1"; do
	if "$quire" run --param "kvm.quire_hide_caps=$list" -- true 2>/dev/null; then
		echo "quire_hide_caps=$list was taken"
		exit 1
	fi
done
"$quire" run --param "kvm.quire_hide_caps=SREGS2, 10" -- \
	grep -q "^SREGS2, 10$" /sys/module/kvm/parameters/quire_hide_caps
