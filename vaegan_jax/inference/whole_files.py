"""Files of any size: read whole, and written back in their own format.

A file's `Form` is what its values need to become such a file again; the
manifest of a folder of latents keeps it. Axes: S axes of space, C channels.
"""

import contextlib
import dataclasses
import io
import re
import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from vaegan_jax.data import arrays, decode, no_data, pixels, sounds, tiff_files
from vaegan_jax.data.data_config import DataConfig
from vaegan_jax.errors import UserError
from vaegan_jax.inference import nifti_files

# Tags of a TIFF that are kept. Of GeoTIFF: scale, tie points, transformation,
# keys and their values. Of GDAL: metadata and the value of no data.
_KEPT_TAGS = (33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113)
_GDAL_METADATA = 42112
_STATISTICS = re.compile(r'\s*<Item name="STATISTICS_.*?</Item>')
_PHOTOMETRIC = ('minisblack', 'miniswhite', 'rgb')


@dataclasses.dataclass(frozen=True)
class Form:
  """The format of a file, and how its values are arranged there."""

  kind: str  # A key of `_WRITERS`.
  shape: tuple[int, ...]
  dtype: str  # 64 bits become float32.
  axes: str = ''  # Letters, as `data.axes`; '' if unknown.
  nodata: float | None = None  # Value that means "no data", if any.
  # Facts of its kind: a name (npz), tags (tiff), a sample rate (sound), a
  # header (nifti).
  facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @classmethod
  def from_json(cls, fields: Mapping[str, Any]) -> 'Form':
    """Undoes `dataclasses.asdict` and JSON.

    Raises:
      UserError: it is damaged.
    """
    try:
      form = cls(**fields)
      shape = tuple(map(int, form.shape))
      if np.dtype(form.dtype).kind not in 'uif' or form.kind not in _WRITERS:
        raise ValueError(f'{form.kind} of {form.dtype}')
      return dataclasses.replace(form, shape=shape)
    except (TypeError, ValueError) as error:
      raise UserError(
        f'manifest.json has a damaged format of a file ({error}): encode the '
        'files again'
      ) from error


@dataclasses.dataclass(frozen=True)
class Whole:
  """The values of a file."""

  values: np.ndarray  # [*S, C], in the units and the dtype of the file.
  form: Form
  # bool, [*S, C], which values mean "no data"; None if none do. They are filled
  # as in training then, and all values are float32.
  missing: np.ndarray | None = None


def read_whole(data: bytes, settings: DataConfig) -> Whole:
  """Reads a file as training does, but neither crops nor resizes it.

  Raises:
    Exception: whatever the libraries raise for a damaged file.
    ValueError: it has other axes, channels or another sample rate.
  """
  if settings.holds_arrays:
    return _read_array(data, settings)
  image = decode.read_image(data, rules=settings.folder_rules)
  values = decode.to_size(
    image,
    channels=settings.channels,
    image_size=(image.height, image.width),
    to_srgb=settings.converts_profiles,
  )
  if data.startswith(tiff_files.SIGNATURES):
    axes, facts = 'YXC', read_tags(io.BytesIO(data))
    facts['photometric'] = _PHOTOMETRIC[2 * (settings.channels > 2)]
    form = Form('tiff', values.shape, 'uint8', axes, facts=facts)
  else:
    form = Form('png', values.shape, 'uint8')
  return Whole(values, form)


def _read_array(data: bytes, settings: DataConfig) -> Whole:
  """Reads an array, and fills its missing values."""
  if nifti_files.is_nifti(data):
    array, facts = nifti_files.read_nifti(data)
    stored = arrays.to_stored(array, '', '', settings.reading)
    kind = {'kind': 'nifti', 'facts': facts}
  else:
    stored, kind = arrays.read_stored(data, settings.reading), _read_kind(data)
  arrays.check_sample_rate(stored.sample_rate, settings.sample_rate)
  arrays.check_finite(stored.values)
  if stored.was:  # It is written as the model takes it.
    kind['facts']['sample_rate'] = stored.sample_rate
  fields = {'shape': stored.values.shape, 'dtype': stored.values.dtype.name}
  form = Form(**kind, **fields, axes=stored.axes)
  values = whole_example(stored.values, form, settings)
  if stored.missing is None:
    return Whole(values, form)
  missing = whole_example(stored.missing, form, settings)
  # All of it at once, so that tiles agree where they overlap.
  filled, _ = pixels.fill(no_data.mark(values, missing)[None])
  form = dataclasses.replace(form, nodata=float(stored.nodata))
  return Whole(np.asarray(filled[0]), form, missing)


def whole_example(array: np.ndarray, form: Form, settings: DataConfig):
  """Returns the view [*S, C] of an array as it is in the file."""
  num_axes = len(settings.spatial_shape)
  return arrays.channels_last(array, settings.channels, num_axes, form.axes)


