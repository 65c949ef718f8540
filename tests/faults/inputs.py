"""Configurations, data and values that differ from those of the run."""

import functools
import itertools
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
from PIL import Image

from tests.faults.damage import METHODS
from tests.faults.lab import Lab, check, snapshot
from tests.processes import MAIN, read_rows
from vaegan_jax.data import batches, pixels

_OTHERS = (
  'batch_size=16',
  'seed=1',
  'model.latent_dim=5',
  'critic.width=4',
  'data.channels=1',
  'data.image_size=32',
  'objective=mse',
  'ema_decay=0.5',
)


def change_the_configuration(lab: Lab) -> tuple[str, str]:
  """Resumes with one changed field."""
  workdir = lab.copy('other_configuration')
  before = snapshot(workdir)
  for index in lab.count(len(_OTHERS), 'configuration'):
    field = _OTHERS[index].partition('=')[0]
    lab.refused(workdir, f'config.{field} was ', f'--config.{_OTHERS[index]}')
    check(snapshot(workdir) == before, f'{field} has changed something')
  return (
    f'{len(_OTHERS)} fields',
    'refused with a message that names the field; nothing was changed',
  )


def change_the_data(lab: Lab) -> tuple[str, str]:
  """Resumes with one image removed, one added, and one replaced."""
  workdir = lab.copy('other_data')
  before = snapshot(workdir)
  names = sorted(path.name for path in lab.images.iterdir())

  def replace(images):
    Image.effect_noise((16, 16), 50).convert('RGB').save(images / names[1])

  changes = {
    'one less': lambda images: (images / names[1]).unlink(),
    'one more': lambda images: shutil.copy(
      images / names[1], images / 'more.png'
    ),
    'another': replace,
  }
  for name, change in changes.items():
    images = shutil.copytree(lab.images, lab.new('other_images'))
    change(images)
    lab.refused(workdir, 'data.', f'--config.data.path={images}')
    check(snapshot(workdir) == before, f'{name} has changed something')
  # The same images in another folder are the same dataset.
  images = shutil.copytree(lab.images, lab.new('other_images'))
  process = lab.run(workdir, f'--config.data.path={images}')
  check('Nothing to do' in process.out, process.out)
  return (
    f'{len(changes)} changes',
    'refused by the fingerprint; a copy of the folder was not',
  )


def damage_the_data(lab: Lab) -> tuple[str, str]:
  """Damages the index of the folder and the decoded images."""
  lab.same(lab.undisturbed)
  folder = lab.new('damaged_data')
  flag = f'--config.data.data_dir={folder}'
  patterns = ('index.json', 'decoded-train*')
  for pattern in patterns:
    for method in METHODS:
      shutil.rmtree(folder, ignore_errors=True)
      shutil.copytree(lab.data, folder)
      paths = list(folder.rglob(pattern))
      check(bool(paths), f'there is no {pattern}')
      for path in paths:
        METHODS[method](path)
      lab.run(workdir := lab.new('on_damaged_data'), flag)
      lab.same(workdir)
  return (
    f'{len(patterns) * len(METHODS)} cases',
    'folder checked and images decoded again: same bits',
  )


def _give_nan(step: int) -> None:
  """Prepares a process with a non-finite batch at one step."""
  read, to_float, steps = batches._read, pixels.to_float, itertools.count(1)

  def give_white(*args):
    batch = read(*args)
    return np.full_like(batch, 255) if next(steps) == step else batch

  def to_nan(images, *value_range):
    x = to_float(images, *value_range)
    return jnp.where((images == 255).all(), jnp.nan, x)

  batches._read = give_white
  pixels.to_float = to_nan


def give_nan(lab: Lab) -> tuple[str, str]:
  """Trains with a non-finite batch, and with a diverging learning rate."""
  lab.run(workdir := lab.new('nan'), prepare=functools.partial(_give_nan, 7))
  rows = read_rows(workdir)
  skipped = [row['step'] for row in rows if row['train/skipped_in_a_row']]
  check(skipped == [7], f'skipped {skipped}')
  check(None not in rows[-1].values(), f'not finite in the end: {rows[-1]}')
  process = lab.run(
    lab.new('diverged'),
    '--config.optimizer.autoencoder_learning_rate=1e30',
    '--config.max_skipped_steps=5',
    status=1,
  )
  check('the last 5 updates had non-finite' in process.out, process.out)
  return '2 runs', 'that update skipped and counted; five in a row end with 1'


def run_tests(*tests: str) -> tuple[str, str]:
  """Runs the project's tests that cover a row."""
  done = subprocess.run(
    [sys.executable, '-m', 'pytest', '-p', 'no:cacheprovider', *tests],
    cwd=MAIN.parent,
    capture_output=True,
    text=True,
  )
  check(done.returncode == 0, done.stdout[-2000:])
  return done.stdout.splitlines()[-1].partition(' in ')[0], 'the tests pass'
