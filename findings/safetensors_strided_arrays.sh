#!/usr/bin/env bash
# safetensors 0.8.0 saves NumPy arrays that are not C-contiguous with scrambled
# values, and raises no error.
#
# `safetensors.numpy.save` takes the bytes of an array in the order of its
# memory and the shape of the view. A transposed kernel, a slice with a step
# and a Fortran-ordered array come back with the same shape, dtype and set of
# numbers in another order. Whoever converts weights between PyTorch (out, in)
# and Flax (in, out) transposes every kernel on the way, so each is wrong.
#
# Remedy: np.ascontiguousarray(array) before saving.
#
# Seen with Python 3.11, NumPy 2.4.6, safetensors 0.8.0 on Linux x86-64. The
# script fails if the behaviour changes.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  numpy==2.4.6 safetensors==0.8.0
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from safetensors.numpy import load, save

kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
views = {
  'transposed': kernel.T,
  'strided': np.arange(8, dtype=np.float32)[::2],
  'fortran': np.asfortranarray(kernel),
  'contiguous': np.ascontiguousarray(kernel.T),
}
loaded = load(save(views))
for name, view in views.items():
  print(f'{name:11} saved {view.tolist()}\n{"":11} read  {loaded[name].tolist()}')
equal = {name: np.array_equal(loaded[name], view) for name, view in views.items()}
expected = {'transposed': False, 'strided': False, 'fortran': False, 'contiguous': True}
assert equal == expected, equal
PYTHON
