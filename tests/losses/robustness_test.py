"""Any image keeps the distance bounded, and the distance grows with the error.

The photographs are the quick start's synthetic faces. The critics have random
weights, as at the start of a run.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.networks import jitted, loss_config
from vaegan_jax import names
from vaegan_jax.data.sources import drawn_faces
from vaegan_jax.losses import distances, perceptual
from vaegan_jax.losses.reconstruction import compare, image_layers
from vaegan_jax.models.critic import Critic

SIDE, NUMBER = 32, 12
LOSS = loss_config(normalize='batch', reduction='mean', kl_weight=0.0)
CHECKERBOARD = np.indices((SIDE, SIDE)).sum(axis=0) % 2 * 255
STRANGE = {
  **{f'constant {level}': level for level in (0, 110, 127, 128, 255)},
  'checkerboard': CHECKERBOARD[..., None],
  'noise': np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3)),
}


@functools.cache
def photographs():
  """Returns [NUMBER, SIDE, SIDE, 3] in [-1, 1]."""
  step = drawn_faces.SIZE // SIDE
  faces = [drawn_faces.draw_face(i)[::step, ::step] for i in range(NUMBER)]
  return np.stack(faces)[:, :SIDE, :SIDE].astype(np.float32) / 127.5 - 1


def blurred(x):
  """Blurs images, as early reconstructions are, and adds some noise."""
  kernel = np.ones(5) / 5
  for axis in (1, 2):
    x = np.apply_along_axis(np.convolve, axis, x, kernel, 'same')
  noise = np.random.default_rng(2).normal(0, 0.05, x.shape)
  return (x + noise).astype(np.float32)


@functools.cache
def critic(norm):
  module = Critic(8, (1, 2, 4), norm=norm)
  with jax.ensure_compile_time_eval():  # It may be called under `jit`.
    variables = jax.jit(module.init)(jax.random.key(0), photographs()[:1])
  return module, jax.device_get(variables)


compare_as_one = jax.jit(compare, static_argnums=0)


@functools.partial(jax.jit, static_argnums=(0, 1))
def distance_of(norm, loss, x, y):
  module, variables = critic(norm)

  def capture(images):
    return perceptual.capture_features(
      module, variables, images, layers=module.layer_names
    )[1]

  return compare(loss, x, y, capture(x), capture(y))


def mean_distance(*args):
  return np.asarray(distance_of(*args)).mean()


@functools.partial(jax.jit, static_argnums=0)
def gradient_norms(loss, x, y):
  gradients = jax.grad(lambda y: distance_of('none', loss, x, y).sum())(y)
  return jnp.sqrt(jnp.sum(gradients**2, axis=(1, 2, 3)))


def with_one(strange):
  x = photographs().copy()
  x[5] = np.asarray(STRANGE[strange], np.float32) / 127.5 - 1
  return x


@pytest.mark.parametrize('image_weight', [0.0, 3.0])
@pytest.mark.parametrize('normalize', ['batch', 'local'])
@pytest.mark.parametrize('strange', STRANGE)
def test_no_gradient_is_ten_times_the_median(strange, normalize, image_weight):
  loss = dataclasses.replace(
    LOSS, normalize=normalize, image_weight=image_weight, image_halvings=3
  )
  x = with_one(strange)
  norms = np.asarray(gradient_norms(loss, x, blurred(x)))
  assert np.isfinite(norms).all()
  assert norms.max() <= 10 * np.median(norms)


def test_relative_to_its_own_size_a_flat_image_outweighs_all_others():
  """Shows the need for 'batch' and 'local': the test above can fail."""
  x = with_one('constant 127')
  relative = dataclasses.replace(LOSS, normalize='relative')
  norms = np.asarray(gradient_norms(relative, x, blurred(x)))
  assert np.argmax(norms) == 5 and norms[5] > 100 * np.median(norms)


@pytest.mark.parametrize(
  ('norm', 'normalize'),
  [
    *itertools.product(['none'], names.NORMALIZATIONS),
    *itertools.product(names.NORMS[1:], ['batch', 'local']),
  ],
)
@pytest.mark.parametrize('error', ['noise', 'blur', 'brightness', 'contrast'])
def test_the_distance_grows_with_the_error(error, norm, normalize):
  """The image as a layer covers errors that the critic's norms remove."""
  loss = dataclasses.replace(LOSS, normalize=normalize, image_weight=1.0)
  x = photographs()
  towards = {
    'noise': x + np.random.default_rng(3).normal(0, 0.5, x.shape),
    'blur': blurred(x),
    'brightness': x + 0.5,
    'contrast': 0.1 * x,
  }[error].astype(np.float32)
  found = [
    mean_distance(norm, loss, x, x + share * (towards - x))
    for share in np.float32([0, 0.05, 0.2, 0.5, 1])
  ]
  assert abs(found[0]) < 1e-6
  assert (np.diff(found) > 0).all()


