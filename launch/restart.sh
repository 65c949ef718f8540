#!/usr/bin/env bash
# Runs a command, and restarts it after a preemption or a failure.
#
#   launch/restart.sh .venv/bin/python main.py --workdir=runs/my_photos
#   launch/restart.sh --dry_run COMMAND ...            prints the command
#   launch/restart.sh --status_file=FILE COMMAND ...   writes the last status
#
# The status with which main.py ends decides:
#   75      It saved and stopped after SIGTERM or SIGHUP. It is restarted,
#           without a limit.
#   1, or   It failed, or a signal killed it. It is restarted up to 3 times. An
#   others  hour without a failure resets the count.
#   0       It is done. There is no restart.
#   2       The user made a mistake. There is no restart.
#   130     The user pressed Ctrl-C. There is no restart.
# This script passes SIGTERM, SIGHUP and Ctrl-C on to the command, and then does
# not restart it.
set -uo pipefail

help() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

status_file=''
case "${1:-}" in
  --help) help && exit ;;
  --dry_run) shift && printf '%q ' "$@" && echo && exit ;;
  --status_file=?*) status_file="${1#*=}" && shift ;;
esac
if [[ $# -eq 0 || "$1" == --* ]]; then
  echo "error: ${1:-nothing} is not a command to run: use, for example, launch/restart.sh .venv/bin/python main.py --workdir=runs/first" >&2
  exit 2
fi

stopping=''
interrupted=''
child=''
# shellcheck disable=SC2317  # The trap calls it.
forward() {
  stopping=1
  interrupted=1
  if [[ -n "$child" ]]; then kill -TERM "$child" 2>/dev/null; fi
}
trap forward TERM INT HUP

run() {
  "$@" &
  child=$!
  if [[ -n "$stopping" ]]; then kill -TERM "$child" 2>/dev/null; fi
  # A signal interrupts `wait`, but not the command, which is still saving.
  interrupted=1
  while [[ -n "$interrupted" ]]; do
    interrupted=''
    wait "$child"
    status=$?
  done
  child=''
}

if [[ -n "$status_file" ]]; then rm -f "$status_file"; fi
failures=0
while true; do
  started=$SECONDS
  run "$@"
  if ((SECONDS - started > 3600)); then failures=0; fi
  case "$status" in
    0 | 2 | 130) break ;;
    75) ;;
    *) if ((++failures > 3)); then break; fi ;;
  esac
  if [[ -n "$stopping" ]]; then break; fi
  echo "The command ended with status $status: it restarts in 10 s." >&2
  sleep 10
done
if [[ -n "$status_file" ]]; then echo "$status" >"$status_file"; fi
exit "$status"
