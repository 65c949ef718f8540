"""Convolutions in an equal form give what the plain ones do, in float64.

So do their derivatives, of every kind that training takes.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaegan_jax.models.convolving import convolve as by_slabs
from vaegan_jax.models.doubling import double_and_convolve
from vaegan_jax.models.halving import halve

SIDES = (4, 6, 2)  # Of one to three axes of space.
CHANNELS, FEATURES = 3, 2


def convolve(x, kernel, stride):
  """XLA's, with a pixel of zeros around."""
  num_axes = x.ndim - 2
  letters = 'DHW'[-num_axes:]
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (stride,) * num_axes,
    [(1, 1)] * num_axes,
    dimension_numbers=(f'N{letters}C', f'{letters}IO', f'N{letters}C'),
  )


def halve_plainly(x, kernel):
  return convolve(x, kernel, 2)


def double_plainly(x, kernel):
  for axis in range(1, x.ndim - 1):
    x = jnp.repeat(x, 2, axis)
  return convolve(x, kernel, 1)


def value(function):
  return function


def gradients(function):
  """Of something that is not linear, in both arguments."""
  return jax.grad(lambda *args: jnp.sin(function(*args)).sum(), (0, 1))


def forward_over_reverse(function):
  """The gradient's derivative along itself: R1, as it is computed."""

  def slopes(x, kernel):
    direction = gradients(function)(x, kernel)
    return jax.jvp(gradients(function), (x, kernel), direction)[1]

  return slopes


def reverse_over_forward(function):
  """The gradient of a slope, as R1's step takes it."""

  def slope(x, kernel):
    direction = jax.lax.stop_gradient(gradients(function)(x, kernel)[0])
    return jax.jvp(
      lambda x: jnp.sin(function(x, kernel)).sum(), (x,), (direction,)
    )[1]

  return jax.grad(slope, (0, 1))


def reverse_over_reverse(function):
  """The gradient of a gradient's length."""
  return jax.grad(
    lambda *args: (gradients(function)(*args)[0] ** 2).sum(), (0, 1)
  )


FIRST = (value, gradients)
# The rule of `halve` is our own.
ALL = (*FIRST, forward_over_reverse, reverse_over_forward, reverse_over_reverse)
FORMS = {
  'halve': (halve, halve_plainly, 4, ALL),
  'double': (double_and_convolve, double_plainly, 3, FIRST),
}


@pytest.mark.parametrize('num_axes', [1, 2, 3])
@pytest.mark.parametrize('name', FORMS)
def test_an_equal_form_has_every_value_of_the_plain_one(name, num_axes):
  form, plain, taps, whats = FORMS[name]
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, *SIDES[:num_axes], CHANNELS))
  kernel = rng.normal(size=(*[taps] * num_axes, CHANNELS, FEATURES))

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


def test_an_odd_side_is_halved_and_differentiated_too():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(1, 5, 7, 1)).astype(np.float32)
  kernel = rng.normal(size=(4, 4, 1, 2)).astype(np.float32)
  for what in (value, gradients):
    got, want = (what(f)(x, kernel) for f in (halve, halve_plainly))
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_on_a_cpu_no_gradient_is_dilated():
  x, kernel = jnp.zeros((1, 8, 8, 2)), jnp.zeros((4, 4, 2, 3))
  text = jax.jit(gradients(halve)).lower(x, kernel).as_text()
  plain = jax.jit(gradients(halve_plainly)).lower(x, kernel).as_text()
  assert 'lhs_dilate = [2, 2]' in plain
  assert 'lhs_dilate = [2, 2]' not in text


@pytest.mark.parametrize('padding', ['SAME', 'VALID', [(2, 0), (0, 1), (1, 1)]])
@pytest.mark.parametrize('strides', [(1, 1, 1), (2, 1, 3)])
@pytest.mark.parametrize('features', [2, 5])  # Fewer and more than channels.
def test_volumes_are_convolved_by_slabs(features, strides, padding):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 5, 6, 7, CHANNELS))
  kernel = rng.normal(size=(3, 2, 4, CHANNELS, features))
  layout = ('NDHWC', 'DHWIO', 'NDHWC')

  def plain(x, kernel):
    return jax.lax.conv_general_dilated(
      x, kernel, strides, padding, dimension_numbers=layout
    )

  def form(x, kernel):
    return by_slabs(x, kernel, strides, padding)

  with jax.enable_x64(True):
    for what in FIRST:
      got, want = what(form)(x, kernel), what(plain)(x, kernel)
      jax.tree.map(
        functools.partial(np.testing.assert_allclose, atol=1e-12), got, want
      )
  text = jax.jit(form).lower(x, kernel).as_text()
  assert 'stablehlo.convolution' in text
  assert '0, 1, 2]' not in text  # No convolution over three axes.
