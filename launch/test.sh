#!/usr/bin/env bash
# Runs the tests, three files at a time. Arguments go to pytest instead:
# launch/test.sh tests/config/config_test.py
set -euo pipefail

if [[ "${1:-}" == --help ]]; then
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  exit
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
launch/setup.sh --tests

if [[ $# -eq 0 ]]; then
  # tests/conftest.py puts the slowest files first. Two cores have time for three
  # files: tests of signals and locks wait for seconds.
  set -- --numprocesses=3 --dist=loadfile --no-loadscope-reorder --durations=10
fi
exec .venv/bin/python -m pytest "$@"
