"""The example of style transfer: its optimisation and its files."""

import importlib.util
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from tests.finished_run import finish
from tests.networks import uniform
from vaegan_jax import capture_features, gram_distance
from vaegan_jax.models.critic import Critic
from vaegan_jax.models.pretrained.vgg import VGG

_SIDE = 16
_CRITIC = Critic(4, (1, 2), head='none')
_LAYERS = ('block_0', 'block_1')


@pytest.fixture(scope='module')
def example():
  """Returns the script as a module."""
  path = Path(__file__).parents[2] / 'docs/examples/style_transfer.py'
  spec = importlib.util.spec_from_file_location('style_transfer', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture(scope='module')
def pictures():
  """Returns a smooth content and a striped style, each [1, 16, 16, 3]."""
  y, x = np.mgrid[:_SIDE, :_SIDE] / _SIDE
  content = np.stack([x, y, 1 - x], axis=-1) - 0.5
  stripes = np.sign(np.sin(_SIDE * (x + 0.6 * y)))
  style = stripes[..., None] * np.array([0.9, -0.2, 0.5])
  return np.float32(content[None]), np.float32(style[None])


@pytest.fixture(scope='module')
def variables(pictures):
  return jax.jit(_CRITIC.init)(jax.random.key(1), pictures[0])


def _transfer(example, pictures, variables, **options):
  options = {'learning_rate': 0.05, 'num_steps': 60} | options
  steps = example.transfer(
    *pictures,
    _CRITIC,
    variables,
    content_layers=_LAYERS[1:],
    style_layers=_LAYERS,
    **options,
  )
  shown, losses = zip(*steps, strict=True)
  return np.asarray(shown), np.asarray(losses)


def test_the_loss_falls_while_the_picture_stays_in_range(
  example, pictures, variables
):
  shown, losses = _transfer(example, pictures, variables)
  assert shown.shape == (60, 1, _SIDE, _SIDE, 3)
  assert np.abs(shown).max() <= 1
  assert losses[-10:].mean() < losses[0] / 1.5


def test_each_weight_alone_keeps_its_picture(example, pictures, variables):
  content, style = pictures
  kept, _ = _transfer(
    example, pictures, variables, style_weight=0.0, learning_rate=0.02
  )
  np.testing.assert_allclose(kept[-1], content, atol=0.15)

  def distance(picture):
    features = (
      capture_features(_CRITIC, variables, image, layers=_LAYERS)[1]
      for image in (style, picture)
    )
    return float(gram_distance(*features, normalize='relative')[0])

  moved, _ = _transfer(example, pictures, variables, content_weight=0.0)
  assert distance(moved[-1]) < distance(content) / 2


@pytest.mark.parametrize('shape', [(8, 16), (1, 4)])
def test_a_picture_comes_back_from_its_spectrum(example, shape):
  picture = uniform(1, *shape, 2)
  back = jax.jit(example.to_picture)(jax.jit(example.to_spectrum)(picture))
  np.testing.assert_allclose(back, picture.clip(-0.99, 0.99), atol=1e-4)


def test_the_layers_are_those_of_the_network(example):
  for module in (VGG(16), VGG(19), Critic(4, (1, 2, 4))):
    content, style = example.choose_layers(module)
    assert {*content, *style} <= set(module.layer_names)


def test_help_explains_every_option(example, capsys):
  with pytest.raises(SystemExit):
    example.main(['--help'])
  text = ' '.join(capsys.readouterr().out.split())
  for option in re.findall(r'--\w+', text.partition('options:')[2]):
    # Its placeholder, then words.
    assert re.search(rf'{option} (?:[A-Z_]\S+ |\S+}} )?[a-z]', text), option
  assert '(default: 0.02)' in text


def test_a_run_lends_its_critic(example, pictures, tiny_run, tmp_path):
  finish(tmp_path / 'run', tiny_run)
  for name, picture in zip(('content', 'style'), pictures, strict=True):
    pixels = np.uint8((picture[0] + 1) * 127.5)
    Image.fromarray(pixels).save(tmp_path / f'{name}.png')
  args = {
    'content': tmp_path / 'content.png',
    'style': tmp_path / 'style.png',
    'critic': tmp_path / 'run',
    'output': tmp_path / 'made' / 'here',
    'image_size': 32,
    'num_steps': 2,
  }
  example.main([f'--{name}={value}' for name, value in args.items()])
  result = np.asarray(Image.open(tmp_path / 'made/here/result.png'))
  figure = np.asarray(Image.open(tmp_path / 'made/here/style_transfer.png'))
  assert result.shape == (32, 32, 3) and figure.shape == (40, 3 * 36 + 4, 3)
  np.testing.assert_array_equal(figure[4:36, 76:108], result)
