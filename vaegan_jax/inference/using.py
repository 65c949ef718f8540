"""What the modes that use a finished model share."""

import functools
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging
from etils import epath

from vaegan_jax.config.cli import Use
from vaegan_jax.config.shapes import holds_arrays
from vaegan_jax.data import pixels, sounds
from vaegan_jax.data.arrays import encode_npy
from vaegan_jax.data.data_config import DataConfig
from vaegan_jax.data.pictures import Pictures, encode_pngs
from vaegan_jax.data.split import Images, load_splits
from vaegan_jax.errors import UserError
from vaegan_jax.inference.latent_statistics import FILE
from vaegan_jax.inference.load import load_model
from vaegan_jax.inference.measure_latents import measure
from vaegan_jax.inference.model import TrainedModel
from vaegan_jax.runtime import devices
from vaegan_jax.runtime.files import check_writable, replacing
from vaegan_jax.runtime.progress import track
from vaegan_jax.setup.data_identity import keep_rules


def open_model(
  config: ml_collections.ConfigDict, workdir: str, use: Use
) -> TrainedModel:
  """Loads the model, when it is sure that its output can be written.

  Args:
    config: of the run.
    workdir: of the run, or an export.
    use: what it is for.

  Returns:
    The model.

  Raises:
    UserError: it cannot be loaded, or the output is a run or cannot be written.
  """
  check_writable(use.output)
  if (epath.Path(use.output) / 'checkpoints').exists():
    raise UserError(
      f'--output={use.output} is a run itself, which is not to be changed: '
      f'name another folder, such as --output={use.output}_2'
    )
  return load_model(workdir, config)


def open_split(
  config: ml_collections.ConfigDict, workdir: str, split: str
) -> Images:
  """The images of a split of a run's own dataset.

  Args:
    config: of the run.
    workdir: of the run.
    split: 'train' or 'eval'.

  Returns:
    The images.

  Raises:
    UserError: they cannot be read.
  """
  config = keep_rules(config, workdir)
  (images,) = load_splits(DataConfig(**config.data), [f'{split}_split'])
  return images


def open_pictures(config: ml_collections.ConfigDict, path: str) -> Pictures:
  """The images of a file or a folder, as training would decode them.

  Args:
    config: of the run.
    path: of a file or a folder on a disk.

  Raises:
    UserError: there is no image.
  """
  return Pictures(path, DataConfig(**config.data))


def batches_of(
  examples: Any, batch_size: int, what: str
) -> Iterator[tuple[np.ndarray, jax.Array]]:
  """Shares examples out over the devices, and says how far it is.

  Args:
    examples: [N, ...] by index.
    batch_size: examples at a time, rounded up so that the devices share it.
    what: is done with them, for the progress: 'Decoding'.

  Yields:
    Of each batch the places in `examples`, and the examples on the devices,
    filled up, so that there is one shape to compile.
  """
  size = devices.shareable(batch_size)
  firsts = range(0, len(examples), size)
  for first in track(firsts, what, len(firsts)):
    places = np.arange(first, min(first + size, len(examples)))
    yield places, devices.share_out(examples[np.resize(places, size)])


def write_pictures(
  folder: str,
  names: Iterable[str],
  images: np.ndarray,
  data: ml_collections.FrozenConfigDict,
) -> None:
  """Writes images as PNG files, or arrays as `.npy` in the data's own units.

  Beside a sound there is a `.wav` to listen to, if `soundfile` is there.

  Args:
    folder: local or `gs://...`.
    names: of PNG files, relative to the folder.
    images: [B, *S, C] float in [-1, 1].
    data: the fields `data` of the model's configuration.
  """
  if holds_arrays(data):
    names = list(names)
    values = np.asarray(pixels.to_values(images, data.value_range))
    _write(folder, names, '.npy', map(encode_npy, values))
    if images.ndim == 3 and sounds.can_encode(data.value_range):
      encode = functools.partial(
        sounds.encode_wav,
        sample_rate=data.sample_rate,
        value_range=data.value_range,
      )
      _write(folder, names, '.wav', map(encode, values))
  else:
    _write(folder, names, '.png', encode_pngs(images))


def _write(folder, names, suffix, contents) -> None:
  for name, content in zip(names, contents, strict=True):
    changed = PurePosixPath(name).with_suffix(suffix)
    with replacing(epath.Path(folder) / changed) as path:
      path.write_bytes(content)


def measured(
  model: TrainedModel,
  config: ml_collections.ConfigDict,
  images: Images | None = None,
) -> TrainedModel:
  """The model with the statistics of its latents, if they can be had.

  A run of an earlier version was not measured: that is made up for, if its
  training images are here. If not, that is told.

  Args:
    model: as it was loaded.
    config: of the run.
    images: its training split, if that is open; None: it is opened.
  """
  if model.statistics:
    return model
  try:
    if images is None:
      images = open_split(config, model.source, 'train')
    return measure(model, images)
  except (UserError, OSError) as error:
    logging.warning('%s was not written: %s', FILE, error)
    return model
