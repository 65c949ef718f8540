"""The README's Python, run as it stands."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from vaegan_jax.models import vgg

README = Path(__file__).parent.parent / 'README.md'


def snippets():
  section = README.read_text().split('## Use the loss in your own model')[1]
  return re.findall(
    r'```python\n(.*?)```', section.split('\n## ')[0], re.DOTALL
  )


@pytest.fixture
def in_a_folder_with_weights(tmp_path, monkeypatch, vgg16_file):
  """The files that the third snippet names, with random weights."""
  (tmp_path / 'vgg16.pth').symlink_to(vgg16_file)
  heads = {
    f'lin{i}.model.1.weight': np.full((1, width, 1, 1), 0.1, np.float32)
    for i, width in enumerate(vgg.WIDTHS)
  }
  save_file(heads, tmp_path / 'lpips_vgg.pth')
  monkeypatch.chdir(tmp_path)


def run(code):
  names = {'__name__': 'snippet'}
  exec(compile(code, str(README), 'exec'), names)
  return names


@pytest.mark.parametrize('index', [0, 1])
def test_the_training_steps_train(index, capsys):
  names = run(snippets()[index])
  assert np.isfinite(float(capsys.readouterr().out))
  before = float(names['loss'])
  for _ in range(20):
    if index == 0:
      state = names['params'], names['opt_state']
      *state, loss = names['train_step'](*state, names['x'])
      names['params'], names['opt_state'] = state
    else:
      loss = names['train_step'](
        *(names[n] for n in ('autoencoder', 'critic', 'optimizers', 'x'))
      )
  assert float(loss) != before
  assert np.isfinite(float(loss))


def test_the_frozen_networks_judge(in_a_folder_with_weights, capsys):
  names = run(snippets()[2])
  x, x_recon = names['x'], names['x_recon']
  for distance in capsys.readouterr().out.strip().split(']\n['):
    values = np.fromstring(distance.strip('[]\n'), sep=' ')
    assert values.shape == (2,) and (values > 0).all()
  gradient = jax.grad(
    lambda y: names['distance'](names['variables'], x, y).sum()
  )(x_recon)
  assert np.isfinite(gradient).all() and gradient.any()


def test_there_are_three_snippets():
  assert len(snippets()) == 3
