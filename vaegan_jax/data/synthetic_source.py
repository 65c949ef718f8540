"""The base of sources whose examples are computed."""

from collections.abc import Callable

import numpy as np

from vaegan_jax.data import source


class SyntheticSource(source.Source):
  """A source that computes examples from their number.

  Attributes:
    name: of the data set.
    generate: returns the example of a number, always the same.
    sample_rate: samples per second of sounds; 0 otherwise.
    num_bytes: the size of the copy that TFDS stored, for the fingerprint; 0 for
      arrays, whose size is computed.
  """

  holds_arrays = True
  name: str
  generate: Callable[[int], np.ndarray]
  sample_rate = 0
  num_bytes = 0

  @classmethod
  def open(cls, data, *, fill_bucket=False):
    from vaegan_jax.data.synthetic import SyntheticDataset

    return SyntheticDataset(cls, data.local_dir)
