"""Runs all code of docs/use.md, and the example that it describes."""

import json
import re
import runpy
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from tests import command_line
from tests.finished_run import STEP, finish

PROJECT = Path(__file__).parents[1]
PAGE = PROJECT / 'docs' / 'use.md'
EXAMPLE = PROJECT / 'docs' / 'examples' / 'latent_flow.py'
_QUICK = ['--num_steps=3', '--num_samples=6']


def run_line(line):
  """Runs one line of a shell block in this process."""
  program, *args = line.split()
  if program == './launch/local.sh':
    assert command_line.run(*args) == 0
  elif program == 'PYTHONPATH=.':
    assert args[1] == str(EXAMPLE.relative_to(PROJECT))
    runpy.run_path(str(EXAMPLE))['main']([*args[2:], *_QUICK])
  else:
    assert line.startswith("pip install '.[load]'")


def test_the_page_does_what_it_says(tiny_run, tmp_path, monkeypatch, capsys):
  workdir = tmp_path / 'runs' / 'my_photos'
  workdir.mkdir(parents=True)
  finish(workdir, tiny_run)
  monkeypatch.chdir(tmp_path)
  rng = np.random.default_rng(0)
  (tmp_path / 'photos').mkdir()
  for name in ('cat.jpg', 'dog.png', 'photos/1.png', 'photos/2.jpg'):
    pixels = rng.integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / name)
  # Training computes these statistics at its end; this run was not trained.
  run_line(
    './launch/local.sh --mode=encode --split=train --workdir=' + str(workdir)
  )
  names = {'__name__': 'snippet'}
  blocks = re.findall(r'^```(\w+)\n(.*?)^```$', PAGE.read_text(), re.S | re.M)
  assert len(blocks) == 8
  for language, code in blocks:
    if language == 'python':
      exec(compile(code, str(PAGE), 'exec'), names)
    else:
      for line in code.splitlines():
        run_line(line)
  out = capsys.readouterr().out
  assert f'{STEP} gaussian (2, 16, 16, 3) (2, 4)' in out
  assert names['z'].shape == (8, 4) and names['samples'].shape == (
    16,
    16,
    16,
    3,
  )
  assert names['names'].tolist() == ['1.png', '2.jpg']
  assert names['pictures'].shape == (2, 16, 16, 3)
  assert sorted(p.name for p in (tmp_path / 'pictures').iterdir()) == [
    *('1.png', '2.png'),
  ]
  facts = json.loads((tmp_path / 'runs/flow/latent_flow.json').read_text())
  assert np.isfinite(facts['loss']) and facts['num_images'] == 6
  Image.open(tmp_path / 'runs/flow/latent_flow.png').verify()


def test_the_example_learns_a_distribution():
  """Fits two distant points, which a Gaussian prior cannot represent."""
  example = runpy.run_path(str(EXAMPLE))
  signs = np.where(np.arange(256) % 2, 1.0, -1.0)[:, None].astype(np.float32)
  mean, std = np.repeat(signs, 2, axis=1), np.full((256, 2), 0.05, np.float32)
  network = example['Velocity'](width=64, depth=2)
  params, _ = example['train'](network, mean, std, 400, batch_size=64)
  noise = jax.random.normal(jax.random.key(0), (200, 2))
  z = np.asarray(example['flow'](network, params, noise))
  near = np.abs(np.abs(z) - 1).max(axis=1) < 0.3
  assert near.mean() > 0.3  # For noise these are 0.09, and a half below.
  same_sign = (z[:, 0] > 0) == (z[:, 1] > 0)
  assert same_sign.mean() > 0.9
  assert 0.3 < (z[:, 0] > 0).mean() < 0.7
