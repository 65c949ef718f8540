"""The range of a run's values, which is a field of it from its beginning on.

`data.value_range` may ask for what only the data knows. What is found stands in
its place, in `config.json`, in checkpoints and in exports, so that nothing that
opens the run needs the data for it.
"""

import ml_collections

from vaegan_jax.config.shapes import holds_arrays
from vaegan_jax.data.split import Images
from vaegan_jax.data.values import find_range


def settle_range(
  config: ml_collections.ConfigDict, images: Images
) -> ml_collections.ConfigDict:
  """Finds the range of the values of the training split, and tells it.

  Args:
    config: of the run.
    images: that it is trained on.

  Returns:
    A copy with the pair that `data.value_range` means, or the same where there
    is nothing to find.

  Raises:
    UserError: the field does not suit the values.
  """
  given = config.data.value_range
  if given == 'dtype' and not holds_arrays(config.data):
    return config  # Photographs, whose values are 0 to 255.
  found, told = find_range(given, images)
  print(told, flush=True)
  return with_range(config, found)


def with_range(
  config: ml_collections.ConfigDict, value_range: str | tuple[float, float]
) -> ml_collections.ConfigDict:
  """A copy with a `data.value_range`, or the same if it has that."""
  if config.data.value_range == value_range:
    return config
  config = config.copy_and_resolve_references()
  with config.ignore_type():
    config.data.value_range = value_range
  return config
