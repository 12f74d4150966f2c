#!/bin/sh
# Builds the stress tests with ThreadSanitizer in a directory of its own; runs each for SECONDS (10).
# usage: run_tsan.sh [SECONDS] [BUILD-DIRECTORY]
set -eu
cd "$(dirname "$0")/../.."
seconds=${1:-10}
build=${2:-build-tsan}
[ -f "$build/build.ninja" ] ||
	CC=clang meson setup "$build" -Db_sanitize=thread -Db_lundef=false --buildtype=debugoptimized
ninja -C "$build" tests/stress/stress tests/unit/gmem/race-gmem
export TSAN_OPTIONS="halt_on_error=0 exitcode=66 ${TSAN_OPTIONS:-}"
# Faults, zaps, host invalidations, root invalidations, logs and slots against each other.
"$build/tests/stress/stress" "$seconds"
# guest_memfd: punches, bindings, fills and ends of files under guests, in milliseconds.
"$build/tests/unit/gmem/race-gmem" "${seconds}000"
