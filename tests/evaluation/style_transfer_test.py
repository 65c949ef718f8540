"""Style transfer: what moves and where to, and what is told of bad inputs."""

import itertools

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from configs import style as style_config
from vaegan_jax.errors import UserError
from vaegan_jax.evaluation import style_transfer
from vaegan_jax.losses import distances, perceptual
from vaegan_jax.models.critic import Critic
from vaegan_jax.models.pretrained import vgg

_SIDE = 16
_CRITIC = Critic(4, (1, 2))


@pytest.fixture(scope='module')
def pictures():
  """A smooth content and a style of stripes, each [1, 16, 16, 3]."""
  y, x = np.mgrid[:_SIDE, :_SIDE] / _SIDE
  content = np.stack([x, y, 1 - x], axis=-1) - 0.5
  stripes = np.sign(np.sin(_SIDE * (x + 0.6 * y)))
  style = stripes[..., None] * np.array([0.9, -0.2, 0.5])
  return np.float32(content[None]), np.float32(style[None])


@pytest.fixture(scope='module')
def variables():
  """Of a critic with its head, as a checkpoint has them."""
  image = np.zeros((1, _SIDE, _SIDE, 3), np.float32)
  variables = jax.jit(_CRITIC.init)(jax.random.key(0), image)
  assert 'Dense_0' in variables['params']
  return variables


def _transfer(pictures, variables, num_steps=60, **options):
  options = {
    'content_layers': ('block_1',),
    'style_layers': ('block_0', 'block_1'),
    'content_weight': 1.0,
    'style_weight': 10.0,
    'learning_rate': 0.05,
  } | options
  steps = style_transfer.transfer(
    *pictures,
    _CRITIC.clone(head='none'),
    variables,
    num_steps=num_steps,
    **options,
  )
  shown, losses = zip(*steps, strict=True)
  return np.asarray(shown), np.asarray(losses)


def _style_distance(variables, style, picture):
  x, y = (
    perceptual.capture_features(
      _CRITIC, variables, image, layers=('block_0', 'block_1')
    )[1]
    for image in (style, picture)
  )
  return float(distances.gram_distance(x, y, normalize='relative')[0])


def test_the_loss_falls_while_the_picture_stays_in_range(pictures, variables):
  shown, losses = _transfer(pictures, variables)
  assert shown.shape == (60, 1, _SIDE, _SIDE, 3)
  assert np.abs(shown).max() <= 1
  assert losses[-10:].mean() < losses[0] / 1.5


def test_it_is_deterministic_and_changes_nothing_given(pictures, variables):
  before = jax.tree.map(np.array, (pictures, variables))
  first, second = (_transfer(pictures, variables, 5)[0] for _ in range(2))
  np.testing.assert_array_equal(first, second)
  after = jax.tree.map(np.array, (pictures, variables))
  jax.tree.map(np.testing.assert_array_equal, before, after)


def test_without_style_the_content_stays(pictures, variables):
  shown, _ = _transfer(
    pictures, variables, style_weight=0.0, learning_rate=0.02
  )
  # Not quite: Adam makes steps of what rounding leaves for a gradient.
  np.testing.assert_allclose(shown[-1], pictures[0], atol=0.15)
  assert np.abs(shown[-1] - pictures[0]).mean() < 0.03


def test_without_content_the_style_is_reached(pictures, variables):
  shown, _ = _transfer(pictures, variables, content_weight=0.0)
  content, style = pictures
  before = _style_distance(variables, style, content)
  assert _style_distance(variables, style, shown[-1]) < before / 2


def test_sizes_may_differ_and_sides_too(pictures, variables):
  content, style = pictures
  shown, _ = _transfer((content[:, :8], style[:, :, :12]), variables, 2)
  assert shown.shape == (2, 1, 8, _SIDE, 3)


@pytest.mark.parametrize('shape', [(8, 16), (1, 4)])
def test_a_picture_comes_back_from_its_frequencies(shape):
  picture = np.random.default_rng(0).uniform(-1, 1, (1, *shape, 2))
  picture = np.float32(picture)
  to_picture = jax.jit(style_transfer._to_picture)
  back = to_picture(jax.jit(style_transfer._to_spectrum)(picture))
  np.testing.assert_allclose(back, picture.clip(-0.99, 0.99), atol=1e-4)
  # So that a step of Adam changes a pixel by about the learning rate.
  noise = np.random.default_rng(1).choice([-1e-3, 1e-3], picture.shape)
  moved = to_picture(np.float32(noise))
  assert 1e-4 < np.sqrt(np.mean(np.square(moved))) < 1e-2


def _config(folder, pictures, **fields):
  for name, picture in zip(('content', 'style'), pictures, strict=True):
    pixels = np.uint8((picture[0] + 1) * 127.5)
    Image.fromarray(pixels).save(folder / f'{name}.png')
  config = style_config.get_config()
  defaults = {
    'content': str(folder / 'content.png'),
    'style': str(folder / 'style.png'),
    'image_size': _SIDE,
    'num_steps': 2,
  }
  for name, value in (defaults | fields).items():
    config[name] = value
  return config


def _open(path):
  return np.asarray(Image.open(path)).astype(int)


def test_run_writes_the_result_and_a_figure(
  tmp_path, pictures, variables, capsys
):
  config = _config(tmp_path, pictures, image_size=32)
  workdir = tmp_path / 'made' / 'here'
  style_transfer.run(config, str(workdir), (_CRITIC, variables, 3))
  names = sorted(path.name for path in workdir.iterdir())
  assert names == ['result.png', 'style_transfer.png']
  assert all(
    str(workdir / name) in capsys.readouterr().out for name in names[:1]
  )
  result, figure = (_open(workdir / name) for name in names)
  assert result.shape == (32, 32, 3) and figure.shape == (40, 3 * 36 + 4, 3)
  content, style, shown = (figure[4:36, x : x + 32] for x in (4, 40, 76))
  np.testing.assert_array_equal(shown, result)
  np.testing.assert_allclose(
    content[::2, ::2], (pictures[0][0] + 1) * 127.5, atol=12
  )
  assert np.ptp(style[..., 0]) > 200


