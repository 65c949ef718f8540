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
  tiler: Tiler,
  files: Pictures,
  settings: DataConfig,
  folder: str,
  facts: Mapping[str, Any],
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
  done = 0
  for part, (name, output) in enumerate(_outputs(files)):
    identity = f'{files.describe(part, part + 1)} {tiler.plan.tile}'
    if done == part and writer.keep(part, identity):
      done += 1
      continue
    whole = _read(files, name, settings)
    posterior = _encode(tiler, whole, f'Encoding {name}')
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


def decode_part(
  tiler: Tiler, part: Part, settings: DataConfig, folder: str
) -> None:
  """Decodes a part that `encode_files` has written, into a file of its form.

  Raises:
    UserError: the part is damaged, or of other tiles.
  """
  form = Form.from_json(part.tiles['form'])
  space, name = tuple(part.tiles['space']), part.tiles['output']
  latents = part.latents if tiler.plan.is_flat else part.latents[0]
  in_parts = is_large(form.shape, form.dtype)
  scratch = folder if in_parts else ''
  values = _decode(tiler, latents, space, f'Decoding {name}', scratch)
  missing = part.missing
  if missing is not None:
    missing = np.unpackbits(np.uint8(missing), count=values.size).astype(bool)
    missing = missing.reshape(values.shape)
  whole = Whole(values, form, missing)
  _write(whole, settings, epath.Path(folder) / name, in_parts)


def reconstruct_files(
  tiler: Tiler, files: Pictures, settings: DataConfig, folder: str
) -> None:
  """Writes `originals` and `reconstructions` of files, in their own formats.

  Raises:
    UserError: a file cannot be read.
  """
  for name, output in _outputs(files):
    whole = _read(files, name, settings)
    posterior = _encode(tiler, whole, f'Encoding {name}')
    space, form = whole.values.shape[:-1], whole.form
    in_parts = isinstance(whole.values, LargeArray)
    what, codes = f'Decoding {name}', codes_of(posterior)
    values = _decode(tiler, codes, space, what, folder if in_parts else '')
    made = Whole(values, form, whole.missing)
    root, limits = epath.Path(folder), settings.value_range
    limits = None if limits == 'dtype' else limits
    _write(whole, settings, root / 'originals' / output, in_parts, limits)
    _write(made, settings, root / 'reconstructions' / output, in_parts)


def _write(
  whole: Whole,
  settings: DataConfig,
  path: epath.Path,
  in_parts: bool,
  limits: tuple[float, float] | None = None,
) -> None:
  """Writes a file of its form, with values clipped to the limits, if any."""
  values, form = whole.values, whole.form
  if in_parts:
    write_large(values, form, settings, path, limits)
    return
  values = np.clip(values, *limits) if limits else values
  write_bytes(path, write_whole(values, form, settings, whole.missing))


def _read(files: Pictures, name: str, settings: DataConfig) -> Whole:
  """Opens a file, and reads its values unless they are too large."""
  functions = [functools.partial(read_whole, settings=settings)]
  if settings.holds_arrays:
    functions.append(functools.partial(open_large, settings=settings))
  return files.read(name, *functions)


def _encode(tiler: Tiler, whole: Whole, what: str):
  data = tiler.model.config.data
  prepare = functools.partial(
    pixels.to_float, value_range=data.value_range, mid_side=data.mid_side
  )
  return tiler.encode(whole.values, prepare=prepare, what=what)


def _decode(
  tiler: Tiler, latents, space, what: str, scratch: str = ''
) -> np.ndarray:
  if scratch:
    epath.Path(scratch).mkdir(parents=True, exist_ok=True)
  finish = tiler.model.to_values
  return tiler.decode(latents, space, finish=finish, what=what, scratch=scratch)


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
