#!/bin/sh
# Builds the stress test with ThreadSanitizer in a directory of its own and runs it for SECONDS (10).
# usage: run_tsan.sh [SECONDS] [BUILD-DIRECTORY]
set -eu
cd "$(dirname "$0")/../.."
seconds=${1:-10}
build=${2:-build-tsan}
[ -f "$build/build.ninja" ] ||
	CC=clang meson setup "$build" -Db_sanitize=thread -Db_lundef=false --buildtype=debugoptimized
ninja -C "$build" tests/stress/stress
TSAN_OPTIONS="halt_on_error=0 exitcode=66 ${TSAN_OPTIONS:-}" exec "$build/tests/stress/stress" "$seconds"
