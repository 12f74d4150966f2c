#!/bin/sh
# The long runs: ThreadSanitizer for SECONDS (60) a test, then every program of the kernel's in its long
# form, up to LIMIT (1200) seconds each.
# usage: soak.sh [SECONDS [LIMIT]]
set -eu
cd "$(dirname "$0")/../.."
sh tests/stress/run_tsan.sh "${1:-60}"
exec python3 tools/conformance.py --all --limit "${2:-1200}"
