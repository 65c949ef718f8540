"""Whether the images of a run are those that it began with.

Owns what becomes of a run whose folder has changed: it keeps the rules by which
the folder was read, goes on with more images where that is asked for, and its
scores say so. What else may not change is `runtime/checkpoints.py`'s.
"""

from typing import Any

import ml_collections

from vaegan_jax.config.migrations import upgrade
from vaegan_jax.config.shapes import example_shape
from vaegan_jax.data.data_config import DataConfig
from vaegan_jax.data.split import load_splits
from vaegan_jax.errors import UserError
from vaegan_jax.runtime import distributed
from vaegan_jax.runtime.checkpoint_metadata import read_identity
from vaegan_jax.setup.value_range import with_range

# Fields of `config.data` by which a folder has the same training images.
_SAME = ('name', 'train_split', 'center_crop', 'random_crop_margin')


def keep_rules(
  config: ml_collections.ConfigDict, workdir: str
) -> ml_collections.ConfigDict:
  """The configuration with the rules of the data that a run began with.

  By other `data.folder_rules` its training images would be held out, so that
  they are no choice of the command line, nor is a `data.value_range` that it
  has found. All processes must call this at the same time.

  Args:
    config: that is asked for.
    workdir: of the run, which need not have begun.

  Returns:
    A copy, or the same if nothing differs.
  """
  recorded = distributed.from_first(lambda: _read(workdir))
  began = recorded['config'].get('data', {}) if recorded else {}
  config = _keep_range(config, began.get('value_range'))
  rules = began.get('folder_rules')
  if rules in (None, config.data.folder_rules):
    return config
  if config.data.path:
    print(
      f'{workdir} began with data.folder_rules={rules}, and keeps it and its '
      'held-out images.',
      flush=True,
    )
  config = config.copy_and_resolve_references()
  config.data.folder_rules = rules
  return config


def _keep_range(config, began) -> ml_collections.ConfigDict:
  """With the range that a run has found, unless another one is asked for."""
  if isinstance(began, list) and isinstance(config.data.value_range, str):
    return with_range(config, tuple(began))
  return config


def may_have_grown(
  config: ml_collections.ConfigDict, workdir: str, data: dict[str, Any]
) -> bool:
  """Whether a run may go on with a folder that has more images than it had.

  Args:
    config: of the run.
    workdir: of the run.
    data: what identifies its training images now: 'num_images', 'fingerprint'.

  Returns:
    True if it has, and `data.allow_growth` is set, which is told; False if they
    are the same, or fewer: restoring tells that.

  Raises:
    UserError: it has, and that is not set.
  """
  recorded = distributed.from_first(lambda: _read(workdir))
  if not (recorded and config.data.path):
    return False
  was, now = recorded['data']['num_images'], data['num_images']
  began = recorded['config']['data']
  if example_shape(began) != example_shape(config.data) or any(
    began[name] != config.data[name] for name in _SAME
  ):
    return False
  # As many: those that were added are held out.
  if now < was or recorded['data'] == data:
    return False
  found = (
    f'data.path is {config.data.path!r}, which has {now:,} images to train '
    f'with and had {was:,}, not all the same, at step {recorded["step"]:,} of '
    f'the run in {workdir}'
  )
  if not config.data.allow_growth:
    raise UserError(
      f'{found}: if images were only added, --config.data.allow_growth=true '
      'goes on with them, in another order from here; or else restore the '
      'folder or use a new --workdir'
    )
  moved = ''
  if config.data.folder_rules == 1:
    moved = (
      '; what is held out now may have been trained on, because '
      'data.folder_rules is 1'
    )
  print(
    f'{found}: {now - was:,} are new, and the order of all is another from '
    f'here{moved}.',
    flush=True,
  )
  return True


def describe_change(
  config: ml_collections.ConfigDict, workdir: str, step: int
) -> str:
  """Says in a sentence if a run's images are not those that it was trained on.

  Args:
    config: of the run; its data may be other images.
    workdir: of the run.
    step: of the checkpoint that is looked at.

  Returns:
    The sentence; '' if they are the same.

  Raises:
    UserError: the images cannot be read.
  """
  recorded = _read(workdir, step)
  if recorded is None:  # It was there a moment ago; a trainer may prune it.
    return ''
  trained, now = recorded['config']['data'], config.data
  if _without_version(trained['name']) != _without_version(now.name):
    return f'the run was trained on other data, {trained["name"]}'
  # The training images then, as they would be now.
  fields = trained | {
    'name': now.name,
    'path': now.path,
    'data_dir': now.data_dir,
    'cache_images': False,
  }
  (images,) = load_splits(DataConfig(**fields), ['train_split'])
  was = recorded['data']
  if was['fingerprint'] == images.fingerprint:
    return ''
  sentence = (
    'the images are not those that the run was trained on, '
    f'{was["num_images"]:,} then and {len(images):,} now'
  )
  if now.name not in ('image_folder', 'array_folder'):
    return sentence
  if now.folder_rules == 1:
    return (
      f'{sentence}: what is held out may have been trained on, because '
      'data.folder_rules is 1'
    )
  return (
    f'{sentence}: those that were added have moved none of the others from one '
    'side to the other'
  )


def _without_version(name: str) -> str:
  return name.partition(':')[0]


def _read(workdir: str, step: int | None = None) -> dict[str, Any] | None:
  """What a checkpoint is of, in the fields of today."""
  recorded = read_identity(workdir, step)
  return recorded and recorded | {'config': upgrade(recorded['config'])}
