"""Any data set of TensorFlow Datasets, by its TFDS name."""

from vaegan_jax.data import source


class Source(source.Source):
  """Images, or the arrays of one feature."""

  holds_arrays = None  # If `data.shape` is set.
  has_features = True

  @classmethod
  def open(cls, data, *, fill_bucket=False):
    from vaegan_jax.data import tfds_dataset

    return tfds_dataset.open_dataset(data, fill_bucket=fill_bucket)
