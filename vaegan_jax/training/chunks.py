"""Computes on a batch in chunks, one after the other, which saves memory.

A chunk is treated as a device's share of the batch is: its results are averaged
with those of the others. Arrays of a batch in A chunks are [A, B / A, ...]. A
batch in one chunk is an ordinary batch [B, ...], and nothing here changes its
program.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vaegan_jax.losses import masks


def map_chunks(
  function: Callable[[Any], tuple[Any, Any]],
  number: int,
  batch: Any,
  *,
  after: Any = (),
) -> tuple[Any, Any]:
  """Applies a function to each chunk in turn.

  Args:
    function: (chunk) -> (its values, other results).
    number: A.
    batch: a tree of arrays of a batch in A chunks.
    after: arrays that are computed before the first chunk.

  Returns:
    The values of all chunks [A, ...], and the mean of the other results.
  """
  if number == 1:
    return function(batch)
  function = jax.jit(function)  # Traced once.
  first = jax.tree.map(lambda leaf: leaf[0], batch)
  _, shapes = jax.eval_shape(function, first)
  sums = jax.tree.map(lambda like: jnp.zeros(like.shape, like.dtype), shapes)

  def step(carry, chunk):
    sums, last = carry
    values, results = function(_following(chunk, last))
    sums = jax.tree.map(jnp.add, sums, results)
    return (sums, _probe((values, results))), values

  # A CPU runs convolutions in a loop many times as slowly.
  unroll = number if jax.default_backend() == 'cpu' else 1
  (sums, _), values = jax.lax.scan(
    step, (sums, _probe(after)), batch, unroll=unroll
  )
  return values, jax.tree.map(lambda total: total / number, sums)


def vjp(
  function: Callable, params: Any, number: int, batch: Any
) -> tuple[Any, Callable, Any]:
  """Computes `jax.vjp` with respect to parameters that all chunks share.

  With several chunks the backward pass computes each chunk's forward pass again
  and keeps the intermediate values of one chunk.

  Args:
    function: (params, chunk) -> (values, auxiliary results).

  Returns:
    The values; (cotangents of the values, each as of a mean over one chunk) ->
    the mean gradient; the mean of the auxiliary results.
  """
  if number == 1:
    values, pull_back, results = jax.vjp(
      lambda params: function(params, batch), params, has_aux=True
    )
    return values, lambda cotangents: pull_back(cotangents)[0], results
  values, results = map_chunks(
    functools.partial(function, params), number, batch
  )

  def pull_back(cotangents):
    def gradient(chunk):
      own, cotangents = chunk
      _, pull_back_chunk, _ = vjp(function, params, 1, own)
      return (), pull_back_chunk(cotangents)

    pairs = batch, cotangents
    return map_chunks(gradient, number, pairs, after=cotangents)[1]

  return values, pull_back, results


def batch_means(
  function: Callable, number: int, batch: Any, psum: Callable
) -> list[jax.Array] | None:
  """Computes the means over the whole batch that a function of a chunk takes.

  Args:
    function: (chunk, average) -> anything. It takes its means by `average`, a
      function (values, weights or None) -> their mean []; see
      `distances.batch_mean`.
    psum: (tree) -> its sum over the devices.

  Returns:
    The means [], in the order in which it takes them, for `returning`; None for
    one chunk.
  """
  if number == 1:
    return None

  def measure(chunk):
    sums = []

    def average(values, weights):
      weights = 1.0 if weights is None else weights
      sums.append(masks.weighted_sums(values, weights))
      return masks.divide(*sums[-1])

    function(chunk, average)
    return (), sums

  _, sums = map_chunks(measure, number, batch)
  return [masks.divide(*each) for each in psum(sums)]


def returning(means: list[jax.Array] | None) -> Callable | None:
  """Returns an `average` of `batch_means` that returns these, in order."""
  if means is None:
    return None
  remaining = iter(means)
  return lambda values, weights: next(remaining)


def _probe(tree: Any) -> jax.Array:
  """Returns a number [] that depends on every array."""
  return sum(
    (leaf.ravel()[0].astype(jnp.float32) for leaf in jax.tree.leaves(tree)),
    jnp.float32(0),
  )


def _following(tree: Any, last: jax.Array) -> Any:
  """Returns a tree whose floats are computed after a number.

  XLA would otherwise compute the chunks at once, and merge a forward pass with
  its recomputation. Its CPU compiler ignores optimization barriers, so this is
  a dependency: numbers that are not finite become NaN, as the whole step is
  then.
  """

  def follow(leaf):
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
      return leaf
    return jnp.where(jnp.isnan(last), jnp.nan, leaf)

  return jax.tree.map(follow, tree)
