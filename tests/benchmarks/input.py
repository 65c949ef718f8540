"""Measures the input: images/s from the memory map and decoded on the fly.

Run from the root of the repository:

    python -m tests.benchmarks.input

The two ways take turns, so that another program's load falls on both. The
images are drawn faces of 64x64x3, stored as JPEG, in batches of 64. Prints one
JSON object.
"""

import contextlib
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import sys
import tempfile
import time

from PIL import Image

from vaegan_jax.data import datasets, drawn_faces
from vaegan_jax.data.batches import create_batches
from vaegan_jax.data.images import load_images

_NUM_IMAGES = 20_000
_NUM_FACES = 500  # Drawn once; every file is one of them.
_BATCH_SIZE = 64
_RUNS = 7
_BATCHES = {'memory_map': 1000, 'on_the_fly': 60}  # One run's.
_READ_AHEAD = 16  # Batches that may lie ready since a stream's last turn.


def main() -> None:
  """Prints the rates, their ratio and the facts of the machine."""
  with tempfile.TemporaryDirectory() as folder:
    with contextlib.redirect_stdout(sys.stderr):  # Progress is no result.
      streams = _create_streams(pathlib.Path(folder))
    rates = {name: [] for name in streams}
    for _ in range(_RUNS):
      for name, stream in streams.items():
        rates[name].append(_rate(stream, _BATCHES[name]))
  medians = {name: statistics.median(rates[name]) for name in rates}
  result = {
    'images_per_second': {name: round(medians[name]) for name in medians},
    'slowest_and_fastest': {
      name: [round(min(rates[name])), round(max(rates[name]))] for name in rates
    },
    'ratio': round(medians['memory_map'] / medians['on_the_fly'], 1),
    'image': [drawn_faces.SIZE, drawn_faces.SIZE, 3],
    'batch_size': _BATCH_SIZE,
    'cores': os.cpu_count(),
    'load_average': os.getloadavg()[0],
    'python': platform.python_version(),
    'versions': {
      name: importlib.metadata.version(name)
      for name in ('grain', 'numpy', 'pillow', 'tensorflow-datasets')
    },
  }
  print(json.dumps(result, indent=2))


def _create_streams(folder: pathlib.Path) -> dict:
  """One endless stream of batches for each way to read the same images."""
  images = folder / 'images'
  images.mkdir()
  for i in range(_NUM_FACES):
    path = images / f'{i}.jpg'
    Image.fromarray(drawn_faces.draw_face(i)).save(path, quality=90)
    for j in range(i + _NUM_FACES, _NUM_IMAGES, _NUM_FACES):
      (images / f'{j}.jpg').hardlink_to(path)
  builder = datasets.create_builder(
    'image_folder', path=str(images), data_dir=str(folder)
  )
  return {
    name: create_batches(
      load_images(
        builder,
        'train',
        sides=(drawn_faces.SIZE,) * 2,
        channels=3,
        cache_images=name == 'memory_map',
      ),
      seed=0,
      batch_size=_BATCH_SIZE,
      num_devices=1,
    )
    for name in _BATCHES
  }


def _rate(stream, num_batches: int) -> float:
  """Images a second over so many batches."""
  for _ in range(_READ_AHEAD):
    next(stream)
  start = time.perf_counter()
  for _ in range(num_batches):
    next(stream)
  return num_batches * _BATCH_SIZE / (time.perf_counter() - start)


if __name__ == '__main__':
  main()
