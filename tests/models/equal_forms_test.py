"""Fast forms of convolutions equal the plain ones, in float64.

So do all derivatives that training uses.
"""

import itertools
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.benchmarks import hlo
from tests.networks import assert_close, assert_equal
from vaegan_jax.models import plain, residual
from vaegan_jax.models.conv import conv, downsample_conv, upsample_conv
from vaegan_jax.models.critic import Critic

SPACE = (4, 6, 2)
CHANNELS, FEATURES = 3, 2


def convolve(x, kernel, stride, padding=1):
  """XLA's convolution with `padding` zeros at each end."""
  num_axes = x.ndim - 2
  letters = 'DHW'[-num_axes:]
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (stride,) * num_axes,
    [(padding, padding)] * num_axes,
    dimension_numbers=(f'N{letters}C', f'{letters}IO', f'N{letters}C'),
  )


def plain_downsample_conv(x, kernel):
  return convolve(x, kernel, 2)


def plain_upsample_conv(x, kernel):
  stride = (kernel.shape[0] + 1) // 2
  for axis in range(1, x.ndim - 1):
    x = jnp.repeat(x, stride, axis)
  return convolve(x, kernel, 1, stride - 1)


def value(function):
  return function


def gradients(function):
  """Returns gradients of a nonlinear function in both arguments."""
  return jax.grad(lambda *args: jnp.sin(function(*args)).sum(), (0, 1))


def forward_over_reverse(function):
  """Returns the gradient's derivative along itself, as R1 needs."""

  def slopes(x, kernel):
    direction = gradients(function)(x, kernel)
    return jax.jvp(gradients(function), (x, kernel), direction)[1]

  return slopes


def reverse_over_forward(function):
  """Returns the gradient of a directional derivative, as R1's step needs."""

  def slope(x, kernel):
    direction = jax.lax.stop_gradient(gradients(function)(x, kernel)[0])
    return jax.jvp(
      lambda x: jnp.sin(function(x, kernel)).sum(), (x,), (direction,)
    )[1]

  return jax.grad(slope, (0, 1))


def reverse_over_reverse(function):
  """Returns the gradient of a gradient's squared norm."""
  return jax.grad(
    lambda *args: (gradients(function)(*args)[0] ** 2).sum(), (0, 1)
  )


FIRST = (value, gradients)
# `downsample_conv` has a rule of its own.
ALL = (*FIRST, forward_over_reverse, reverse_over_forward, reverse_over_reverse)
# Accelerators have a form of their own.
ON_TPU = mock.patch.object(jax, 'default_backend', lambda: 'tpu')
FORMS = {
  'downsample': (downsample_conv, plain_downsample_conv, 4, ALL),
  'upsample': (upsample_conv, plain_upsample_conv, 3, FIRST),
  'upsample by 3': (upsample_conv, plain_upsample_conv, 5, FIRST),
  'on a TPU': (ON_TPU(upsample_conv), plain_upsample_conv, 3, FIRST),
  'by 3 on a TPU': (ON_TPU(upsample_conv), plain_upsample_conv, 5, FIRST),
}
FORMS_AND_AXES = [
  *itertools.product(('downsample', 'upsample', 'on a TPU'), (1, 2, 3)),
  ('upsample by 3', 2),
  ('by 3 on a TPU', 2),
]


@pytest.mark.parametrize(('name', 'num_axes'), FORMS_AND_AXES)
def test_a_fast_form_equals_the_plain_one(name, num_axes):
  form, plain, kernel_size, whats = FORMS[name]
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, *SPACE[:num_axes], CHANNELS))
  kernel = rng.normal(size=(*[kernel_size] * num_axes, CHANNELS, FEATURES))

  def everything(function):
    return jax.jit(lambda *args: [what(function)(*args) for what in whats])

  with jax.enable_x64(True):
    got, want = everything(form)(x, kernel), everything(plain)(x, kernel)
    for one, other in zip(
      jax.tree.leaves(got), jax.tree.leaves(want), strict=True
    ):
      assert one.dtype == jnp.float64
      scale = np.abs(other).max()
      np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12 * scale)


