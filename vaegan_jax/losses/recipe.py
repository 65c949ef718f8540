"""The loss that a run trains its autoencoder with, as one function.

Axes: B batch, S one to three axes of space, C channels.
"""

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
from vaegan_jax.losses.perceptual import (
  capture_pair,
  check_module,
  options_of,
)
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

  It is the distance in the critic's features, that of the images, and the
  adversarial loss. The critic runs once. Gradients reach x_recon alone.

  Args:
    critic, variables, x, x_recon, where: as for `perceptual_distance`.
    layers, **apply_kwargs: as for `capture_features`.
    weights, normalize, norm, reduction, axis_name, min_sizes: see
      `feature_distance`.
    image_weight: weight of the image's layers, 'image', 'image_1', ...; 0: off.
    image_halvings: number of resolutions below the image's own.
    image_high_pass: weight of its finest band, times `image_weight`; 0: none.
    spectrum_weight: weight of each log-mel spectrum of sounds [B, T, C] as a
      layer, 'mel_32', 'mel_64', ...; 0: none.
    sample_rate: of sounds, in Hz.
    adversarial_weight: weight of the adversarial loss; 0: none.
    objective: the critic's, one of `names.ADVERSARIAL_OBJECTIVES`.
    logits: takes the logits [B] or [B, *S'] from the critic's output.

  Returns:
    The loss [B], and its weighted terms, whose sum it is: {'features': {layer:
    [B]}, 'image': {layer: [B]}, 'spectra': {layer: [B]}, 'adversarial': [B]},
    without those of weight 0.
  """
  check_module(critic, variables)
  check_options(critic, apply_kwargs, options_of(reconstruction_loss))
  check_images(('x', 'x_recon'), x, x_recon)
  how = Comparison(normalize, norm, reduction, axis_name)
  _check(x, how, image_halvings, min_sizes, logits)
  if spectrum_weight:
    check_sounds(x, sample_rate)
  x, x_recon, where = masks.apply(where, jax.lax.stop_gradient(x), x_recon)
  output, *features = capture_pair(
    critic, variables, x, x_recon, layers, apply_kwargs, frozen=True
  )
  image = image_weight, image_halvings, min_sizes, image_high_pass
  weighting = Weighting(weights, *image, spectrum_weight, sample_rate)
  terms = distance_terms(x, x_recon, *features, how, weighting, where)
  check_sizes(min_sizes, {k: v for t in terms.values() for k, v in t.items()})
  loss = total(terms)
  if adversarial_weight:
    found = _adversarial_losses(logits(output), objective, x, where)
    terms['adversarial'] = adversarial_weight * found
    loss += terms['adversarial']
  return loss, terms


def _check(x, how, image_halvings, min_sizes, logits) -> None:
  """Raises a ValueError for options that cannot be used, or warns."""
  warn_of_unnamed_axes(x, how)
  check_count('image_halvings', image_halvings)
  check_sizes(min_sizes)
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
