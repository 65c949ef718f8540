#!/usr/bin/env bash
# Trains on a Cloud TPU, one machine or a pod slice of many, through gcloud.
#
#   launch/tpu.sh VERB --name=NAME --zone=ZONE [options] [-- arguments of main.py]
#
#   create   creates the TPU: on demand, or with --spot, --queued or both
#   setup    copies the last commit to all machines and installs its packages
#   run      starts main.py on all machines and returns; the run continues
#   status   prints the state of the TPU and of the run on each machine
#   logs     follows the output of the first machine
#   stop     saves the run and ends it
#   delete   deletes the TPU
#
#   --name=NAME               name of the TPU
#   --zone=ZONE               its zone, such as us-west4-a
#   --project=PROJECT         project, if it is not gcloud's default
#   --accelerator_type=TYPE   for create: v5litepod-8, v4-32, v6e-16, ...
#   --version=VERSION         for create: a runtime other than the type's default
#   --spot                    for create: cheaper, but may be preempted
#   --queued                  a queued resource: pass it to every verb
#   --workdir=gs://...        for run: a bucket, because it must outlive the TPU
#   --watch                   for run: stays and recreates the TPU as needed
#   --dry_run                 prints the commands and runs none
#
# For example, one command that creates the TPU, trains to the end and recovers
# from preemptions:
#
#   launch/tpu.sh run --watch --spot --queued --name=faces --zone=us-west4-a \
#     --accelerator_type=v5litepod-16 --workdir=gs://bucket/runs/faces \
#     -- --config=configs/celeba.py
#
# The run is a systemd service, so a lost connection does not end it.
# launch/restart.sh restarts it after status 75 and, up to three times, after a
# failure. It resumes from its checkpoint.
#
# Only --watch recovers from a preempted TPU or a rebooted machine. It checks the
# state every minute, recreates a preempted TPU, sets it up with the same commit
# and starts the same run. Without it, call delete, create, setup and run again,
# with the same workdir.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

help() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

fail() {
  echo "error: $*" >&2
  exit 2
}

# Quotes the words for a shell.
quoted() {
  local word words='' LC_ALL=C apostrophe="'\\''"
  for word in "$@"; do
    case "$word" in
      '' | *[!A-Za-z0-9_./:=@%+,-]*) word="'${word//\'/$apostrophe}'" ;;
    esac
    words+="${words:+ }$word"
  done
  printf '%s' "$words"
}

call() {
  if [[ -n "$dry_run" ]]; then
    quoted "$@" && echo
  else
    "$@"
  fi
}

parse() {
  verb="${1:-}"
  name='' zone='' project='' accelerator_type='' version='' workdir=''
  spot='' queued='' watch='' dry_run=''
  arguments=()
  case "$verb" in
    create | setup | run | status | logs | stop | delete) shift ;;
    --help | help) help && exit ;;
    *) fail "'$verb' is not one of create, setup, run, status, logs, stop and delete: use, for example, launch/tpu.sh status --name=faces --zone=us-west4-a" ;;
  esac
  while [[ $# -gt 0 ]]; do
    case "$1" in
      --help) help && exit ;;
      --name=* | --zone=* | --project=* | --accelerator_type=* | --version=* | --workdir=*)
        printf -v "$(expr "$1" : '--\([a-z_]*\)=')" '%s' "${1#*=}"
        ;;
      --spot | --queued | --watch | --dry_run) printf -v "${1#--}" 1 ;;
      --) shift && arguments=("$@") && break ;;
      *) fail "$1 is not an option of launch/tpu.sh (see --help): options of main.py come after --, for example, -- --config=configs/celeba.py" ;;
    esac
    shift
  done
}