def test_a_grey_critic_makes_a_grey_picture(tmp_path, pictures):
  critic = Critic(4, (1, 2), norm='batch')
  image = np.zeros((1, _SIDE, _SIDE, 1), np.float32)
  variables = jax.jit(critic.init)(jax.random.key(0), image)
  config = _config(tmp_path, pictures, content_layers=('block_0',))
  style_transfer.run(config, str(tmp_path), (critic, variables, 1))
  result = _open(tmp_path / 'result.png')
  assert (result == result[..., :1]).all() and np.ptp(result) > 20


def test_ctrl_c_writes_what_there_is(
  tmp_path, pictures, variables, monkeypatch
):
  def transfer(content, *args, **kwargs):
    yield np.zeros_like(content), 1.0
    raise KeyboardInterrupt

  monkeypatch.setattr(style_transfer, 'transfer', transfer)
  config = _config(tmp_path, pictures)
  style_transfer.run(config, str(tmp_path), (_CRITIC, variables, 3))
  assert (_open(tmp_path / 'result.png') == 128).all()


def test_ctrl_c_before_the_first_step_writes_nothing(
  tmp_path, pictures, variables, monkeypatch
):
  def transfer(*args, **kwargs):
    raise KeyboardInterrupt
    yield

  monkeypatch.setattr(style_transfer, 'transfer', transfer)
  config = _config(tmp_path, pictures)
  with pytest.raises(KeyboardInterrupt):
    style_transfer.run(config, str(tmp_path), (_CRITIC, variables, 3))
  assert not (tmp_path / 'result.png').exists()


@pytest.fixture(scope='module')
def vgg16_file(tmp_path_factory):
  """Random weights of VGG16, under torchvision's names."""
  rng = np.random.default_rng(0)
  state, index, channels = {}, 0, 3
  for count, width in zip(vgg.CONVS[16], vgg.WIDTHS, strict=True):
    for _ in range(count):
      scale = np.float32(np.sqrt(2 / 9 / channels))
      shape = (width, channels, 3, 3)
      kernel = scale * rng.standard_normal(shape, np.float32)
      state[f'features.{index}.weight'] = kernel
      state[f'features.{index}.bias'] = np.zeros(width, np.float32)
      index, channels = index + 2, width  # A ReLU lies between.
    index += 1  # The pooling.
  path = tmp_path_factory.mktemp('weights') / 'vgg16.safetensors'
  save_file(state, path)
  return path


def test_vgg_from_a_file(tmp_path, pictures, vgg16_file):
  config = _config(
    tmp_path,
    pictures,
    image_size=32,
    network='vgg16',
    weights=str(vgg16_file),
  )
  style_transfer.run(config, str(tmp_path))
  assert _open(tmp_path / 'result.png').shape == (32, 32, 3)


def test_the_usual_layers_are_layers():
  for module in (vgg.VGG(16), vgg.VGG(19), Critic(4, (1, 2, 4))):
    layers = style_transfer.default_layers(module)
    names = itertools.chain(*layers.values())
    assert set(names) <= set(module.layer_names)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'content': ''}, r"^content='' cannot be read as a picture"),
    (
      {'style': '/no/such.jpg'},
      r"^style='/no/such.jpg' cannot be read .*No such file",
    ),
    ({'content': '/'}, r"^content='/' cannot be read .*IsADirectoryError"),
    ({'style': __file__}, r"^style='.*' cannot be read .*Unidentified"),
    ({'image_size': 18}, r'^image_size=18 must be divisible by 4.*=16$'),
    ({'image_size': 2}, r'^image_size=2 must be divisible by 4.*=4$'),
    (
      {'style_layers': ('block_9',)},
      r"^style_layers=.* names 'block_9', but .* block_0, block_1: for example",
    ),
  ],
)
def test_a_bad_input_is_told_in_one_sentence(
  fields, message, tmp_path, pictures, variables
):
  config = _config(tmp_path, pictures, **fields)
  with pytest.raises(UserError, match=message) as error:
    style_transfer.run(config, str(tmp_path), (_CRITIC, variables, 3))
  assert '\n' not in str(error.value)
  assert not (tmp_path / 'result.png').exists()


def test_a_loss_that_is_not_finite_is_told(tmp_path, pictures, variables):
  diverged = jax.tree.map(lambda x: x * np.nan, variables)
  config = _config(tmp_path, pictures)
  with pytest.raises(UserError, match=r'^the loss is nan at step 1: lower'):
    style_transfer.run(config, str(tmp_path), (_CRITIC, diverged, 3))
  assert not (tmp_path / 'result.png').exists()


def test_too_small_a_picture_for_vgg_is_told(tmp_path, pictures, vgg16_file):
  config = _config(
    tmp_path,
    pictures,
    image_size=15,
    network='vgg16',
    weights=str(vgg16_file),
  )
  with pytest.raises(UserError, match=r'^image_size=15 must be at least 16'):
    style_transfer.run(config, str(tmp_path))


def test_a_workdir_that_is_a_file_is_told(tmp_path, pictures, variables):
  config = _config(tmp_path, pictures)
  with pytest.raises(UserError, match=r'^--workdir='):
    style_transfer.run(config, config.content, (_CRITIC, variables, 3))
