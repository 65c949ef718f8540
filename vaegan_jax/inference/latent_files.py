"""A folder of latents: `.npy` files in parts, and a manifest.

A part holds some thousand images: `mean-00000.npy` and `logvar-00000.npy`
(Gaussian), `indices-00000.npy` (codes) or `latents-00000.npy` (neither), and
`names-00000.npy` if the images have names. `manifest.json` is written with
every part, so that an interrupted command can continue.

A file that was encoded in tiles is a part of its own, of any size. Its entry
has `tiles`, what decoding needs: their shape, that of the input, and the format
of the file. `missing-00000.npy` marks its missing values, a bit each.
"""

import io
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from vaegan_jax.errors import UserError
from vaegan_jax.inference.latent_statistics import LatentStatistics, summarize
from vaegan_jax.inference.model import TrainedModel
from vaegan_jax.inference.posterior import Posterior
from vaegan_jax.runtime.files import replacing, write_json

MANIFEST = 'manifest.json'
_FORMAT = 1
_TILED_FORMAT = 2  # Earlier versions cannot decode it.
_DECODED = ('mean', 'indices', 'latents')  # `decode` takes the first there is.


class Part(NamedTuple):
  """Some of the latents of a folder."""

  latents: np.ndarray  # Or indices, [N, ...].
  names: list[str] | None = None  # Names of their images, if any.
  # Facts for decoding a file that was encoded in tiles.
  tiles: Mapping[str, Any] | None = None
  missing: np.ndarray | None = None  # [n] uint8, a bit for each of its values.


def to_arrays(posterior: Posterior) -> dict[str, np.ndarray]:
  """Returns the arrays that are kept of a posterior in NumPy, by name."""
  if posterior.mean is not None:
    return {'mean': posterior.mean, 'logvar': posterior.logvar}
  if posterior.indices is not None:
    return {'indices': posterior.indices}
  return {'latents': posterior.latents}


class LatentWriter:
  """Writer of a folder of latents, new or begun before."""

  def __init__(
    self,
    folder: str,
    model: TrainedModel,
    facts: Mapping[str, Any],
    *,
    in_tiles: bool = False,
  ):
    """Reads the manifest, if there is one.

    Args:
      facts: further entries of the manifest.
      in_tiles: whether its parts are files that are encoded in tiles.

    Raises:
      UserError: the latents there are of another model.
    """
    self._folder = epath.Path(folder)
    header = {
      'format': _TILED_FORMAT if in_tiles else _FORMAT,
      'model': model.fingerprint,
      'step': model.step,
      'latent': model.config.model.latent,
      'latent_shape': list(model.latent_shape),
    }
    old = read_manifest(folder) or header
    if old['model'] != model.fingerprint:
      raise UserError(
        f'--output={folder} holds latents of another model ({old["model"]}, at '
        f'step {old["step"]:,}) than {model.source} ({model.fingerprint}, at '
        f'step {model.step:,}): name another folder, such as '
        f'--output={folder}_2'
      )
    self._step = model.step
    self._manifest = header | dict(facts) | {'complete': False, 'arrays': {}}
    self._manifest['parts'] = []
    self._old = old.get('parts', [])

  def keep(self, part: int, images: str) -> bool:
    """Keeps the next part, if it is there already and of the same images."""
    old = self._old[part] if part < len(self._old) else {}
    there = old.get('images') == images and all(
      self._path(name, part).exists() for name in old['arrays']
    )
    if there:
      self._manifest['parts'].append(old)
    return there

  def write(
    self,
    part: int,
    images: str,
    arrays: Mapping[str, np.ndarray],
    moments: np.ndarray,
    tiles: Mapping[str, Any] | None = None,
  ) -> None:
    """Writes the next part: its number, from 0, and arrays {name: [N, ...]}.

    `images` identifies its images, `moments` are those of its latents by
    `latent_statistics.moments_of`, and `tiles` are as in `Part`.
    """
    for name, array in arrays.items():
      with replacing(self._path(name, part)) as path, path.open('wb') as file:
        np.save(file, array, allow_pickle=False)
    self._manifest['parts'].append(
      {
        'images': images,
        'num_images': 1 if tiles else len(next(iter(arrays.values()))),
        'arrays': {
          name: {'shape': list(array.shape), 'dtype': str(array.dtype)}
          for name, array in arrays.items()
        },
        'moments': moments.tolist(),
      }
      | ({'tiles': dict(tiles)} if tiles else {})
    )
    write_json(self._folder / MANIFEST, self._manifest)

  def finish(self) -> LatentStatistics:
    """Writes the last manifest; returns the statistics of all parts."""
    parts = self._manifest['parts']
    number = sum(part['num_images'] for part in parts)
    moments = sum(np.array(part['moments']) for part in parts)
    statistics = summarize(moments, step=self._step, num_images=number)
    self._manifest |= {
      'complete': True,
      'num_images': number,
      'arrays': sorted(parts[0]['arrays']),
      'statistics': json.loads(statistics.to_json()),
    }
    write_json(self._folder / MANIFEST, self._manifest)
    return statistics

  def _path(self, name: str, part: int) -> epath.Path:
    return self._folder / f'{name}-{part:05}.npy'