def test_every_form_of_upsampling_has_the_same_products():
  x, kernel = jnp.zeros((1, 4, 4, 3)), jnp.zeros((3, 3, 3, 2))
  # A pixel meets 2 x 2 positions of each sub-pixel's kernel, at a border fewer:
  # 14 on an axis of 4 pixels.
  products = 14 * 14 * 3 * 2
  for form in (upsample_conv, ON_TPU(upsample_conv)):
    text = jax.jit(form).lower(x, kernel).as_text('hlo')
    assert hlo.count_flops(text) == 2 * products


def test_odd_sizes_are_halved_and_differentiated():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(1, 5, 7, 1)).astype(np.float32)
  kernel = rng.normal(size=(4, 4, 1, 2)).astype(np.float32)
  for what in (value, gradients):
    got, want = (
      what(f)(x, kernel) for f in (downsample_conv, plain_downsample_conv)
    )
    assert_equal(got, want)


def test_no_gradient_is_dilated_on_a_cpu():
  x, kernel = jnp.zeros((1, 8, 8, 2)), jnp.zeros((4, 4, 2, 3))
  text = jax.jit(gradients(downsample_conv)).lower(x, kernel).as_text()
  plain = jax.jit(gradients(plain_downsample_conv)).lower(x, kernel).as_text()
  assert 'lhs_dilate = [2, 2]' in plain
  assert 'lhs_dilate = [2, 2]' not in text


@pytest.mark.parametrize('padding', ['SAME', 'VALID', [(2, 0), (0, 1), (1, 1)]])
@pytest.mark.parametrize('strides', [(1, 1, 1), (2, 1, 3)])
@pytest.mark.parametrize('features', [2, 5])  # Fewer and more than channels.
def test_volumes_are_convolved_by_slices(features, strides, padding):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 5, 6, 7, CHANNELS))
  kernel = rng.normal(size=(3, 2, 4, CHANNELS, features))
  layout = ('NDHWC', 'DHWIO', 'NDHWC')

  def plain(x, kernel):
    return jax.lax.conv_general_dilated(
      x, kernel, strides, padding, dimension_numbers=layout
    )

  def form(x, kernel):
    return conv(x, kernel, strides, padding)

  @jax.jit
  def everything(x, kernel):
    return [[what(f)(x, kernel) for what in FIRST] for f in (form, plain)]

  with jax.enable_x64(True):
    assert_close(*everything(x, kernel), atol=1e-12)
  text = jax.jit(form).lower(x, kernel).as_text()
  assert 'stablehlo.convolution' in text
  assert '0, 1, 2]' not in text  # No convolution over three axes.


@pytest.mark.parametrize('num_axes', [1, 2, 3])
@pytest.mark.parametrize('network', ['plain', 'residual'])
def test_layers_declare_the_strides_of_their_convolutions(network, num_axes):
  """A layer's output is its input's size divided by its strides."""
  seen = []

  def check(call, args, kwargs, context):
    y = call(*args, **kwargs)
    layer = context.module
    if isinstance(layer, nn.Conv) and not layer.name.startswith('up_'):
      strides = layer.strides or 1
      if isinstance(strides, int):
        strides = (strides,) * num_axes
      space = [
        s // n for s, n in zip(args[0].shape[1:-1], strides, strict=True)
      ]
      assert list(y.shape[1:-1]) == space, layer
      seen.append(strides)
    return y

  x = jax.ShapeDtypeStruct((1, *[8] * num_axes, 3), jnp.float32)
  encoder = {'plain': plain, 'residual': residual}[network].Encoder(
    4, False, width=4, channel_multipliers=(1, 2)
  )
  critic = Critic(2, (1, 2), network=network)
  with nn.intercept_methods(check):
    for module in (encoder, critic):
      jax.eval_shape(module.init, jax.random.key(0), x)
  assert (2,) * num_axes in seen
