"""Inputs and outputs of the commands that use a finished model.

A command takes the configuration of the run, the workdir of the run or an
export, and `use`, its flags: which input, and where the output goes.
"""

import functools
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

import ml_collections
import numpy as np
from absl import logging
from etils import epath

from vaegan_jax.config.cli import Use
from vaegan_jax.config.settings import settings
from vaegan_jax.config.shapes import holds_arrays
from vaegan_jax.data import pixels, sounds
from vaegan_jax.data.arrays import encode_npy
from vaegan_jax.data.data_config import DataConfig
from vaegan_jax.data.pictures import Pictures, encode_pngs
from vaegan_jax.data.split import Images, load_splits
from vaegan_jax.errors import UserError
from vaegan_jax.inference import nifti_files
from vaegan_jax.inference.latent_statistics import FILE
from vaegan_jax.inference.load import load_model
from vaegan_jax.inference.measure_latents import measure
from vaegan_jax.inference.model import TrainedModel
from vaegan_jax.inference.tiling import Tiler
from vaegan_jax.runtime.checkpoint_files import is_run
from vaegan_jax.runtime.files import check_writable, write_bytes
from vaegan_jax.setup.data_identity import keep_rules


def open_model(
  config: ml_collections.ConfigDict, workdir: str, use: Use
) -> TrainedModel:
  """Loads the model of a command, once its output is known to be writable.

  Raises:
    UserError: it cannot be loaded, or the output is a run or cannot be written.
  """
  check_writable(use.output)
  if is_run(use.output):
    raise UserError(
      f'--output={use.output} is a run itself, which is not to be changed: '
      f'name another folder, such as --output={use.output}_2'
    )
  return load_model(workdir, config)


def open_tiler(
  model: TrainedModel,
  config: ml_collections.ConfigDict,
  use: Use,
  tile: Sequence[int] = (),
) -> Tiler | None:
  """Returns the tiler that --tile asks for, or else `tile`, if any does.

  Raises:
    UserError: the network does not take such tiles.
  """
  tile = use.tile or tuple(tile)
  return Tiler(model, tile, config.batch_size, '--tile') if tile else None


def open_examples(
  config: ml_collections.ConfigDict, workdir: str, use: Use
) -> Images | Pictures:
  """Opens the split or the files to process, decoded as in training.

  Files have `names`.

  Raises:
    UserError: there are none, or they cannot be read.
  """
  if use.split:
    return open_split(config, workdir, use.split)
  more = nifti_files.SUFFIXES if use.tile else ()
  return Pictures(use.input, settings(DataConfig, config.data), more)


def open_split(
  config: ml_collections.ConfigDict, workdir: str, split: str
) -> Images:
  """Opens a split ('train' or 'eval') of a run's own dataset."""
  config = keep_rules(config, workdir)
  (images,) = load_splits(settings(DataConfig, config.data), [f'{split}_split'])
  return images


def write_pictures(
  folder: str,
  names: Sequence[str],
  images: np.ndarray,
  data: ml_collections.FrozenConfigDict,
) -> None:
  """Writes images as PNG files, or arrays as `.npy` in the data's own units.

  A sound gets a `.wav` file too, if the package `soundfile` is installed.

  Args:
    names: names of PNG files, relative to the folder.
    images: [B, *S, C] float in [-1, 1].
    data: the fields `data` of the model's configuration.
  """
  if not holds_arrays(data):
    _write(folder, names, '.png', encode_pngs(images))
    return
  values = pixels.to_values(images, data.value_range, data.mid_side)
  values = np.asarray(values)
  _write(folder, names, '.npy', map(encode_npy, values))
  if images.ndim == 3 and sounds.can_encode(data.value_range):
    encode = functools.partial(
      sounds.encode_wav,
      sample_rate=data.sample_rate,
      value_range=data.value_range,
    )
    _write(folder, names, '.wav', map(encode, np.nan_to_num(values)))


def _write(folder, names, suffix, contents: Iterable[bytes]) -> None:
  for name, content in zip(names, contents, strict=True):
    path = epath.Path(folder) / PurePosixPath(name).with_suffix(suffix)
    write_bytes(path, content)


def with_statistics(
  model: TrainedModel,
  config: ml_collections.ConfigDict,
  images: Images | None = None,
) -> TrainedModel:
  """Returns the model with the statistics of its latents, if possible.

  Earlier versions did not measure the latents. They are measured now, or a
  warning says why they cannot be.
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
