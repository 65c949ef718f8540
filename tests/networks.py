"""Small networks of the tests, and calls of them."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from vaegan_jax import models
from vaegan_jax.config.schema import create_config
from vaegan_jax.data.data_config import as_pair
from vaegan_jax.losses.reconstruction import LossConfig


@functools.cache
def _jit(function, flags, static):
  function = functools.partial(function, **dict(static))
  return jax.jit(function, static_argnums=flags)


def _call(function, args, static):
  flags = tuple(i for i, arg in enumerate(args) if isinstance(arg, bool))
  return _jit(function, flags, tuple(static.items()))(*args)


def jitted(function: Callable, *args, **static) -> Any:
  """Calls a function as one program, and returns NumPy's arrays.

  An eager call compiles every operation by itself, which takes seconds, and so
  does what tests would do with JAX's arrays.
  """
  return jax.device_get(_call(function, args, static))


def uniform(*shape, seed=0) -> np.ndarray:
  """Returns numbers from -1 to 1, float32."""
  rng = np.random.default_rng(seed)
  return rng.uniform(-1, 1, shape).astype(np.float32)


def assert_close(got, expected, **tolerance) -> None:
  """Asserts closeness of all leaves of two trees."""
  close = functools.partial(np.testing.assert_allclose, **tolerance)
  jax.tree.map(close, got, expected)


def shapes(tree) -> Any:
  """Returns the tree of the leaves' shapes."""
  return jax.tree.map(np.shape, tree)


def abstract_apply(module, *inputs) -> tuple[Any, Any]:
  """Returns the shapes of variables and outputs, without computing."""
  variables = jax.eval_shape(module.init, jax.random.key(0), *inputs)
  return variables, jax.eval_shape(module.apply, variables, *inputs)


def convolve(x, layer, stride=2) -> jax.Array:
  """Convolves [B, H, W, C] with a zero at each end, by XLA alone."""
  return layer.get('bias', 0) + jax.lax.conv_general_dilated(
    x,
    layer['kernel'],
    (stride, stride),
    ((1, 1), (1, 1)),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


def random_variables(module, *inputs) -> dict[str, Any]:
  """Returns variables without zeros, and without compiling `init`."""
  rng = np.random.default_rng(1)
  shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
  return jax.tree.map(
    lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes
  )


def model_fields(**fields) -> dict[str, Any]:
  """Returns `config.model` of a small network, with changes."""
  multipliers = fields.get('channel_multipliers', (1, 2))
  is_residual = fields.get('network') == 'residual'
  small = {
    'width': 2,
    'depth': len(multipliers) - is_residual,
    'channel_multipliers': multipliers,
    'latent_dim': 4,
    'code_dim': 2,
    'codebook_size': 8,
    'fsq_levels': (3, 4),
  }
  return create_config().model.to_dict() | small | fields


def critic_fields(**fields) -> dict[str, Any]:
  """Returns `config.critic` of a small network, with changes."""
  small = {'width': 2, 'channel_multipliers': (1, 2)}
  return create_config().critic.to_dict() | small | fields


def autoencoder(side, channels, latent_dim=4, **fields):
  """Builds an autoencoder: by default plain, with a flat Gaussian latent."""
  fields = model_fields(latent_dim=latent_dim, **fields)
  return models.create_autoencoder(as_pair(side), channels, **fields)


def reconstruct(module, variables, x, noise=None):
  """Returns (x_recon, mean, logvar) of a Gaussian autoencoder.

  It may be called in a transformation, as losses are that tests write out.
  """
  encoded = _call(module.apply, (variables, x), {'method': 'encode'})
  x_recon, _, _ = _call(module.apply, (variables, x, noise), {})
  return x_recon, encoded['mean'], encoded['logvar']


def assert_equal(a, b):
  """Asserts trees of the same structure and bits."""
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


# Fields of a loss of the distance and the KL alone, as in the post.
POST_LOSS = {
  'layers': (),
  'layer_weights': (),
  'normalize': 'none',
  'reduction': 'sum',
  'image_weight': 0.0,
  'image_halvings': 0,
  'image_high_pass': 0.0,
  'pixel_weight': 0.0,
  'adversarial_weight': 0.0,
  'adversarial_ramp_steps': 0,
  'kl_weight': 1.0,
}


def loss_config(**fields) -> LossConfig:
  """Returns the loss of the post, with changes."""
  return LossConfig(**(POST_LOSS | fields))
