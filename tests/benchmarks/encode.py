"""Compares the speed of `--mode=encode` with the encoder's forward passes.

Run from the root of the repository, with the workdir of a finished run:

    python -m tests.benchmarks.encode runs/quickstart/geometric --repeats=5

The forward passes use batches that are already on the device. Encoding reads
its images from the memory map and writes the files. Both alternate, so that
other programs slow both alike. Prints one JSON object.
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time

import jax
import numpy as np

import vaegan_jax
from vaegan_jax.config.io import load_config
from vaegan_jax.inference import encode
from vaegan_jax.inference.command_io import open_split
from vaegan_jax.runtime import devices


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('workdir')
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument('--times', type=int, default=4, help='over all images')
  parser.add_argument('--batch_size', type=int, default=0)
  arguments = parser.parse_args()
  config = load_config(f'{arguments.workdir}/config.json')
  batch_size = arguments.batch_size or config.batch_size
  model = vaegan_jax.load(arguments.workdir)
  images = Repeated(
    open_split(config, arguments.workdir, 'train'), arguments.times
  )
  ways = {
    'forward': lambda: _forward(model, images, batch_size),
    'encode': lambda: _encode(model, images, batch_size),
  }
  rates = {name: [] for name in ways}
  # Progress is not part of the result.
  with contextlib.redirect_stdout(sys.stderr):
    for repeat in range(-1, arguments.repeats):  # The first round compiles.
      for name, way in ways.items():
        start = time.perf_counter()
        way()
        if repeat >= 0:
          rates[name].append(len(images) / (time.perf_counter() - start))
  medians = {name: statistics.median(rates[name]) for name in rates}
  result = {
    'images_per_second': {name: round(medians[name]) for name in medians},
    'slowest_and_fastest': {
      name: [round(min(rates[name])), round(max(rates[name]))] for name in rates
    },
    'ratio': round(medians['encode'] / medians['forward'], 3),
    'images': len(images),
    'image': list(model.image_shape),
    'batch_size': batch_size,
    'cores': os.cpu_count(),
    'load_average': os.getloadavg()[0],
  }
  print(json.dumps(result, indent=2))


class Repeated:
  """Images repeated several times, so that a run lasts longer."""

  def __init__(self, images, times: int):
    self._images = images
    self._times = times
    self.fingerprint = images.fingerprint

  def __len__(self) -> int:
    return self._times * len(self._images)

  def __getitem__(self, indices: np.ndarray) -> np.ndarray:
    return self._images[indices % len(self._images)]


def _forward(model, images, batch_size: int) -> None:
  model = devices.replicate(model)
  batch = devices.share_out(images[np.arange(batch_size)])
  for _ in range(-(-len(images) // batch_size)):
    posterior = encode._encode(model, batch)
  jax.block_until_ready(posterior)


def _encode(model, images, batch_size: int) -> None:
  with tempfile.TemporaryDirectory() as folder:
    encode.write_latents(model, images, folder, {}, batch_size=batch_size)


if __name__ == '__main__':
  main()
