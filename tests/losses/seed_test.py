"""The distance of the post's own critic, against PyTorch's numbers.

The critic is that of the post's first trainer (mauicv/vaegan, October 2022),
with this recipe, in PyTorch 2.13 on a CPU:

- numpy's default_rng(0) samples normal weights, each with variance 1 / fan-in,
  in this order: [2, 3, 1, 1] of `nn.Conv2d(3, 2, 1)`; then, of each of three
  `nn.Conv2d(i, o, 4, 2, 1)` from 2 to 4, 8 and 16 channels, the weight
  [o, i, 4, 4] and the bias [o]; then, uniform in [-1, 1], x and y, each
  [2, 3, 16, 16];
- each of the three is followed by `nn.InstanceNorm2d(o)` and
  `nn.LeakyReLU(0.2)`, and the sum of the squared differences after each is
  below, for both images.

The first convolution has no activation and, here, no bias: it is part of the
kernel that comes after it.
"""

import functools
import itertools

import jax
import numpy as np
import pytest

from tests.networks import loss_config
from vaegan_jax import perceptual_distance
from vaegan_jax.losses import reconstruction
from vaegan_jax.models.critic import Critic

WIDTHS = (2, 4, 8, 16)
SUMS = {
  'block_0': (209.9782257080078, 242.3216552734375),
  'block_1': (86.07609558105469, 112.96672821044922),
  'block_2': (37.2738151550293, 59.573753356933594),
}


@pytest.fixture(scope='module')
def sampled():
  """Returns the critic, its variables, and both batches of images."""
  rng = np.random.default_rng(0)

  def normal(*shape, fan):
    return rng.normal(0, fan**-0.5, shape).astype(np.float32)

  first = normal(2, 3, 1, 1, fan=3)[:, :, 0, 0]
  params = {}
  for i, (before, features) in enumerate(itertools.pairwise(WIDTHS)):
    fan = 16 * before
    kernel = normal(features, before, 4, 4, fan=fan)
    if i == 0:
      kernel = np.einsum('oihw,ic->ochw', kernel, first)
    params[f'block_{i}'] = {
      'Conv_0': {
        'kernel': kernel.transpose(2, 3, 1, 0),
        'bias': normal(features, fan=fan),
      }
    }
  x, y = (
    rng.uniform(-1, 1, (2, 3, 16, 16)).astype(np.float32).transpose(0, 2, 3, 1)
    for _ in range(2)
  )
  critic = Critic(4, (1, 2, 4), norm='instance', head='none')
  shapes = jax.eval_shape(critic.init, jax.random.key(0), x)['params']
  assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, shapes)
  return critic, {'params': params}, x, y


@pytest.mark.parametrize('layers', [('block_1', 'block_2'), tuple(SUMS)])
def test_the_distance_is_that_of_the_posts_own_critic(sampled, layers):
  wanted = np.sum([SUMS[layer] for layer in layers], axis=0)
  critic, variables, x, y = sampled
  distance = functools.partial(perceptual_distance, critic, layers=layers)
  got = jax.jit(distance)(variables, x, y)
  np.testing.assert_allclose(got, wanted, rtol=1e-4)
  # The training term, with the fields of the documentation, is the same.
  loss = loss_config(layers=layers)
  losses = reconstruction.create_reconstruction_losses(critic, None, loss)
  terms, _ = jax.jit(losses)(variables, x, {'x_recon': y})
  np.testing.assert_allclose(terms['distance'], wanted, rtol=1e-4)
