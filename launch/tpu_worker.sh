#!/usr/bin/env bash
# Runs on each machine of a TPU, where launch/tpu.sh calls it.
#
#   launch/tpu_worker.sh install     creates .venv, with JAX for TPUs
#   launch/tpu_worker.sh start ...   starts main.py with these arguments
#   launch/tpu_worker.sh state       prints the run's state in one word
#   launch/tpu_worker.sh logs        follows the run's output
#   launch/tpu_worker.sh stop        saves the run and ends it
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

help() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' launch/tpu_worker.sh; }

# These machines run Ubuntu 22.04, whose Python is 3.10: uv installs a newer one.
install() {
  if ! command -v python3.13 python3.12 python3.11 >/dev/null; then
    python3 -m pip install --quiet --user uv
    python3 -m uv python install --quiet 3.12
    PYTHON="$(python3 -m uv python find 3.12)"
    export PYTHON
  fi
  launch/setup.sh --jax=tpu
}

# A service outlives the connection and receives SIGTERM at a preemption. Only
# launch/restart.sh receives it (KillMode) and passes it on to main.py, which
# saves. The command is in a file because systemd would expand $ in it. Transfers
# to a TPU lock memory, and a service's default limit is too low.
start() {
  if systemctl is-active --quiet vaegan_jax; then
    echo 'error: a run is active on this machine: end it with launch/tpu.sh stop' >&2
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
