#!/usr/bin/env bash
# Runs the tests; arguments go to pytest: launch/test.sh tests/config_test.py
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
launch/setup.sh --tests

exec .venv/bin/python -m pytest "$@"