def write_whole(
  values: np.ndarray,
  form: Form,
  settings: DataConfig,
  missing: np.ndarray | None = None,
) -> bytes:
  """Returns the content of a file of that form.

  Args:
    values: [*S, C] float, in the units of the file; rounded and clipped if it
      has whole numbers.
    missing: from `read_whole`; such values become "no data" again.

  Raises:
    UserError: the values are of another shape than the form's.
  """
  dtype = np.dtype(form.dtype)
  check_form(form, values.shape, settings)
  array = np.empty(form.shape, dtype)
  target = whole_example(array, form, settings)
  target[...] = to_dtype(values, dtype)
  if missing is not None and form.nodata is not None:
    target[missing] = no_data.parse(str(form.nodata), dtype)
  content = io.BytesIO()
  try:
    _WRITERS[form.kind](content, array, form)
    return content.getvalue()
  except (LookupError, TypeError, ValueError) as error:
    raise UserError(
      f'the output cannot be written as {form.kind} ({error!r}): encode the '
      'files again'
    ) from error


def check_form(
  form: Form, shape: tuple[int, ...], settings: DataConfig
) -> None:
  """Checks that values of a shape [*S, C] make a file of that form.

  Raises:
    UserError: they do not; a manifest may claim any shape.
  """
  array, found = np.broadcast_to(np.uint8(0), form.shape), None
  with contextlib.suppress(ValueError):
    found = whole_example(array, form, settings).shape
  if found != tuple(shape):
    raise UserError(
      f'the output has the shape {shape}, and the file that it is to be '
      f'written as {form.shape}: encode it again'
    )


def to_dtype(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
  """Rounds and clips values for a dtype of whole numbers."""
  if dtype.kind not in 'iu':
    return values
  limits = np.iinfo(dtype)
  # Rounded to float32, the largest number may exceed the dtype.
  return np.clip(np.rint(values.astype(np.float64)), limits.min, limits.max)


def _read_kind(data: bytes) -> dict[str, Any]:
  if data.startswith(b'\x93NUMPY'):
    return {'kind': 'npy'}
  if data.startswith(b'PK\x03\x04'):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
      (name,) = archive.namelist()
    facts = {'name': name.removesuffix('.npy')}
    return {'kind': 'npz', 'facts': facts}
  if data.startswith(tiff_files.SIGNATURES):
    return {'kind': 'tiff', 'facts': read_tags(io.BytesIO(data))}
  if data.startswith(b'\x89PNG'):
    return {'kind': 'png'}
  return {'kind': 'sound', 'facts': sounds.read_format(io.BytesIO(data))}


def read_tags(file: str | BinaryIO) -> dict[str, Any]:
  """Reads what is kept of the first page of a TIFF, by its path or opened."""
  import tifffile  # Optional, and slow to import.

  with tifffile.TiffFile(file) as opened:
    page = opened.pages[0]
    tags = []
    for code in _KEPT_TAGS:
      if (tag := page.tags.get(code)) is None:
        continue
      value = tag.value
      if code == _GDAL_METADATA:  # Other values have other statistics.
        value = _STATISTICS.sub('', str(value))
      if isinstance(value, bytes):
        continue
      count = 0 if isinstance(value, str) else tag.count
      tags.append([code, int(tag.dtype), count, value])
    facts = {'tags': tags, 'bigtiff': opened.is_bigtiff}
    kind = page.photometric.name.lower().replace('palette', 'rgb')
    facts['photometric'] = kind if kind in _PHOTOMETRIC else _PHOTOMETRIC[0]
    sizes = [page.tags.get(name) for name in ('XResolution', 'YResolution')]
    if all(sizes):
      facts['resolution'] = [tag.value[0] / tag.value[1] for tag in sizes]
      facts['resolutionunit'] = int(page.resolutionunit)
  return facts


def tiff_options(form: Form) -> dict[str, Any]:
  """Returns the arguments for `tifffile` to write a file of that form."""
  facts = dict(form.facts)
  tags = [
    (*tag, tuple(value) if isinstance(value, list) else value, True)
    for *tag, value in facts.pop('tags')  # JSON has lists.
  ]
  samples = form.shape[-1] if form.axes[-1:] == 'C' else 1
  if samples < 3:
    facts['photometric'] = facts['photometric'].replace('rgb', _PHOTOMETRIC[0])
  return facts | {
    'planarconfig': 'contig' if samples > 1 else None,
    'metadata': {'axes': form.axes} if form.axes else None,
    'extratags': tags,
  }


def _write_tiff(file: BinaryIO, array: np.ndarray, form: Form) -> None:
  import tifffile

  tifffile.imwrite(file, array, **tiff_options(form))


def _write_png(file: BinaryIO, array: np.ndarray, _) -> None:
  is_grey = array.ndim == 3 and array.shape[-1] == 1
  Image.fromarray(array[..., 0] if is_grey else array).save(file, format='PNG')


# (file, array, form) -> None.
_WRITERS = {
  'npy': lambda file, array, _: file.write(arrays.encode_npy(array)),
  'npz': lambda file, array, form: np.savez_compressed(
    file, **{form.facts['name']: array}
  ),
  'tiff': _write_tiff,
  'png': _write_png,
  'sound': lambda file, array, form: file.write(
    sounds.encode_as(array, **form.facts)
  ),
  'nifti': lambda file, array, form: file.write(
    nifti_files.encode_nifti(array, form.facts)
  ),
}
