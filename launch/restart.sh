#!/usr/bin/env bash
# Runs a command, and restarts it when it can resume.
#
#   launch/restart.sh .venv/bin/python main.py --workdir=runs/my_photos
#   launch/restart.sh --dry_run COMMAND ...            prints the command
#   launch/restart.sh --status_file=FILE COMMAND ...   writes its status to FILE
#
# What happens depends on the exit status of main.py:
#   75   saved after SIGTERM or SIGHUP: restarts, without limit
#   1, or a signal's: failed: restarts up to 3 times. An hour without a failure
#        resets the count
#   0, done; 2, a user's mistake; 130, Ctrl-C: ends
# A SIGTERM, SIGHUP or Ctrl-C to this script is forwarded, and ends it too.
set -uo pipefail

help() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

status_file=''
case "${1:-}" in
  --help) help && exit ;;
  --dry_run) shift && printf '%q ' "$@" && echo && exit ;;
  --status_file=?*) status_file="${1#*=}" && shift ;;
esac
if [[ $# -eq 0 || "$1" == --* ]]; then
  echo "error: ${1:-nothing} is not a command to run: for example, launch/restart.sh .venv/bin/python main.py --workdir=runs/first" >&2
  exit 2
fi

stopping=''
interrupted=''
child=''
# shellcheck disable=SC2317  # The trap calls it.
hand_on() {
  stopping=1
  interrupted=1
  if [[ -n "$child" ]]; then kill -TERM "$child" 2>/dev/null; fi
}
trap hand_on TERM INT HUP

run() {
  "$@" &
  child=$!
  if [[ -n "$stopping" ]]; then kill -TERM "$child" 2>/dev/null; fi
  # A signal interrupts `wait`, but not the command, which is now saving.
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
  echo "It ended with status $status: restarting in 10 s." >&2
  sleep 10
done
if [[ -n "$status_file" ]]; then echo "$status" >"$status_file"; fi
exit "$status"
