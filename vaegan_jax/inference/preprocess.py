"""Preprocessing of a finished model's images, as in its training.

Axes: B batch, S axes of space, C channels, H height, W width.
"""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from vaegan_jax.config.settings import settings
from vaegan_jax.config.shapes import example_shape, holds_arrays
from vaegan_jax.data import pixels
from vaegan_jax.errors import UserError


def preprocess(images: Any, data: ml_collections.FrozenConfigDict) -> jax.Array:
  """Prepares images; see `TrainedModel.preprocess`.

  `data` are the fields `config.data` of the model's run.
  """
  shape = example_shape(data)
  if not isinstance(images, (list, tuple)):
    images = images if np.ndim(images) == len(shape) + 1 else [images]
  # A batch is not iterated over: while it is traced, its size may be unknown.
  parts = images if isinstance(images, (list, tuple)) else [images]
  arrays = holds_arrays(data)
  _check_dtypes(parts, arrays)
  if any(isinstance(part, jax.core.Tracer) for part in parts):
    images = _join_traced(images, shape)
  elif getattr(images, 'shape', ())[1:] != shape:
    images = (_cut if arrays else _resize)(images, data, shape)
  return prepare(_mark_no_data(images, data) if arrays else images, data)


def prepare(images: Any, data: ml_collections.FrozenConfigDict) -> jax.Array:
  """Maps values [B, *S, C] to [-1, 1], and fills NaN, which means no data."""
  x = pixels.to_float(images, data.value_range, data.mid_side)
  return pixels.fill(x)[0] if data.max_nodata else x


def _check_dtypes(images, arrays: bool) -> None:
  """Refuses images that are not uint8, and arrays that are not real numbers."""
  kinds, rule = (
    (np.uint8,),
    'uint8 from 0 to 255, such as np.asarray(PIL.Image.open(path))',
  )
  if arrays:
    kinds = (jnp.floating, jnp.integer, jnp.bool_)
    rule = "real numbers in the data's own units, such as float32"
  for image in images:
    if not _holds_values(image):
      raise UserError(
        f'an image is {image!r:.60}; images must be arrays or Pillow images: '
        'give np.asarray(PIL.Image.open(path)) of a file'
      )
    dtype = getattr(image, 'dtype', None)  # Pillow's images have none.
    if dtype and not any(jnp.issubdtype(dtype, kind) for kind in kinds):
      raise UserError(f'images are {dtype}, and must be {rule}')


def _holds_values(image) -> bool:
  """Returns whether it is an array, a Pillow image or a list of numbers."""
  if hasattr(image, 'dtype'):
    return image.shape != ()
  # The class is asked, because a Pillow image would decode its file.
  return isinstance(image, (list, tuple)) or hasattr(
    type(image), '__array_interface__'
  )


def _join_traced(images, shape: tuple[int, ...]) -> jax.Array:
  """Returns a batch [B, *S, C] that JAX traces, which cannot be resized."""
  is_batch = not isinstance(images, (list, tuple))
  shapes = [images.shape[1:]] if is_batch else [np.shape(i) for i in images]
  for found in shapes:
    if found != shape:
      raise UserError(
        f'images have the shape {found} within jax.jit, and must have that of '
        f'the training there, {shape}: call model.preprocess outside of it, '
        'where it cuts and resizes'
      )
  return images if is_batch else jnp.stack(images)


def _cut(values, data, shape) -> np.ndarray:
  """Cuts the middles out of arrays."""
  from vaegan_jax.data import array_shapes  # With Pillow.

  return array_shapes.cut(values, data.channels, shape[:-1])


def _mark_no_data(images, data) -> Any:
  """Returns arrays [B, *S, C] with NaN for no data, if it is not too much."""
  from vaegan_jax.data import no_data
  from vaegan_jax.data.data_config import DataConfig
  from vaegan_jax.data.reading import NoData

  # NaN is an error also for runs that read files by earlier rules.
  reading = settings(DataConfig, data).reading._replace(rules=3)
  if isinstance(images, jax.core.Tracer):
    number = no_data.parse(reading.nodata, images.dtype)
    if number is None or not reading.masks:
      return images
    return jnp.where(images == number, jnp.nan, images.astype(jnp.float32))
  missing = no_data.find(np.asarray(images), '', reading)
  if missing is None:
    return images
  try:
    for example in missing:
      no_data.check(example, reading.max_nodata)
  except NoData as error:
    raise UserError(
      f'an array cannot be used, as {error}: cut out a part with more values, '
      'or use a model that was trained with --config.data.max_nodata=0.5'
    ) from error
  return no_data.mark(np.asarray(images), missing)


def _resize(images, data, shape) -> np.ndarray:
  """Converts images to the training's size and channels, by Pillow."""
  from PIL import Image  # Only where an image has another shape.

  from vaegan_jax.data import arrays, decode
  from vaegan_jax.data.data_config import DataConfig

  to_srgb = settings(DataConfig, data).converts_profiles

  def to_size(image):
    if isinstance(image, Image.Image):
      try:
        image = decode.upright(image)
      except ValueError as error:
        raise UserError(
          f'an image cannot be used, because its {error}: convert it, such as '
          "with image.convert('RGB')"
        ) from error
    else:
      image = np.asarray(image)
      image = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    whole = decode.to_size(
      image,
      channels=data.channels,
      image_size=tuple(side + data.random_crop_margin for side in shape[:-1]),
      center_crop=data.center_crop,
      to_srgb=to_srgb,
    )
    return arrays.middle(whole, shape[:-1])

  return np.stack([to_size(image) for image in images])
