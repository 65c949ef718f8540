"""Muon, an optimizer of matrices (Jordan et al., 2024).

The update is the momentum with all its singular values brought near 1, so that
a kernel learns in every direction at one speed. A convolution's kernel is a
matrix of all its inputs by its outputs.
"""

import functools
import math

import jax
import jax.numpy as jnp
import optax

_MOMENTUM = 0.95
# The polynomial a s + b s^3 + c s^5, applied five times, takes singular values
# from 0.003 to 1 to between 0.7 and 1.2. These are the authors' numbers.
_COEFFICIENTS, _NUM_STEPS = (3.4445, -4.7750, 2.0315), 5
_MIN_NORM = 1e-8
# The loop works on squares of singular values, for which bfloat16 and TF32 are
# too coarse.
_dot = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def create(
  learning_rate: float | optax.Schedule,
) -> optax.GradientTransformation:
  """Creates the optimizer, whose state is the momentum."""
  return optax.chain(
    optax.trace(_MOMENTUM, nesterov=True),
    optax.stateless(lambda updates, _: jax.tree.map(_to_step, updates)),
    optax.scale_by_learning_rate(learning_rate),
  )


def _to_step(momentum: jax.Array) -> jax.Array:
  """Returns the step [..., inputs, outputs] of a kernel, before its rate.

  More outputs than inputs have a longer one, so that a kernel's effect does not
  depend on its shape.
  """
  matrix = momentum.reshape(-1, momentum.shape[-1])
  inputs, outputs = matrix.shape
  step = orthogonalize(matrix) * math.sqrt(max(1.0, outputs / inputs))
  return step.reshape(momentum.shape)


def orthogonalize(matrix: jax.Array) -> jax.Array:
  """Brings the singular values of a matrix [M, N] near 1.

  Each step multiplies by a polynomial in the products [K, K] of its rows, K the
  smaller of M and N. So the steps need small matrices alone.
  """
  if matrix.shape[0] > matrix.shape[1]:
    return orthogonalize(matrix.T).T
  matrix /= jnp.maximum(jnp.linalg.norm(matrix), _MIN_NORM)

  def step(_, carry):
    products, polynomial, factor = carry
    products = _dot(polynomial, _dot(products, polynomial))
    polynomial = _polynomial(products)
    return products, polynomial, _dot(polynomial, factor)

  products = _dot(matrix, matrix.T)
  polynomial = _polynomial(products)
  # A loop, as compiling all steps takes a fourth of an update's compilation.
  *_, factor = jax.lax.fori_loop(
    1, _NUM_STEPS, step, (products, polynomial, polynomial)
  )
  return _dot(factor, matrix)


def _polynomial(products: jax.Array) -> jax.Array:
  """Returns the factor [K, K] of one step."""
  a, b, c = _COEFFICIENTS
  identity = jnp.eye(len(products))
  return a * identity + b * products + c * _dot(products, products)
