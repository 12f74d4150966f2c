#!/bin/sh
# The preload finds its decoder beside itself, for it also runs in roots that have none.
# usage: test_decoder.sh LIBRARY
folder=$(dirname "$(realpath "$1")")
decoder=$(ldd "$folder/$(basename "$1")" | sed -n 's/.*libZydis[^ ]* => \([^ ]*\).*/\1/p')
case $decoder in
'') echo "the decoder is part of the library" ;;
"$folder"/*) ;;
*)
	echo "FAILED: the decoder is $decoder, not in $folder"
	exit 1
	;;
esac
