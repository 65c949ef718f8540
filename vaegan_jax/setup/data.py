"""Opens a run's training and held-out examples, and settles their range.

`data.value_range` may depend on the data. The pair that is found replaces it in
`config.json`, checkpoints and exports, so that opening the run later needs no
data.
"""

import functools

import ml_collections

from vaegan_jax.config.settings import settings, with_data
from vaegan_jax.config.shapes import holds_arrays
from vaegan_jax.data.data_config import DataConfig
from vaegan_jax.data.split import Images, load_splits
from vaegan_jax.data.values import find_range
from vaegan_jax.runtime import distributed

_SPLITS = ('train_split', 'eval_split')


def load_data(
  config: ml_collections.ConfigDict,
) -> tuple[ml_collections.ConfigDict, Images, Images]:
  """Opens both splits; all processes must call this at the same time.

  Returns:
    The configuration with the range of the values settled, the training
    examples and the held-out ones.

  Raises:
    UserError: the data cannot be read, or differs between processes.
  """
  with distributed.together(), distributed.after_first():
    splits = load_splits(
      settings(DataConfig, config.data),
      _SPLITS,
      fill_bucket=distributed.is_first(),
      report=functools.partial(print, flush=True),
    )
  distributed.check_same(
    {
      f'data.{field}': f'{len(images)} examples ({images.fingerprint})'
      for field, images in zip(_SPLITS, splits, strict=True)
    },
    'give all the same examples, such as --config.data.path=/shared/cats',
  )
  return settle_range(config, splits[0]), *splits


def settle_range(
  config: ml_collections.ConfigDict, images: Images
) -> ml_collections.ConfigDict:
  """Finds and prints the pair that `data.value_range` resolves to.

  Returns:
    A copy with it; for photographs, whose values are 0 to 255, `config` itself.

  Raises:
    UserError: the field does not suit the values.
  """
  given = config.data.value_range
  if given == 'dtype' and not holds_arrays(config.data):
    return config
  found, message = find_range(given, images, config.data.clip)
  print(message, flush=True)
  return with_data(config, value_range=found)
