"""The convolution of 4 taps and stride 2, with an input gradient for CPUs.

XLA's own rule puts zeros between the pixels of the gradient and convolves at
the full size, which a CPU is slow at. Instead, each sub-pixel of the input's
gradient is a convolution of 2 taps an axis, at the small size.

Written over one to three axes of space.
"""

import itertools

import jax
from jax.custom_derivatives import SymbolicZero

from vaegan_jax.models.convolving import convolve


@jax.custom_jvp
def halve(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """A convolution of 4 taps an axis, stride 2, with a pixel of zeros around.

  Args:
    x: [B, *(2 space), C].
    kernel: [4, ..., C, F].

  Returns:
    [B, *space, F].
  """
  num_axes = x.ndim - 2
  return convolve(x, kernel, (2,) * num_axes, [(1, 1)] * num_axes)


def _halve_jvp(primals, tangents):
  """The tangent of x takes the form whose transpose is the fast gradient.

  That is ordinary JAX, to be differentiated in either mode and again; a
  `custom_vjp` would forbid the forward mode that R1 takes.
  """
  x, kernel = primals
  dx, dkernel = tangents
  # An accelerator's library has an input gradient of its own.
  odd = any(size % 2 for size in x.shape[1:-1])
  is_plain = odd or jax.default_backend() != 'cpu'
  linear = halve.fun if is_plain else _halve_by_phase
  tangent = 0  # Of what does not move there is none, and it costs nothing.
  if not isinstance(dx, SymbolicZero):
    tangent += linear(dx, kernel)
  if not isinstance(dkernel, SymbolicZero):
    tangent += halve.fun(x, dkernel)
  return halve(x, kernel), tangent


halve.defjvp(_halve_jvp, symbolic_zeros=True)


def _halve_by_phase(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """The same, as a sum over the even and the odd pixels of each axis."""
  num_axes = x.ndim - 2
  pairs = [n for size in x.shape[1:-1] for n in (size // 2, 2)]
  x = x.reshape(x.shape[0], *pairs, x.shape[-1])
  total = 0
  for phase in itertools.product((0, 1), repeat=num_axes):
    pixels = [place for i in phase for place in (slice(None), i)]
    # An even pixel meets taps 1 and 3; an odd one taps 0 and 2.
    total += convolve(
      x[:, *pixels],
      kernel[*(slice(1 - i, None, 2) for i in phase)],
      (1,) * num_axes,
      [(i, 1 - i) for i in phase],
    )
  return total
