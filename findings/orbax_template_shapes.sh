#!/usr/bin/env bash
# Orbax 0.12.8 restores NumPy arrays of another shape than the template's,
# without an error.
#
# `StandardCheckpointer.restore(path, template)` refuses a template of another
# shape where the restored leaf is a jax.Array. Where it is a NumPy array, it
# returns the shape that was saved: for a template of NumPy arrays, and also for
# that of `jax.eval_shape`, if the arrays were in NumPy when they were saved (as
# `jax.device_get` leaves them). Which checkpoints are compared thus depends on
# the code that wrote them. The dtype is that of the template in all cases, so
# that weights lose their fractions in the place of integers. A network that has
# changed since may then run with the old arrays: a saved bias of one entry
# broadcasts over eight channels.
#
# Remedy: compare the shape and dtype of each leaf with the saved metadata.
#
# Seen with Python 3.11, JAX 0.10.2, orbax-checkpoint 0.12.8 on Linux x86-64,
# on a CPU. The script fails if the behaviour changes.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 orbax-checkpoint==0.12.8
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

checkpointer = ocp.StandardCheckpointer()
saved = {'jax.Array': jnp.full(1, 0.75), 'NumPy': np.full(1, 0.75, np.float32)}
templates = {
  'jax.Array': jnp.zeros(8),
  'eval_shape': jax.eval_shape(lambda: jnp.zeros(8)),
  'NumPy': np.zeros(8, np.float32),
  'NumPy, integers': np.zeros(8, np.int32),
}
found = {}
for source, bias in saved.items():
  path = f'{sys.argv[1]}/{source}'
  checkpointer.save(path, {'bias': bias})
  checkpointer.wait_until_finished()
  for name, template in templates.items():
    try:
      leaf = checkpointer.restore(path, {'bias': template})['bias']
      outcome = f'{leaf.dtype}{list(leaf.shape)} {leaf.tolist()}'
    except ValueError:
      outcome = 'ValueError'
    found[source, name] = outcome
    print(f'saved {source:10} [1], template {name:16} [8]: {outcome}')
expected = {
  ('jax.Array', 'jax.Array'): 'ValueError',
  ('jax.Array', 'eval_shape'): 'ValueError',
  ('jax.Array', 'NumPy'): 'float32[1] [0.75]',
  ('jax.Array', 'NumPy, integers'): 'int32[1] [0]',
  ('NumPy', 'jax.Array'): 'ValueError',
  ('NumPy', 'eval_shape'): 'float32[1] [0.75]',
  ('NumPy', 'NumPy'): 'float32[1] [0.75]',
  ('NumPy', 'NumPy, integers'): 'int32[1] [0]',
}
assert found == expected, found
PYTHON