check() {
  [[ "$name" =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] ||
    fail "--name=$name must be lower-case letters, digits and hyphens: use, for example, --name=faces"
  [[ -n "$zone" ]] || fail "--zone is missing: add, for example, --zone=us-west4-a"
  if [[ "$verb" == create || -n "$watch" ]]; then
    [[ -n "$accelerator_type" ]] ||
      fail "--accelerator_type is missing: add, for example, --accelerator_type=v5litepod-8"
    case "${version:-$accelerator_type}" in
      "$version") ;;
      v6e-*) version=v2-alpha-tpuv6e ;;
      v5p-*) version=v2-alpha-tpuv5 ;;
      v5litepod-*) version=v2-alpha-tpuv5-lite ;;
      v[234]-*) version=tpu-ubuntu2204-base ;;
      *) fail "--accelerator_type=$accelerator_type has no default runtime here: add one, for example, --version=v2-alpha-tpuv6e" ;;
    esac
  fi
  if [[ "$verb" == run ]]; then
    [[ "$workdir" == gs://?*/?* ]] ||
      fail "--workdir=$workdir must be in a bucket, which all machines reach and which outlives the TPU: use, for example, --workdir=gs://bucket/runs/faces"
  elif [[ -n "$watch$workdir" || ${#arguments[@]} -gt 0 ]]; then
    fail "--watch, --workdir and arguments after -- are for run, not for $verb: use, for example, launch/tpu.sh run --name=faces --zone=us-west4-a --workdir=gs://bucket/runs/faces -- --config=configs/celeba.py"
  fi
  where=("--zone=$zone" ${project:+"--project=$project"})
}

tpu_vm() { call gcloud compute tpus tpu-vm "$@" "${where[@]}"; }

queued_resources() { call gcloud compute tpus queued-resources "$@" "${where[@]}"; }

on_all() { tpu_vm ssh "$name" --worker=all "--command=$1"; }

create() {
  if [[ -n "$queued" ]]; then
    queued_resources create "$name" "--node-id=$name" \
      "--accelerator-type=$accelerator_type" "--runtime-version=$version" \
      ${spot:+--spot}
  else
    tpu_vm create "$name" "--accelerator-type=$accelerator_type" \
      "--version=$version" ${spot:+--spot}
  fi
}

delete() {
  if [[ -n "$queued" ]]; then
    queued_resources delete "$name" --force "$@"
  else
    tpu_vm delete "$name" "$@"
  fi
}

pack() {
  archive="$root/build/$name.tar.gz"
  if [[ -z "$dry_run" && -n "$(git -C "$root" status --porcelain)" ]]; then
    echo "WARNING: uncommitted changes are not copied to the TPU (see git status)." >&2
  fi
  call mkdir -p "$root/build"
  call git -C "$root" archive --format=tar.gz "--output=$archive" HEAD
}

send() {
  tpu_vm scp "$archive" "$name:vaegan_jax.tar.gz" --worker=all
  on_all 'mkdir -p vaegan_jax && tar -xzf vaegan_jax.tar.gz -C vaegan_jax && vaegan_jax/launch/tpu_worker.sh install'
}

start() {
  on_all "vaegan_jax/launch/tpu_worker.sh start $(quoted "--workdir=$workdir" ${arguments[@]+"${arguments[@]}"})"
}

# Prints one word for each machine. A new machine does not have the script yet.
run_states() {
  on_all 'vaegan_jax/launch/tpu_worker.sh state || echo run: none'
}

tpu_state() {
  local state
  if [[ -n "$queued" ]]; then
    state="$(queued_resources describe "$name" '--format=value(state.state)')" ||
      return
    if [[ "$state" != ACTIVE ]]; then
      echo "$state"
      if [[ -z "$dry_run" ]]; then return; fi
    fi
  fi
  tpu_vm describe "$name" '--format=value(state)'
}

# A query or command that fails is repeated a minute later.
watch() {
  local state
  pack
  if [[ -n "$dry_run" ]]; then
    tpu_state && create && run_states && send && start
    return
  fi
  while true; do
    state="$(tpu_state 2>&1)" || true
    if [[ "$state" == *NOT_FOUND* ]]; then state=missing; fi
    case "${state##*$'\n'}" in
      missing)
        echo "Creating $name ..."
        create || true
        ;;
      PREEMPTED | TERMINATED | SUSPENDED)
        echo "$name was preempted: recreating it ..."
        delete --quiet || true
        ;;
      READY) if check_run; then return; fi ;;
      FAILED)
        echo "error: the queued resource $name failed: see its state with gcloud compute tpus queued-resources describe $name" >&2
        exit 1
        ;;
      *) echo "$name: $state" ;;
    esac
    sleep 60
  done
}

# Starts the run if it is not active. Succeeds when the run has finished.
check_run() {
  local states
  if ! states="$(run_states 2>&1)"; then
    echo "$states" >&2
  elif [[ "$states" == *'run: failed'* ]]; then
    echo "$states" >&2
    exit 1
  elif [[ "$states" == *'run: none'* ]]; then
    echo "Starting the run ..."
    { send && start; } || true
  elif [[ "$states" != *'run: active'* && "$states" == *'run: finished'* ]]; then
    echo "The run has finished: $workdir"
    return
  fi
  return 1
}

parse "$@"
check
case "$verb" in
  create) create ;;
  setup) pack && send ;;
  run) if [[ -n "$watch" ]]; then watch; else start; fi ;;
  status) tpu_state && run_states ;;
  logs) tpu_vm ssh "$name" --worker=0 '--command=vaegan_jax/launch/tpu_worker.sh logs' ;;
  stop) on_all 'vaegan_jax/launch/tpu_worker.sh stop' ;;
  delete) delete ;;
esac
