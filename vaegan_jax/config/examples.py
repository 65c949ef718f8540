"""Which examples make sense: where they are from, their sides and channels."""

import ml_collections

from vaegan_jax.config.rules import FROZEN
from vaegan_jax.config.shapes import (
  holds_arrays,
  shape_flag,
  spatial_shape,
)
from vaegan_jax.data import sources
from vaegan_jax.errors import UserError


def check_data(data: ml_collections.ConfigDict) -> None:
  """Checks the examples of a run.

  Args:
    data: the fields of `config.data`, valid by themselves.

  Raises:
    UserError: two of them contradict each other.
  """
  source = sources.find(data.name)
  if source.path == 'required' and not data.path.strip():
    raise UserError(
      f'data.path={data.path!r} must name a folder when data.name='
      f'{data.name!r}: for example, --config.data.path=/data/my_photos'
    )
  if data.path and source.path == 'unused':
    readers = ', '.join(map(repr, sources.with_path()))
    raise UserError(
      f'data.path={data.path!r} is only read when data.name is one of '
      f'{readers}, not {data.name!r}: set --config.data.name=image_folder'
    )
  if data.shape and source.holds_arrays is False:
    raise UserError(
      f'data.shape={data.shape} is of arrays, and data.name={data.name!r} of '
      'images, whose sides are data.image_size: for example, '
      '--config.data.image_size=64'
    )
  if data.feature and not source.has_features:
    raise UserError(
      f'data.feature={data.feature!r} is of the datasets of TFDS, and not of '
      f'data.name={data.name!r}: leave it out, or --config.data.feature='
    )
  _check_channels(data)
  if data.center_crop and holds_arrays(data):
    raise UserError(
      f'data.center_crop={data.center_crop} is of images, which are resized; '
      f'of data.name={data.name!r} {shape_flag(data)} is cut from the middle: '
      'for example, --config.data.center_crop=0'
    )
  num_axes = len(spatial_shape(data))
  if max(data.flip_axes, default=0) >= num_axes:
    raise UserError(
      f'data.flip_axes={data.flip_axes} must be axes of {shape_flag(data)}, '
      f'from 0 to {num_axes - 1}: for example, '
      '--config.data.flip_axes="(0,)"'
    )


def _check_channels(data: ml_collections.ConfigDict) -> None:
  bands = data.shown_bands
  if len(bands) not in (0, 1, 3) or max(bands, default=0) >= data.channels:
    raise UserError(
      f'data.shown_bands={bands} must be one or three of the '
      f'data.channels={data.channels} bands, from 0 on: for example, '
      '--config.data.shown_bands="(0,)"'
    )
  if data.channels > 4 and not holds_arrays(data):
    raise UserError(
      f'data.channels={data.channels} must be from 1 to 4, as data.name='
      f"{data.name!r} is of images; 'array_folder' takes any number: for "
      'example, --config.data.channels=3'
    )


def check_axes(config: ml_collections.ConfigDict) -> None:
  """Refuses, of sounds and volumes, what was made for two axes of space.

  Args:
    config: with fields that are valid by themselves.

  Raises:
    UserError: a network or a judge takes height and width alone.
  """
  num_axes = len(spatial_shape(config.data))
  if num_axes == 2:
    return
  flat = {
    'critic.network': ('plain', config.critic.network in FROZEN),
    'model.layout': ('own', config.model.layout == 'ldm'),
  }
  judges = ('evaluation.lpips_weights', 'evaluation.features_weights')
  for field in judges:
    value = config.evaluation[field.partition('.')[2]]
    flat[field] = ('', bool(value))
  for field, (instead, is_set) in flat.items():
    if is_set:
      section, _, name = field.partition('.')
      raise UserError(
        f'{field}={config[section][name]!r} is of two axes, height and width, '
        f'and {shape_flag(config.data)} has {num_axes}: '
        f'--config.{field}={instead}'
      )