def read_manifest(folder: str) -> dict[str, Any] | None:
  """Reads the manifest of a folder; None if there is none.

  Raises:
    UserError: it is damaged, or of a newer version.
  """
  path = epath.Path(folder) / MANIFEST
  if not path.exists():
    return None
  try:
    manifest = json.loads(path.read_text())
    if manifest['format'] <= _TILED_FORMAT:
      fields = ('model', 'step', 'complete', 'parts')
      return {name: manifest[name] for name in fields}
  except (ValueError, LookupError, TypeError) as error:
    raise UserError(
      f'{path} is damaged ({error!r}): delete that folder, and encode again'
    ) from error
  raise UserError(
    f'{path} is of version {manifest["format"]}, and this code reads those up '
    f'to {_TILED_FORMAT}: install a newer vaegan_jax'
  )


def read_latents(path: str, model: TrainedModel) -> Iterator[Part]:
  """Yields the parts of a folder of latents, or of one `.npy` file.

  The model is the decoder's, which must have encoded them.

  Raises:
    UserError: there are none, they are damaged or of another model.
  """
  if path.endswith('.npy'):
    yield Part(_load(epath.Path(path)))
    return
  manifest = read_manifest(path)
  if manifest is None:
    raise UserError(
      f'--input={path} is not a folder of latents, because it has no '
      f'{MANIFEST}: name one that --mode=encode has written, or a .npy file'
    )
  if manifest['model'] != model.fingerprint:
    raise UserError(
      f'--input={path} has latents of another model ({manifest["model"]}) than '
      f'{model.source} ({model.fingerprint}): decode them with the one that '
      'encoded them'
    )
  if not manifest['complete']:
    raise UserError(
      f'--input={path} is not complete: run the same --mode=encode again, to '
      'continue where it stopped'
    )
  for index, part in enumerate(manifest['parts']):
    (name, *_) = [name for name in _DECODED if name in part['arrays']]
    arrays = {
      key: _load(epath.Path(path) / f'{key}-{index:05}.npy')
      for key in (name, 'names', 'missing')
      if key in part['arrays']
    }
    names = arrays['names'].tolist() if 'names' in arrays else None
    _check_names(path, names or ())
    if tiles := part.get('tiles'):
      _check_tiles(path, tiles)
      _check_names(path, [tiles['output']])
    yield Part(arrays[name], names, tiles, arrays.get('missing'))


def _load(path: epath.Path) -> np.ndarray:
  try:
    return np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
  except (OSError, ValueError, EOFError) as error:
    raise UserError(
      f'{path} cannot be read as a .npy file ({error}): encode its images again'
    ) from error


def _check_names(path: str, names: Sequence[Any]) -> None:
  """Refuses names outside the output folder: a manifest is not trusted."""
  for name in names:
    parts = pathlib.PurePosixPath(str(name)).parts
    if not parts or parts[0] == '/' or '..' in parts or '\0' in str(name):
      raise UserError(
        f'--input={path} has latents of an image {name!r}, which would be '
        'written outside of --output: encode the images again'
      )


def _check_tiles(path: str, tiles: Any) -> None:
  """Checks the entries of a part in tiles; the format is checked later."""
  try:
    sides = [*tiles['tile'], *tiles['space']]
    is_whole = all(type(side) is int and side > 0 for side in sides)
    if is_whole and isinstance(tiles['form'], dict) and tiles['output']:
      return
  except (LookupError, TypeError):
    pass
  raise UserError(
    f'{path}/{MANIFEST} has damaged entries under "tiles": delete that folder, '
    'and encode again'
  )