@pytest.mark.parametrize('norm', ['group', 'batch'])
def test_the_image_as_a_layer_keeps_the_contrast_that_norms_remove(norm):
  x = photographs()
  without, with_image = (
    dataclasses.replace(LOSS, image_weight=weight) for weight in (0.0, 1.0)
  )
  grey = mean_distance(norm, without, x, 0.1 * x)
  other = mean_distance(norm, without, x, x[::-1])
  if norm == 'group':
    assert grey < 0.05 * other
  assert mean_distance(norm, with_image, x, 0.1 * x) > 0.5


@pytest.mark.parametrize('normalize', ['batch', 'local'])
def test_the_batch_spans_all_devices_of_the_axis(normalize):
  """Two halves with an `axis_name` have the distance of the whole."""
  x = photographs()
  y = blurred(x)

  def half(x, y, axis_name=None):
    return perceptual.perceptual_distance(
      *critic('none'),
      x,
      y,
      normalize=normalize,
      reduction='mean',
      axis_name=axis_name,
    )

  whole = jax.jit(half)(x, y)
  halves = [i.reshape(2, -1, *i.shape[1:]) for i in (x, y)]
  for axis_name in ('devices', None):
    found = jax.jit(
      jax.vmap(
        functools.partial(half, axis_name=axis_name), axis_name='devices'
      )
    )(*halves).reshape(-1)
    same = np.allclose(found, whole, rtol=1e-4)
    assert same == (axis_name is not None)


def test_the_scale_is_a_constant_to_the_gradient():
  x, y = photographs()[:4], blurred(photographs()[:4])
  options = dict(normalize='batch', reduction='mean')
  scale = np.square(x).mean()

  def total(x):
    given = {'layer': x}
    return distances.feature_distance(given, {'layer': y}, **options).sum()

  wanted = 2 * (x - y) / x[0].size / scale
  got = jax.jit(jax.grad(total))(x)
  np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-8)


def test_an_error_of_brightness_counts_in_every_layer_of_the_image():
  """An error of the finest detail counts in the first, and in the high pass."""
  x = np.zeros((1, 8, 8, 1), np.float32)
  x[:, ::2] = 1.0  # Its mean square is 1/2, and that of its means 1/4.
  detail = x * 1.0
  detail[:, :, ::2] += 0.2
  detail[:, :, 1::2] -= 0.2
  for halvings, high_pass, wanted, fine in (
    (0, 0.0, 0.08, 0.08),
    (1, 0.0, 0.08 + 0.16, 0.08),
    (3, 0.0, 0.08 + 3 * 0.16, 0.08),
    (0, 0.5, 0.08, 0.08 + 0.5 * 0.16),
  ):
    loss = dataclasses.replace(
      LOSS, image_weight=1.0, image_halvings=halvings, image_high_pass=high_pass
    )
    brighter = compare_as_one(loss, x, x + 0.2, {'a': x}, {'a': x})
    np.testing.assert_allclose(brighter, [wanted], rtol=1e-5)
    finer = compare_as_one(loss, x, detail, {'a': x}, {'a': x})
    np.testing.assert_allclose(finer, [fine], rtol=1e-5)


def test_an_enlarged_image_has_a_bounded_high_pass():
  """Its finest band is 0, and counts as a thousandth of the image."""
  x = np.ones((2, 4, 4, 1), np.float32)
  y = x + 0.1 * (-1.0) ** np.arange(4.0, dtype=np.float32)[:, None]
  loss = dataclasses.replace(LOSS, image_weight=1.0, image_high_pass=1.0)
  found = compare_as_one(loss, x, y, {'a': x}, {'a': x})
  np.testing.assert_allclose(found, [0.01 + 0.01 / 1e-3] * 2, rtol=1e-4)


def test_the_image_layers_of_an_odd_side_keep_its_edge():
  x = np.arange(5, dtype=np.float32).reshape(1, 5, 1)  # One axis of space.
  layers, shares = jitted(image_layers, x, num_halvings=3, high_pass=True)
  assert shares is None
  for name, wanted in (
    ('image', [0, 1, 2, 3, 4]),
    ('image_1', [0.5, 2.5, 4.0]),
    ('image_2', [1.5, 4.0]),
    ('image_3', [2.75]),
    ('high_pass', [-0.5, 0.5, -0.5, 0.5, 0]),
  ):
    np.testing.assert_allclose(layers.pop(name)[0, :, 0], wanted)
  assert not layers
  assert list(image_layers(x, 0, high_pass=True)[0]) == ['image', 'high_pass']
