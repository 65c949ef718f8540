"""Measures the input: examples/s from the memory map and decoded on the fly.

Run from the root of the repository:

    python -m tests.benchmarks.input
    python -m tests.benchmarks.input --side=64 --channels=13 --dtype=uint16

The two ways alternate, so that other programs slow both alike. Photos are
synthetic faces, stored as JPEG. Other dtypes and channels are arrays, stored as
.npy. Batches have 64 examples. Prints one JSON object.
"""

import argparse
import contextlib
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import sys
import tempfile
import time
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from vaegan_jax.data import sources
from vaegan_jax.data.batches import create_batches
from vaegan_jax.data.data_config import DataConfig
from vaegan_jax.data.sources import drawn_faces
from vaegan_jax.data.split import open_split

_NUM_FILES = 200  # Every example is one of these.
_BATCH_SIZE = 64
_READ_AHEAD = 16  # Batches that may be ready since a stream's last run.
_SECONDS_A_RUN = 0.5  # The minimum.


class Examples(NamedTuple):
  """Examples to read.

  Attributes:
    side: image size in pixels.
    channels, dtype: of each example.
    number: number of examples.
  """

  side: int = drawn_faces.SIZE
  channels: int = 3
  dtype: str = 'uint8'
  number: int = 20_000

  @property
  def are_photos(self) -> bool:
    """Returns whether the examples are stored as JPEG."""
    return self.channels == 3 and self.dtype == 'uint8'


def main(argv: list[str]) -> None:
  """Prints the speeds, their ratio and a description of the machine."""
  args = _parse_args(argv)
  examples = Examples(args.side, args.channels, args.dtype, args.number)
  result = measure(examples, runs=args.runs)
  result |= {
    'batch_size': _BATCH_SIZE,
    'cores': len(os.sched_getaffinity(0)),
    'load_average': round(os.getloadavg()[0], 2),
    'python': platform.python_version(),
    'versions': {
      name: importlib.metadata.version(name)
      for name in ('grain', 'numpy', 'pillow', 'tensorflow-datasets')
    },
  }
  print(json.dumps(result, indent=2))


def measure(examples: Examples, *, runs: int) -> dict[str, Any]:
  """Measures both ways to read the same examples.

  Args:
    examples: examples to write into a temporary folder and read.
    runs: repetitions of each way.

  Returns:
    Examples per second: medians, the slowest and the fastest run. For the
    memory map also the first pass, which verifies checksums.
  """
  with tempfile.TemporaryDirectory() as folder:
    # Progress is not part of the result.
    with contextlib.redirect_stdout(sys.stderr):
      streams = _create_streams(pathlib.Path(folder), examples)
    most = 9 * examples.number // 10  # The other examples may be held out.
    first_pass = _rate(streams['memory_map'], most // _BATCH_SIZE)
    rates = {name: [] for name in streams}
    for _ in range(runs):
      for name, stream in streams.items():
        _catch_up(stream)
        rates[name].append(_rate(stream))
  medians = {name: statistics.median(rates[name]) for name in rates}
  return {
    'example': [examples.side, examples.side, examples.channels],
    'dtype': examples.dtype,
    'examples_per_second': {name: round(medians[name]) for name in medians},
    'slowest_and_fastest': {
      name: [round(min(rates[name])), round(max(rates[name]))] for name in rates
    },
    'memory_map_first_pass': round(first_pass),
    'ratio': round(medians['memory_map'] / medians['on_the_fly'], 1),
  }


def _create_streams(folder: pathlib.Path, examples: Examples) -> dict:
  """Creates one endless stream of batches for each way."""
  _write_files(folder / 'files', examples)
  name = 'image_folder' if examples.are_photos else 'array_folder'
  data = DataConfig(
    name,
    path=str(folder / 'files'),
    data_dir=str(folder),
    shape=(examples.side,) * 2,
    channels=examples.channels,
  )
  dataset = sources.find(name).open(data)

  def load(way):
    cache_images = way == 'memory_map'
    changed = dataclasses.replace(data, cache_images=cache_images)
    return open_split(dataset, changed, 'train')

  return {
    name: create_batches(
      load(name),
      seed=0,
      batch_size=_BATCH_SIZE,
      num_devices=1,
    )
    for name in ('memory_map', 'on_the_fly')
  }


def _write_files(folder: pathlib.Path, examples: Examples) -> None:
  folder.mkdir()
  suffix = 'jpg' if examples.are_photos else 'npy'
  for i in range(min(_NUM_FILES, examples.number)):
    path = folder / f'{i}.{suffix}'
    face = Image.fromarray(drawn_faces.draw_face(i))
    face = face.resize((examples.side, examples.side))
    if examples.are_photos:
      face.save(path, quality=90)
    else:
      array = np.resize(np.asarray(face), examples[:1] * 2 + examples[1:2])
      np.save(path, array.astype(examples.dtype))
    for j in range(i + _NUM_FILES, examples.number, _NUM_FILES):
      (folder / f'{j}.{suffix}').hardlink_to(path)


def _rate(stream, num_batches: int = 0) -> float:
  """Returns examples per second over a number of batches; 0: over some time."""
  done, start, seconds = 0, time.perf_counter(), 0.0
  while done < num_batches if num_batches else seconds < _SECONDS_A_RUN:
    next(stream)
    done, seconds = done + 1, time.perf_counter() - start
  return done * _BATCH_SIZE / seconds


def _catch_up(stream) -> None:
  """Discards what has been read ahead since the stream's last run."""
  for _ in range(_READ_AHEAD):
    next(stream)


def _parse_args(argv: list[str]) -> argparse.Namespace:
  default = Examples()
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--side', type=int, default=default.side)
  parser.add_argument('--channels', type=int, default=default.channels)
  parser.add_argument('--dtype', default=default.dtype)
  parser.add_argument('--number', type=int, default=default.number)
  parser.add_argument('--runs', type=int, default=7, help='turns of each')
  return parser.parse_args(argv)


if __name__ == '__main__':
  main(sys.argv[1:])
