"""Checks of the examples: their source, shape and channels.

Each function yields conflicts, as `rules.conflict` takes them.
"""

import ml_collections

from vaegan_jax.config.rules import Conflicts
from vaegan_jax.config.shapes import holds_arrays, shape_flag, spatial_shape
from vaegan_jax.data import sources
from vaegan_jax.names import PRETRAINED_CRITICS


def check_data(config: ml_collections.ConfigDict) -> Conflicts:
  """Yields the conflicts between fields of `config.data`."""
  yield from _check_source(config.data)
  yield from _check_channels(config.data)
  data, num_axes = config.data, len(spatial_shape(config.data))
  if data.center_crop and holds_arrays(data):
    yield (
      'data.center_crop',
      'is for images, which are resized; the arrays of data.name='
      f'{data.name!r} are cropped from the center to {shape_flag(data)}',
    )
  yield from _check_readers(data)
  yield from _check_crop(data)
  yield from _check_axes(data, num_axes)
  yield from _check_conversion(data, num_axes)


def _check_source(data):
  source = sources.find(data.name)
  if source.path == 'required' and not data.path.strip():
    yield (
      'data.path',
      f'must name {source.path_is} when data.name={data.name!r}',
      'data.path=/data/my_photos',
    )
  if data.path and source.path == 'unused':
    readers = ', '.join(map(repr, sources.with_path()))
    yield (
      'data.path',
      f'is only read when data.name is one of {readers}, not {data.name!r}',
      'data.name=image_folder',
    )
  if data.shape and source.holds_arrays is False:
    yield (
      'data.shape',
      f'is for arrays; images, as of data.name={data.name!r}, have '
      'data.image_size',
      'data.shape="()"',
      'data.image_size=64',
    )


def _check_readers(data):
  """Yields fields that the source does not read, or not by its rules."""
  source = sources.find(data.name)
  arrays = holds_arrays(data), 'arrays', 3 if source.has_rules else 0
  several = 'datasets of TFDS, and files with several arrays'
  for field, is_read, reads, least in (
    ('group_by', source.has_groups, 'folders of files', 3),
    *((field, *arrays) for field in ('axes', 'nodata', 'max_nodata')),
    ('example_axis', data.name == 'array_file', "data.name='array_file'", 0),
    ('feature', source.has_features, several, 0),
  ):
    if data[field] and not is_read:
      yield f'data.{field}', f'is for {reads}, not for data.name={data.name!r}'
    elif data[field]:
      yield from _needs_rules(data, field, least)


def _needs_rules(data, field, least):
  if data.folder_rules < least:
    yield (
      f'data.{field}',
      f'needs data.folder_rules={least}, which is {data.folder_rules}',
      f'data.folder_rules={least}',
    )


def _check_crop(data):
  if data.crop == 'center':
    return
  if not (holds_arrays(data) and sources.find(data.name).has_crops):
    yield (
      'data.crop',
      'is for arrays and sounds in files of their own or in archives and '
      f'tables, not for data.name={data.name!r}'
      + (', which has tiles' if data.name == 'scenes' else ''),
    )
  if data.random_crop_margin:
    yield (
      'data.random_crop_margin',
      "must be 0 with data.crop='random', which takes any place already",
    )
  yield from _needs_rules(data, 'crop', 3)


def _check_axes(data, num_axes):
  if data.axes and len(data.axes.replace('C', '')) != num_axes:
    axes = 'TZYX'[-num_axes:]
    yield (
      'data.axes',
      f'must have {num_axes} axes of space, as {shape_flag(data)} has, and may '
      "have 'C'",
      f'data.axes=C{axes}',
    )
  if max(data.flip_axes, default=0) >= num_axes:
    yield (
      'data.flip_axes',
      f'must be axes of {shape_flag(data)}, from 0 to {num_axes - 1}',
      'data.flip_axes="(0,)"',
    )


def _check_conversion(data, num_axes):
  if data.mid_side and (num_axes, data.channels) != (1, 2):
    yield (
      'data.mid_side',
      f'is for stereo sounds, not for data.channels={data.channels} with '
      f'{shape_flag(data)}',
    )
  if data.mid_side and data.max_nodata:
    yield (
      'data.mid_side',
      'mixes channels, of which data.max_nodata masks each by itself',
      'data.max_nodata=0',
    )
  is_read = num_axes == 1 and sources.find(data.name).has_conversion
  for field in ('resample', 'mix_channels'):
    if data[field] and not is_read:
      yield (
        f'data.{field}',
        "is for sounds of data.name='array_folder' with one axis, not for "
        f'data.name={data.name!r} with {shape_flag(data)}',
      )
    elif data[field]:
      yield from _needs_rules(data, field, 4)


def _check_channels(data):
  bands = data.shown_bands
  if len(bands) not in (0, 1, 3) or max(bands, default=0) >= data.channels:
    yield (
      'data.shown_bands',
      'must be one or three channels, from 0 to '
      f'{data.channels - 1} for data.channels={data.channels}',
      'data.shown_bands="(0,)"',
    )
  if data.channels > 4 and not holds_arrays(data):
    yield (
      'data.channels',
      f'must be from 1 to 4 for images, as of data.name={data.name!r}; '
      "'array_folder' takes any number",
    )


def check_axes(config: ml_collections.ConfigDict) -> Conflicts:
  """Yields conflicts of sounds and volumes with options for two axes."""
  num_axes, layout = len(spatial_shape(config.data)), config.model.layout
  if layout == 'oobleck' and num_axes > 1:
    yield (
      'model.layout',
      f'is for sounds, which have one axis, not for {shape_flag(config.data)}',
    )
  if num_axes == 2:
    return
  evaluation = config.evaluation
  for name, needs_two in (
    ('critic.network', config.critic.network in PRETRAINED_CRITICS),
    ('model.layout', layout in ('ldm', 'tiny')),
    ('evaluation.lpips_weights', evaluation.lpips_weights),
    ('evaluation.features_weights', evaluation.features_weights),
  ):
    if needs_two:
      yield (
        name,
        f'needs two axes, height and width, and {shape_flag(config.data)} has '
        f'{num_axes}',
      )
