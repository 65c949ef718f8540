#!/usr/bin/env bash
# Runs on each machine of a TPU; launch/tpu.sh calls it.
#
#   launch/tpu_worker.sh install     creates .venv, with JAX for TPUs
#   launch/tpu_worker.sh start ...   starts main.py with these arguments
#   launch/tpu_worker.sh state       prints the state of the run, in one word
#   launch/tpu_worker.sh logs        follows the output of the run
#   launch/tpu_worker.sh stop        saves and ends the run
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

help() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' launch/tpu_worker.sh; }

# These machines run Ubuntu 22.04 with Python 3.10, so uv installs a newer one.
install() {
  if ! command -v python3.13 python3.12 python3.11 >/dev/null; then
    python3 -m pip install --quiet --user uv
    python3 -m uv python install --quiet 3.12
    PYTHON="$(python3 -m uv python find 3.12)"
    export PYTHON
  fi
  launch/setup.sh --jax=tpu
}

# A systemd service outlives the connection. When the machine is preempted, SIGTERM
# reaches launch/restart.sh alone (KillMode), which forwards it to main.py. The
# command is in a file because systemd would expand $ in it. TPU transfers lock more
# memory than a service may by default (LimitMEMLOCK).
start() {
  if systemctl is-active --quiet vaegan_jax; then
    echo 'error: a run is active here: end it with launch/tpu.sh stop' >&2
    exit 1
  fi
  rm -f exit_status
  printf '%q ' exec launch/restart.sh --status_file=exit_status \
    .venv/bin/python main.py "$@" >run.sh
  sudo systemd-run --quiet --unit=vaegan_jax --collect --uid="$(id -un)" \
    --working-directory="$PWD" --setenv=PYTHONUNBUFFERED=1 \
    --property=KillMode=mixed --property=TimeoutStopSec=120 \
    --property=LimitMEMLOCK=infinity bash run.sh
}

state() {
  local status
  if systemctl is-active --quiet vaegan_jax; then
    echo 'run: active'
    return
  fi
  status="$(cat exit_status 2>/dev/null || echo none)"
  case "$status" in
    0) echo 'run: finished' ;;
    none | 75) echo 'run: none' ;;
    *)
      echo "run: failed (status $status)"
      sudo journalctl --unit=vaegan_jax --output=cat --lines=5
      ;;
  esac
}

case "${1:-}" in
  install | state) "$1" ;;
  start) "$@" ;;
  logs)
    sudo journalctl --unit=vaegan_jax --output=cat --lines=100 --follow
    ;;
  stop) sudo systemctl stop vaegan_jax ;;
  --help) help ;;
  *)
    echo "error: '${1:-}' is not one of install, start, state, logs and stop: for example, launch/tpu_worker.sh state" >&2
    exit 2
    ;;
esac
