#!/usr/bin/env bash
# Creates .venv in the project and installs the missing packages.
#
#   launch/setup.sh                the packages for training
#   launch/setup.sh --tests        adds the packages for the tests
#   launch/setup.sh --jax=cuda13   adds JAX for a GPU (cuda12, cuda13) or a TPU
#                                  (tpu)
#
# PYTHON names the interpreter. The default is the newest suitable one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

help() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

fail() {
  echo "error: $*" >&2
  exit 2
}

suitable() {
  "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
    2>/dev/null
}

find_python() {
  if [[ -n "${PYTHON:-}" ]]; then
    suitable "$PYTHON" ||
      fail "PYTHON=$PYTHON is not Python 3.11, 3.12 or 3.13: use, for example, PYTHON=python3.12"
    echo "$PYTHON"
    return
  fi
  local candidate
  for candidate in python3.13 python3.12 python3.11 python3; do
    if suitable "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  fail "no Python 3.11, 3.12 or 3.13 was found: install one, or set PYTHON to its path, for example, PYTHON=/opt/python3.12/bin/python3"
}

make_environment() {
  local python
  python="$(find_python)"
  "$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$python has no venv module: install it, for example, with apt-get install python3-venv"
  echo "Creating .venv with $("$python" --version) ..." >&2
  "$python" -m venv --clear .venv
}

files=(requirements.txt)
extra=''
for argument in "$@"; do
  case "$argument" in
    --help) help && exit ;;
    --tests) files+=(tests/requirements.txt) ;;
    --jax=tpu | --jax=cuda12 | --jax=cuda13) extra="${argument#--jax=}" ;;
    --jax*) fail "$argument must be --jax=tpu, --jax=cuda12 or --jax=cuda13: for example, --jax=cuda13" ;;
    *) fail "$argument is not an option of launch/setup.sh: use --tests, --jax=cuda13 or nothing" ;;
  esac
done

# The stamp is written after a complete installation. An interrupted one
# therefore restarts from nothing, and changed requirements are installed.
if ! .venv/bin/python -c '' 2>/dev/null ||
  ! compgen -G '.venv/installed-*' >/dev/null; then
  make_environment
fi
stamp=".venv/installed-$(cat "${files[@]}" | cksum | tr ' ' '-')${extra:+-$extra}"
if [[ ! -e "$stamp" ]]; then
  echo "Installing ${files[*]} (the first time takes minutes) ..." >&2
  .venv/bin/python -m pip install --quiet --disable-pip-version-check \
    "${files[@]/#/--requirement=}" ${extra:+"jax[$extra]"} >&2
  touch "$stamp"
fi
