#!/bin/bash -eu
# Builds each fuzzer into $OUT with its stored inputs; the compiler, its flags and what fuzzers are linked with are the
# service's. Those that need /dev/kvm start themselves under the command beside them (tests/fuzz/target.c).
cd "$SRC/quire"
build=${WORK:-/tmp}/quire
engine=${LIB_FUZZING_ENGINE:--fsanitize=fuzzer}
# Meson takes CFLAGS and LDFLAGS of the environment at the first setup.
export LDFLAGS="${CFLAGS:-}"
rm -rf "$build"
meson setup "$build" --buildtype=debugoptimized -Db_lundef=false -Dwerror=false -Dprobes=disabled "-Dfuzz=$engine"
fuzzers=$(cd tests/fuzz && ls fuzz_*.c | sed 's/\.c$//')
# shellcheck disable=SC2086 # one word a fuzzer
ninja -C "$build" $(printf 'tests/fuzz/%s ' $fuzzers) cli/quire preload/libquire_preload.so
for fuzzer in $fuzzers; do
	cp "$build/tests/fuzz/$fuzzer" "$OUT/"
	inputs=$(mktemp -d)
	python3 tools/fuzz_text.py "tests/fuzz/corpus/${fuzzer#fuzz_}.txt" "$inputs"
	(cd "$inputs" && zip -q -r "$OUT/${fuzzer}_seed_corpus.zip" .)
	rm -r "$inputs"
	printf '[libfuzzer]\nentropic = 0\nmax_len = 1536\ndetect_leaks = 0\n' >"$OUT/$fuzzer.options"
done
cp "$build/cli/quire" "$build/preload/libquire_preload.so" "$OUT/"
# The decoder is loaded from the folder of the library that is preloaded.
cp -L "$(clang -print-file-name=libZydis.so)" "$OUT/$(readelf -d "$(clang -print-file-name=libZydis.so)" |
	sed -n 's/.*SONAME.*\[\(.*\)\].*/\1/p')"
