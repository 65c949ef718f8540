#!/usr/bin/env bash
# Runs the tests, two files at a time; with arguments, pytest with those alone:
# launch/test.sh tests/config_test.py
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
launch/setup.sh --tests

if [[ $# -eq 0 ]]; then
  set -- --numprocesses=2 --dist=loadfile
fi
exec .venv/bin/python -m pytest "$@"
