"""Encodes, decodes and reconstructs files of any size, in tiles, one by one.

Each is one part of a folder of latents. The manifest's entry of that part
has, under `tiles`, all that it takes to write the file's own format again.
"""

import collections
import dataclasses
import functools
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from etils import epath

from vaegan_jax.config.settings import settings
from vaegan_jax.data import pixels, sounds
from vaegan_jax.data.data_config import DataConfig
from vaegan_jax.data.pictures import Pictures, png_names
from vaegan_jax.inference.large_files import (
  LargeArray,
  is_large,
  open_large,
  write_large,
)
from vaegan_jax.inference.latent_files import LatentWriter, Part, to_arrays
from vaegan_jax.inference.latent_statistics import LatentStatistics, moments_of
from vaegan_jax.inference.posterior import Posterior
from vaegan_jax.inference.tiling import Tiler, codes_of
from vaegan_jax.inference.whole_files import (
  Form,
  Whole,
  read_whole,
  write_whole,
)
from vaegan_jax.runtime.files import write_bytes

_KEPT = ('.png', '.tif', '.tiff')  # Suffixes of images that are written.


def encode_files(
  tiler: Tiler, files: Pictures, folder: str, facts: Mapping[str, Any]
) -> LatentStatistics:
  """Encodes files into a folder, without those that are there already.

  `facts` are further entries of the manifest.

  Returns:
    The statistics of all latents.

  Raises:
    UserError: a file cannot be read, or the folder has latents of another
      model.
  """
  writer = LatentWriter(folder, tiler.model, facts, in_tiles=True)
  data, done = _data_of(tiler), 0
  for part, (name, output) in enumerate(_outputs(files)):
    identity = f'{files.describe(part, part + 1)} {tiler.plan.tile}'
    if done == part and writer.keep(part, identity):
      done += 1
      continue
    whole = _read(files, name, data)
    posterior = _encode(tiler, whole, name)
    arrays = to_arrays(posterior)
    if not tiler.plan.is_flat:
      arrays = {key: array[None] for key, array in arrays.items()}
    arrays['names'] = np.array([name])
    if whole.missing is not None:
      arrays['missing'] = np.packbits(whole.missing)
    tiles = {
      'tile': tiler.plan.tile,
      'space': whole.values.shape[:-1],
      'output': output,
      'form': dataclasses.asdict(whole.form),
    }
    moments = moments_of(posterior.latents, posterior.logvar)
    writer.write(part, identity, arrays, moments, tiles)
  return writer.finish()


def decode_part(tiler: Tiler, part: Part, folder: str) -> None:
  """Decodes a part that `encode_files` has written, into a file of its form.

  Raises:
    UserError: the part is damaged, or of other tiles.
  """
  form = Form.from_json(part.tiles['form'])
  space, name = tuple(part.tiles['space']), part.tiles['output']
  latents = part.latents if tiler.plan.is_flat else part.latents[0]
  in_parts = is_large(form.shape, form.dtype)
  values = _decode(tiler, latents, space, name, folder if in_parts else '')
  missing = part.missing
  if missing is not None:
    missing = np.unpackbits(np.uint8(missing), count=values.size).astype(bool)
    missing = missing.reshape(values.shape)
  whole = Whole(values, form, missing)
  _write(whole, _data_of(tiler), epath.Path(folder) / name, in_parts)


def reconstruct_files(tiler: Tiler, files: Pictures, folder: str) -> None:
  """Writes `originals` and `reconstructions` of files, in their own formats.

  Raises:
    UserError: a file cannot be read.
  """
  root, data = epath.Path(folder), _data_of(tiler)
  limits = None if data.value_range == 'dtype' else data.value_range
  for name, output in _outputs(files):
    whole = _read(files, name, data)
    space = whole.values.shape[:-1]
    codes = codes_of(_encode(tiler, whole, name))
    in_parts = isinstance(whole.values, LargeArray)
    values = _decode(tiler, codes, space, name, folder if in_parts else '')
    made = Whole(values, whole.form, whole.missing)
    _write(whole, data, root / 'originals' / output, in_parts, limits)
    _write(made, data, root / 'reconstructions' / output, in_parts)


def _data_of(tiler: Tiler) -> DataConfig:
  return settings(DataConfig, tiler.model.config.data)


def _write(whole: Whole, data: DataConfig, path, in_parts, limits=None) -> None:
  """Writes a file of its form, with values clipped to the limits, if any."""
  values, form = whole.values, whole.form
  if in_parts:
    write_large(values, form, data, path, limits)
    return
  values = np.clip(values, *limits) if limits else values
  write_bytes(path, write_whole(values, form, data, whole.missing))


def _read(files: Pictures, name: str, data: DataConfig) -> Whole:
  """Opens a file, and reads its values unless they are too large."""
  functions = [functools.partial(read_whole, settings=data)]
  if data.holds_arrays:
    functions.append(functools.partial(open_large, settings=data))
  return files.read(name, *functions)


def _encode(tiler: Tiler, whole: Whole, name: str) -> Posterior:
  data = tiler.model.config.data
  prepare = functools.partial(
    pixels.to_float, value_range=data.value_range, mid_side=data.mid_side
  )
  return tiler.encode(whole.values, prepare=prepare, what=f'Encoding {name}')


def _decode(
  tiler: Tiler, latents, space, name: str, scratch: str
) -> np.ndarray:
  if scratch:
    epath.Path(scratch).mkdir(parents=True, exist_ok=True)
  options = {'finish': tiler.model.to_values, 'what': f'Decoding {name}'}
  return tiler.decode(latents, space, scratch=scratch, **options)


def _outputs(files: Pictures) -> list[tuple[str, str]]:
  """Returns the name of each file, and that of what is written for it.

  Photographs that are no PNG or TIFF become PNGs, and lossy sounds WAVs; all
  others keep their names.
  """
  changed = png_names(files.names)
  is_kept = [
    files.holds_arrays or PurePosixPath(name).suffix.lower() in _KEPT
    for name in files.names
  ]
  outputs = [
    sounds.output_name(name) if kept else new
    for name, new, kept in zip(files.names, changed, is_kept, strict=True)
  ]
  used = collections.Counter(outputs)
  return [
    (name, output if used[output] == 1 else name + PurePosixPath(output).suffix)
    for name, output in zip(files.names, outputs, strict=True)
  ]
