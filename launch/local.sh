#!/usr/bin/env bash
# Trains on this machine.
#
#   launch/local.sh                                the quick start: two short
#                                                  runs and a page on both
#   launch/local.sh --config.num_train_steps=100   the same with other values
#   launch/local.sh --config=... --workdir=...     main.py with these arguments
#   launch/local.sh --helpshort                    the help of main.py
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

if [[ "${1:-}" == --help ]]; then
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  exit
fi
"$root/launch/setup.sh"

# Large arrays get large pages where Linux has them, of which fewer are cleared
# (docs/performance.md). Of two values the user's, the last, counts.
export GLIBC_TUNABLES="glibc.malloc.hugetlb=1${GLIBC_TUNABLES:+:$GLIBC_TUNABLES}"

main() {
  "$root/.venv/bin/python" "$root/main.py" "$@"
}

for argument in "$@"; do
  case "$argument" in
    --config | --config=* | --mode* | --workdir* | --help*)
      exec "$root/.venv/bin/python" "$root/main.py" "$@"
      ;;
  esac
done

runs="$root/runs/quickstart"
for objective in mse geometric; do
  echo "Training with the $objective objective in $runs/$objective ..."
  main --config="$root/configs/quickstart.py:$objective" \
    --workdir="$runs/$objective" "$@"
done
echo "Comparing the two on held-out images ..."
main --mode=compare --workdirs="$runs/mse,$runs/geometric" --workdir="$runs"
echo "The comparison: $runs/comparison.png"
echo "The page to look at it, in any browser: $runs/report.html"
