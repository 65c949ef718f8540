"""Convolutions over one to three axes of space, in forms that CPUs run fast.

Each form computes the same products as the plain convolution, up to rounding.
Flax's layers take them as `conv_general_dilated_cls`, which keeps the names and
initial values of their parameters; see `blocks.Conv`.
Axes: B batch, S the axes of space, C channels in, F features out.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero


def conv(
  x: jax.Array,
  kernel: jax.Array,
  strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  **options: Any,
) -> jax.Array:
  """Computes what `jax.lax.conv_general_dilated` does, in the fastest form.

  Args:
    x: [B, *S, C].
    kernel: [*kernel_size, C, F].
    strides: one an axis of space.
    padding: zeros before and after each axis, or 'SAME' or 'VALID'.
    **options: of `conv_general_dilated`. With three axes, and for the
      convolution that halves, only the defaults are supported.

  Returns:
    [B, *S', F].
  """
  num_axes = x.ndim - 2
  if (
    kernel.shape[:-2] == (4,) * num_axes
    and tuple(strides) == (2,) * num_axes
    and [*map(tuple, padding)] == [(1, 1)] * num_axes
  ):
    return downsample_conv(x, kernel)
  return _conv(x, kernel, strides, padding, **options)


def _conv(x, kernel, strides, padding, **options) -> jax.Array:
  """Convolves with XLA's own gradients.

  With three axes, XLA is 3 to 200 times as slow on a CPU as the same products
  in a convolution over the last two axes. There the kernel's positions along
  the first axis become channels.
  """
  num_axes = x.ndim - 2
  if num_axes == 3 and jax.default_backend() == 'cpu':
    return _conv_volumes(x, kernel, strides, padding)
  letters = 'DHW'[-num_axes:]
  layout = (f'N{letters}C', f'{letters}IO', f'N{letters}C')
  options = {'dimension_numbers': layout} | options
  return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)


def _conv_volumes(x, kernel, strides, padding) -> jax.Array:
  """Convolves volumes as a batch of slices, one slice for each depth."""
  if isinstance(padding, str):
    padding = jax.lax.padtype_to_pads(
      x.shape[1:4], kernel.shape[:3], strides, padding
    )
  (stride, *strides), (ends, *padding) = strides, padding
  kernel_depth, channels, features = kernel.shape[0], *kernel.shape[-2:]
  depth = (x.shape[1] + sum(ends) - kernel_depth) // stride + 1

  def shifted(slices):
    """Returns the slices that meet each depth of the kernel, in its order."""
    slices = jnp.pad(slices, [(0, 0), ends, *[(0, 0)] * (slices.ndim - 2)])
    last = stride * (depth - 1) + 1
    return [slices[:, i : i + last : stride] for i in range(kernel_depth)]

  def conv_slices(slices, kernel):
    images = slices.reshape(-1, *slices.shape[2:])
    images = _conv(images, kernel, strides, padding)
    return images.reshape(*slices.shape[:2], *images.shape[1:])

  # The smaller of input and output is the one that is copied.
  if features > channels or stride > 1:
    joined = jnp.concatenate(shifted(x), -1)
    return conv_slices(joined, jnp.concatenate(list(kernel), -2))
  joined = conv_slices(x, jnp.concatenate(list(kernel), -1))
  parts = shifted(joined)
  return sum(
    part[..., i * features : (i + 1) * features] for i, part in enumerate(parts)
  )


@jax.custom_jvp
def downsample_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Convolves with kernel size 4, stride 2 and one zero at each end.

  Its input gradient is fast on a CPU. XLA's own rule dilates the output's
  gradient and convolves at the full size, which is slow there. Here each phase
  of the input's pixels gets a convolution of size 2, at the small size.

  Maps x: [B, *(2 S), C], with kernel [4, ..., C, F], to [B, *S, F].
  """
  num_axes = x.ndim - 2
  return _conv(x, kernel, (2,) * num_axes, [(1, 1)] * num_axes)


def _downsample_conv_jvp(primals, tangents):
  """Computes the tangent of x in the form whose transpose is fast.

  This is ordinary JAX, so that it can be differentiated again in either mode.
  A `custom_vjp` would forbid the forward mode that R1 uses.
  """
  x, kernel = primals
  dx, dkernel = tangents
  # An accelerator's library has a fast input gradient.
  odd = any(size % 2 for size in x.shape[1:-1])
  is_plain = odd or jax.default_backend() != 'cpu'
  linear = downsample_conv.fun if is_plain else _downsample_conv_by_phase
  tangent = 0  # A constant input has no tangent, and costs nothing.
  if not isinstance(dx, SymbolicZero):
    tangent += linear(dx, kernel)
  if not isinstance(dkernel, SymbolicZero):
    tangent += downsample_conv.fun(x, dkernel)
  return downsample_conv(x, kernel), tangent


downsample_conv.defjvp(_downsample_conv_jvp, symbolic_zeros=True)


def _downsample_conv_by_phase(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Sums convolutions of the even and of the odd pixels of each axis."""
  num_axes = x.ndim - 2
  pairs = [n for size in x.shape[1:-1] for n in (size // 2, 2)]
  x = x.reshape(x.shape[0], *pairs, x.shape[-1])
  total = 0
  for phase in itertools.product((0, 1), repeat=num_axes):
    pixels = [index for i in phase for index in (slice(None), i)]
    # An even pixel meets kernel positions 1 and 3; an odd one meets 0 and 2.
    total += _conv(
      x[:, *pixels],
      kernel[*(slice(1 - i, None, 2) for i in phase)],
      (1,) * num_axes,
      [(i, 1 - i) for i in phase],
    )
  return total


def upsample_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Enlarges x by nearest neighbour and convolves, without the enlarged x.

  After enlarging by s, several of a kernel's 2 s - 1 positions on each axis
  meet the same pixel, so their sum is enough. Each sub-pixel is then a
  convolution of size 2 or 3, at the small size: with two axes and s = 2, 4/9 of
  the products. Shi et al. (arXiv 1609.05158) order sub-pixels the same way.
  Odena et al. (https://distill.pub/2016/deconv-checkerboard) say why one
  resizes first.

  On a CPU the sub-pixels have a convolution each: joined into one of more
  features, or as a transposed one, they ran ten times as slowly.

  Maps x: [B, *S, C] to [B, *(s S), F], with the kernel [2 s - 1, ..., C, F] of
  a convolution with s - 1 zeros at each end.
  """
  num_axes, stride = x.ndim - 2, (kernel.shape[0] + 1) // 2
  if jax.default_backend() != 'cpu':
    return _upsample_conv_transposed(x, kernel, stride)
  phases = functools.partial(itertools.product, range(stride))
  pixels = {
    phase: _conv(
      x,
      _sum_kernel(kernel, phase),
      (1,) * num_axes,
      [(int(i < stride - 1), int(i > 0)) for i in phase],
    )
    for phase in phases(repeat=num_axes)
  }
  for axis in reversed(range(num_axes)):
    pixels = {
      phase: _interleave([pixels[*phase, i] for i in range(stride)], axis + 1)
      for phase in phases(repeat=axis)
    }
  return pixels[()]


def _upsample_conv_transposed(x, kernel, stride) -> jax.Array:
  """Computes it as one transposed convolution, as accelerators do fast.

  Enlarging is to put zeros between the pixels and to sum over windows of the
  stride. These windows and the kernel together are one kernel. On a TPU the
  sub-pixels of the other form are copied several times to be interleaved.
  """
  num_axes = x.ndim - 2
  for axis in range(num_axes):
    widths = [(0, 0)] * kernel.ndim
    shifted = []
    for shift in range(stride):
      widths[axis] = (shift, stride - 1 - shift)
      shifted.append(jnp.pad(kernel, widths))
    kernel = sum(shifted)
  padding = [(2 * stride - 2,) * 2] * num_axes
  return _conv(
    x, kernel, (1,) * num_axes, padding, lhs_dilation=(stride,) * num_axes
  )


def _sum_kernel(kernel: jax.Array, phase: tuple[int, ...]) -> jax.Array:
  """Returns the kernel of one sub-pixel out of [2 s - 1, ..., C, F].

  For sub-pixel i the first s - 1 - i positions meet the previous pixel, the
  next s the pixel itself, and the last i the next pixel. A pixel that no
  position meets does not count.
  """
  for axis, i in enumerate(phase):
    stride = (kernel.shape[axis] + 1) // 2
    parts = jnp.split(kernel, (stride - 1 - i, 2 * stride - 1 - i), axis)
    sums = [p.sum(axis, keepdims=True) for p in parts if p.shape[axis]]
    kernel = jnp.concatenate(sums, axis)
  return kernel


def _interleave(arrays: Sequence[jax.Array], axis: int) -> jax.Array:
  """Joins arrays of one shape, pixel by pixel along an axis."""
  shape = list(arrays[0].shape)
  shape[axis] *= len(arrays)
  return jnp.stack(arrays, axis + 1).reshape(shape)
