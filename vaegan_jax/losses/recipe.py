"""The loss that a run trains its autoencoder with, as one function.

Axes: B batch, S one to three axes of space, C channels.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vaegan_jax import names
from vaegan_jax.losses import masks
from vaegan_jax.losses.adversarial import OBJECTIVES, mean_over_map
from vaegan_jax.losses.arguments import (
  Weights,
  check_choice,
  check_count,
  check_images,
  check_options,
  check_sizes,
  check_sounds,
)
from vaegan_jax.losses.distances import (
  AxisName,
  Comparison,
  Sizes,
  warn_of_unnamed_axes,
)
from vaegan_jax.losses.layers import Layers
from vaegan_jax.losses.perceptual import capture_pair, check_module, options_of
from vaegan_jax.losses.terms import Weighting, distance_terms, total


def reconstruction_loss(
  critic: Any,
  variables: Mapping[str, Any] | None,
  x: jax.Array,
  x_recon: jax.Array,
  *,
  layers: Layers | None = None,
  weights: Weights | None = None,
  normalize: str = 'local',
  norm: str = 'l2',
  reduction: str = 'mean',
  image_weight: float = 1.0,
  image_halvings: int = 3,
  image_growth: float = 1.0,
  image_high_pass: float = 1.0,
  spectrum_weight: float = 0.0,
  sample_rate: int = 16_000,
  adversarial_weight: float = 0.2,
  objective: str = 'geometric',
  logits: Callable[[Any], jax.Array] = lambda output: output,
  axis_name: AxisName | None = None,
  min_sizes: Sizes | None = None,
  where: jax.Array | None = None,
  **apply_kwargs: Any,
) -> tuple[jax.Array, dict[str, Any]]:
  """Computes the loss of reconstructions, by default that of a run.

  It is the distance in the critic's features and of the images themselves, and
  the adversarial loss. The critic runs once. Gradients reach x_recon alone.

  Args:
    critic, variables, x, x_recon, layers, ...: as for `perceptual_distance`.
    image_weight: weight of the image's layers, 'image', 'image_1', ...; 0: off.
    image_halvings: lower resolutions; each has `image_growth` times the weight.
    image_high_pass: weight of its finest band, times `image_weight`; 0: none.
    spectrum_weight: of each log-mel spectrum of sounds at `sample_rate` (Hz).
    adversarial_weight: of the adversarial loss of the `objective`; 0: none.
    logits: takes the logits [B] or [B, *S'] from the critic's output.

  Returns:
    The loss [B], and its weighted terms, whose sum it is: {layer: [B]} in
    'features', 'image' and 'spectra', and 'adversarial' [B]; none of weight 0.
  """
  check_module(critic, variables)
  check_options(critic, apply_kwargs, options_of(reconstruction_loss))
  how = Comparison(normalize, norm, reduction, axis_name)
  own = image_weight, image_halvings, image_growth, min_sizes, image_high_pass
  weighting = Weighting(weights, *own, spectrum_weight, sample_rate)
  _check(x, x_recon, how, weighting, logits)
  x, x_recon, where = masks.apply(where, jax.lax.stop_gradient(x), x_recon)
  output, *features = capture_pair(
    critic, variables, x, x_recon, layers, apply_kwargs, frozen=True
  )
  terms = distance_terms(x, x_recon, *features, how, weighting, where)
  check_sizes(min_sizes, {k: v for t in terms.values() for k, v in t.items()})
  if not adversarial_weight:
    return total(terms), terms
  each = _adversarial_losses(logits(output), objective, x, where)
  adversarial = adversarial_weight * each
  return total(terms) + adversarial, terms | {'adversarial': adversarial}


def _check(x, x_recon, how, weighting, logits) -> None:
  """Raises a ValueError for arguments that cannot be used, or warns."""
  check_images(('x', 'x_recon'), x, x_recon)
  warn_of_unnamed_axes(x, how)
  check_count('image_halvings', weighting.image_halvings)
  if not 0 < weighting.image_growth < math.inf:
    raise ValueError(
      f'image_growth is {weighting.image_growth!r}; expected a number above 0'
    )
  check_sizes(weighting.min_sizes)
  if weighting.spectrum_weight:
    check_sounds(x, weighting.sample_rate)
  if not callable(logits):
    raise ValueError(
      f'logits is {logits!r}; expected a function of the output, such as '
      "lambda output: output['logits']"
    )


def _adversarial_losses(logits, objective, x, where) -> jax.Array:
  """Computes the adversarial loss [B] of logits [B], [B, *S] or [B, *S, 1].

  It is the mean over an example's logits, of which a mask may exclude some.
  """
  check_choice('objective', objective, names.ADVERSARIAL_OBJECTIVES)
  fits = isinstance(logits, jax.Array) and logits.shape[:1] == x.shape[:1]
  if not fits or logits.ndim > x.ndim:
    found = getattr(logits, 'shape', f'a {type(logits).__name__}')
    raise ValueError(
      f"the critic's output is {found}; expected logits [B] or maps [B, *S]: "
      'give logits=lambda output: ..., which takes them from it, or '
      'adversarial_weight=0'
    )
  logits = logits.astype(jnp.float32)
  return mean_over_map(OBJECTIVES[objective].adversarial_loss(logits), where)
