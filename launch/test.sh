#!/usr/bin/env bash
# Runs the tests; arguments go to pytest: launch/test.sh tests/config_test.py
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
launch/setup.sh --tests

export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
# Most of the time goes to compiling: every program is kept for the next run.
export JAX_COMPILATION_CACHE_DIR="$PWD/.jax_cache"
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0
export JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1
exec .venv/bin/python -m pytest "$@"
