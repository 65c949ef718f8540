"""Measures how long the library takes to import, compared with Flax alone.

  python -m tests.benchmarks.imports --repeats=9

Prints one JSON object: medians in seconds, of new processes that alternate, and
their ratio.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

STATEMENTS = {
  'flax': 'import flax',
  'vaegan_jax': 'import vaegan_jax',
  'vaegan_jax.models.pretrained.vgg': 'import vaegan_jax.models.pretrained.vgg',
}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--repeats', type=int, default=9)
  repeats = parser.parse_args().repeats
  seconds = {name: [] for name in STATEMENTS}
  # The first repetition fills the disk's cache.
  for repeat in range(-1, repeats):
    for name, statement in STATEMENTS.items():
      start = time.perf_counter()
      subprocess.run([sys.executable, '-c', statement], check=True)
      if repeat >= 0:
        seconds[name].append(time.perf_counter() - start)
  medians = {name: statistics.median(times) for name, times in seconds.items()}
  ratios = {
    f'{name}/flax': median / medians['flax']
    for name, median in medians.items()
    if name != 'flax'
  }
  print(json.dumps({'seconds': medians, 'ratio': ratios}))


if __name__ == '__main__':
  main()
