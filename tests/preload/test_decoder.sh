#!/bin/sh
# The decoder costs a program that does not use KVM nothing, and is found beside the library.
# usage: test_decoder.sh QUIRE LIBRARY CLIENT...
quire=$1
library=$2
folder=$(dirname "$library")
shift 2
if readelf -d "$library" | grep 'NEEDED.*Zydis'; then
	echo "FAILED: the library asks the dynamic linker for the decoder"
	exit 1
fi
# Another root is root's, and only with the right to make a node.
node=$(mktemp -u)
roots=
if mknod "$node" c 10 232 2>/dev/null; then
	roots=root
	rm "$node"
fi
failed=0
for client; do
	for way in '' $roots; do
		# shellcheck disable=SC2086 # empty or one word
		"$quire" run -- "$client" "$folder" $way || {
			echo "FAILED: $client $way"
			failed=1
		}
	done
done
rm -rf /tmp/quire-decoder.??????
exit $failed
