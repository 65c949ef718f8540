"""Networks: plain Flax modules with typed fields, one architecture a file.

Owns the networks, how a configuration names them (`build.py`), and the reading
of pretrained weights. May import: `losses`, `names`, `errors`.
"""

from vaegan_jax.models.build import (
  create_autoencoder,
  create_modules,
  is_frozen,
  load_pretrained,
)

__all__ = [
  'create_autoencoder',
  'create_modules',
  'is_frozen',
  'load_pretrained',
]
