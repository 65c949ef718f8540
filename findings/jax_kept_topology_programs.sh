#!/usr/bin/env bash
# JAX 0.10.2 keeps programs for a topology in its compilation cache, and cannot
# read them back: it warns and compiles them again, each time.
#
# `jax.experimental.topologies` compiles for a TPU on a machine without one, to
# see what fits or to prepare programs. With `jax_compilation_cache_dir` set, the
# first process writes the program. The second finds it, and the compiler that
# is there for a topology alone cannot load it. So such a cache costs its disk
# and a warning, and saves nothing of compilations that take minutes.
#
# Remedy: JAX_ENABLE_COMPILATION_CACHE=false for these processes, and
# jax.experimental.serialize_executable for programs that are to be kept.
#
# Seen with Python 3.11, jax and jaxlib 0.10.2, libtpu 0.0.42.1 on Linux x86-64.
# The script needs no TPU, and fails if the behaviour changes.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  jax==0.10.2 jaxlib==0.10.2 libtpu==0.0.42.1
cat > "$folder/compile.py" <<'PYTHON'
import sys
import warnings

import jax
import jax.numpy as jnp
from jax.experimental import topologies

events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
device = topologies.get_topology_desc('v5e:2x2', 'tpu').devices[0]
sharding = jax.sharding.SingleDeviceSharding(device)
x = jax.ShapeDtypeStruct((256, 256), jnp.float32, sharding=sharding)
with warnings.catch_warnings(record=True) as caught:
  warnings.simplefilter('always')
  jax.jit(lambda x: jnp.tanh(x @ x)).lower(x).compile()
told = [str(w.message) for w in caught if 'compilation cache' in str(w.message)]
hits = events.count('/jax/compilation_cache/cache_hits')
print(f'{sys.argv[1]} process: {hits} hits, warnings: {told}')
assert hits == 0, hits
assert bool(told) == (sys.argv[1] == 'second'), told
PYTHON
export JAX_PLATFORMS=cpu JAX_COMPILATION_CACHE_DIR="$folder/cache"
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0
export ALLOW_MULTIPLE_LIBTPU_LOAD=true TPU_SKIP_MDS_QUERY=true
export TPU_ACCELERATOR_TYPE=v5litepod-4 TPU_WORKER_HOSTNAMES=localhost
"$folder/venv/bin/python" "$folder/compile.py" first 2> /dev/null
ls "$folder/cache" | grep --quiet 'jit__lambda'
"$folder/venv/bin/python" "$folder/compile.py" second 2> /dev/null
