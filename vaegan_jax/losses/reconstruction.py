"""The reconstruction losses: distance, pixel error and adversarial loss.

The distance is measured in the features of a frozen critic, or between pixels.
Axes: B examples on one device, S one to three axes of space, C channels.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vaegan_jax.losses import distances, masks, perceptual, spectra
from vaegan_jax.losses.adversarial import mean_over_map
from vaegan_jax.losses.moments import image_moments, mean_sizes
from vaegan_jax.losses.terms import (
  Weighting,
  distance_terms,
  image_layers,
  total,
  value_weights,
)

_MIN_VARIANCE = 1e-6  # A standard deviation of a seventh of an 8-bit level.
# (critic's variables or None, x, outputs) -> ({term: [B]}, moments).
ReconstructionLosses = Callable[
  ..., tuple[dict[str, jax.Array], dict[str, Any]]
]


@dataclasses.dataclass(frozen=True)
class LossConfig:
  """Settings of the autoencoder's loss; the fields of `config.loss`.

  The loss is distance_weight * distance + pixel_weight * pixel error +
  kl_weight * KL, plus the adversarial loss with a weight that rises from 0 over
  the ramp.
  """

  layers: tuple[str, ...]
  layer_weights: tuple[float, ...]
  normalize: str
  reduction: str
  # Weight of the image itself as a layer of the distance, before the critic's.
  image_weight: float
  # Further such layers: the image at a half of its size, at a quarter, ...
  image_halvings: int
  # Weight of the image's finest band as such a layer, in units of theirs.
  image_high_pass: float
  pixel_weight: float
  adversarial_weight: float
  adversarial_ramp_steps: int
  kl_weight: float
  # Bits an example to which the KL weight is steered from `kl_weight`; 0: off.
  rate: float = 0.0
  # Whether the encoder too receives the adversarial gradient (arXiv 1512.09300,
  # section 2.3, excludes it).
  adversarial_to_encoder: bool = True
  # Whether the adversarial weight is multiplied by the ratio of the gradients'
  # norms (arXiv 2012.09841, eq. 7), here at x_recon, smoothed and capped.
  adaptive_weight: bool = False
  # 0: the distance is not computed, and the other terms are the loss.
  distance_weight: float = 1.0
  # The least size that a layer is taken to have in a batch, as a share of its
  # size in the data; 0: no bound.
  min_size: float = 0.1
  # How the layers' differences are measured: 'l2', 'l1' or 'log'.
  norm: str = 'l2'
  # Weight of each log-mel spectrum of sounds as such a layer; see `spectra.py`.
  spectrum_weight: float = 0.0
  sample_rate: int = 16_000  # Of sounds, in Hz.
  # Factor of the image's weight for each halving of its size.
  image_growth: float = 1.0
  # Variance of the pixels' Gaussian, without a critic. With 'half' the summed
  # squared error is its negative log likelihood. 'optimal' is the mean squared
  # error of the batch (arXiv 2006.13202, eq. 4).
  variance: str = 'half'
  # Weight of the error of half-size images, decoded from half-size latents.
  equivariance_weight: float = 0.0
  # Weight of the squared error from the images that the decoder gave at first.
  drift_weight: float = 0.0
  # Weights of discrete latents' losses: the distance of tokens from codes and,
  # for lfq, the entropy of the codes.
  commitment_weight: float = 0.25
  entropy_weight: float = 0.1

  @property
  def separates_adversarial(self) -> bool:
    """True if the adversarial loss needs a gradient of its own."""
    return self.adaptive_weight or not self.adversarial_to_encoder

  @property
  def needs_sizes(self) -> bool:
    """True if the distance needs the layers' sizes in the data."""
    divides = self.normalize != 'none' and self.distance_weight > 0
    return divides and self.min_size > 0


def create_reconstruction_losses(
  critic: nn.Module | None,
  adversarial_loss: Callable[[jax.Array], jax.Array] | None,
  loss: LossConfig,
  *,
  axis_name: str | None = None,
) -> ReconstructionLosses:
  """Builds the losses of reconstructions.

  Args:
    critic: its features measure the distance; None: the pixels do or, with
      `loss.spectrum_weight`, the layers of the example itself.
    adversarial_loss: of the objective, of each logit; None: there is none.
    loss: the layers and how they are compared.
    axis_name: of the devices that share a batch, over which some values of
      `loss.normalize` average.

  Returns:
    (critic's variables, x [B, *S, C], outputs, sizes, valid, average) ->
    (terms, moments of `moments.py`). `sizes` {layer: []} are the data's or {}.
    `outputs` has `x_recon` and, where its gradient is separate, its copy
    `x_adversarial`, `x_prior` (samples), `x_start`, each [B, *S, C], and
    `x_half` [B, *(S / 2), C]. `valid` [B, *S, C] bool are the values that
    count, None: all; elsewhere the images equal x. `average` replaces
    `axis_name`. The terms, [B] each, are 'distance', unless its weight is 0,
    'pixel' and, with what they need, 'equivariance', 'drift', 'adversarial'.
  """

  def losses(variables, x, outputs, sizes=None, valid=None, average=None):
    x_recon, where = outputs['x_recon'], masks.positions(valid)
    terms = _pixel_terms(loss, x, outputs, valid)
    moments = image_moments(x, x_recon, valid)
    options = {'axis_name': average or axis_name, 'valid': valid}
    x = jax.lax.stop_gradient(x)
    if critic is None and not loss.spectrum_weight:
      terms['distance'] = terms['pixel']  # An example's only feature is itself.
      if loss.variance == 'optimal':
        terms['distance'] = negative_log_likelihood(x, x_recon, **options)
      return terms, moments
    variables = jax.lax.stop_gradient(variables)
    if loss.distance_weight:
      features_x, features_recon = {}, {}
      if critic is not None:
        _, features_x = _capture(critic, variables, x, loss)
        logits, features_recon = _capture(critic, variables, x_recon, loss)
        moments['features'] = mean_sizes(features_x, where)
      pairs = x, x_recon, features_x, features_recon
      terms['distance'] = compare(loss, *pairs, sizes=sizes, **options)
      if sizes:
        moments['sizes'] = mean_sizes(features_x, where, loss.norm)
        moments['sizes'] |= _example_sizes(loss, x, valid)
    elif critic is not None:
      logits = _logits(critic, variables, x_recon)
    if adversarial_loss is not None:
      all_logits = _adversarial_logits(critic, variables, outputs, logits)
      each = [mean_over_map(adversarial_loss(i), where) for i in all_logits]
      terms['adversarial'] = sum(each) / len(each)
    return terms, moments

  return losses


def compare(
  loss: LossConfig,
  x: jax.Array,
  x_recon: jax.Array,
  features_x: Mapping[str, jax.Array],
  features_recon: Mapping[str, jax.Array],
  *,
  axis_name: str | None = None,
  sizes: Mapping[str, jax.Array] | None = None,
  valid: jax.Array | None = None,
) -> jax.Array:
  """Computes the configured distance of images and reconstructions, [B].

  Args:
    loss: how the layers are compared.
    x, x_recon: [B, *S, C].
    features_x: {layer: [B, ...]} of x, in the order of `loss.layer_weights`.
    features_recon: features of x_recon.
    axis_name: see `create_reconstruction_losses`.
    sizes: the layers' in the data; without one a layer has no least size.
    valid: [B, *S, C] bool, the values that count; None: all.
  """
  sizes = sizes or {}
  min_sizes = {name: loss.min_size * size for name, size in sizes.items()}
  pair = x, x_recon, features_x, features_recon
  how = distances.Comparison(
    loss.normalize, loss.norm, loss.reduction, axis_name
  )
  weighting = Weighting(
    loss.layer_weights or None,
    loss.image_weight,
    loss.image_halvings,
    loss.image_growth,
    min_sizes,
    loss.image_high_pass,
    loss.spectrum_weight,
    loss.sample_rate,
  )
  return total(distance_terms(*pair, how, weighting, valid))


def layer_sizes(
  loss: LossConfig, critic: nn.Module | None, variables: Any, images: jax.Array
) -> dict[str, jax.Array]:
  """Computes the size of each layer of the distance.

  Args:
    loss: the layers.
    critic: the critic, in evaluation mode; None: there is none.
    variables: its variables.
    images: [B, *S, C] of the data.

  Returns:
    {layer: []}: mean squares or, for 'l1', means of absolute values, of the
    critic's layers and of the examples', as `image_layers` and
    `spectra.mel_layers` name them.
  """
  sizes = _example_sizes(loss, images)
  if critic is not None:
    features = loss_features(loss, critic, variables, images)
    sizes |= distances.feature_sizes(features, norm=loss.norm)
  return sizes


def negative_log_likelihood(
  x: jax.Array,
  x_recon: jax.Array,
  *,
  axis_name: str | None = None,
  valid: jax.Array | None = None,
) -> jax.Array:
  """Computes the images' negative log likelihood around x_recon.

  The variance of the Gaussian, one number, is the mean squared error of the
  batch, which maximises the likelihood (arXiv 2006.13202, eq. 4 and 5). The
  gradient treats it as constant, since its derivative is 0 there.

  Args:
    x, x_recon: [B, *S, C].
    axis_name: of the devices that share the batch; None: it is on one device.
    valid: [B, *S, C] bool, the values that count; None: all.

  Returns:
    [B] in nats, of either sign.
  """
  errors, number = jnp.square(x - x_recon), math.prod(x.shape[1:])
  axes = tuple(range(1, errors.ndim))
  variance = distances.batch_mean(errors, axis_name, valid)
  if valid is not None:
    errors, number = errors * valid, valid.sum(axes)
  variance = jnp.maximum(variance, _MIN_VARIANCE)
  log_norm = 0.5 * number * jnp.log(2 * math.pi * variance)
  return errors.sum(axes) / (2 * variance) + log_norm


def loss_features(
  loss: LossConfig, critic: nn.Module, variables: Any, images: jax.Array
) -> dict[str, jax.Array]:
  """Returns the features [B, ...] that a loss compares, in evaluation mode."""
  _, features = perceptual.capture_features(
    critic, variables, images, layers=loss.layers or critic.layer_names
  )
  return features


def _example_sizes(loss, x, valid=None):
  """Returns the sizes {layer: []} of the layers of the examples themselves."""
  sizes = {}
  if loss.image_weight:
    layers, shares = image_layers(
      x,
      loss.image_halvings,
      value_weights(valid, x),
      high_pass=loss.image_high_pass > 0,
    )
    sizes |= mean_sizes(layers, shares, loss.norm)
  if loss.spectrum_weight:
    layers = spectra.mel_layers(x, loss.sample_rate)
    sizes |= mean_sizes(layers, masks.positions(valid), loss.norm)
  return sizes


def _capture(critic, variables, images, loss):
  """Returns (logits [B, ...], {layer: feature}), in training mode."""
  (logits, _), features = perceptual.capture_features(
    critic,
    variables,
    images,
    layers=loss.layers or critic.layer_names,
    train=True,
    mutable=['batch_stats'],
  )
  return logits, features


def _adversarial_logits(critic, variables, outputs, logits):
  """Returns the logits of reconstructions and, if there are any, samples."""
  found = [logits]
  if 'x_adversarial' in outputs:  # XLA shares the forward pass.
    found = [_logits(critic, variables, outputs['x_adversarial'])]
  if 'x_prior' in outputs:
    found.append(_logits(critic, variables, outputs['x_prior']))
  return found


def _logits(critic, variables, images):
  return critic.apply(variables, images, train=True, mutable=['batch_stats'])[0]


def _pixel_terms(loss, x, outputs, valid):
  """Computes the terms {name: [B]} that need no critic."""
  how = distances.Comparison(reduction=loss.reduction)

  def distance(x, x_recon, weights):
    where = weights if weights is None else {'pixels': weights}
    pair = {'pixels': x}, {'pixels': x_recon}
    return sum(distances.layer_distances(*pair, how, where=where).values())

  included = value_weights(valid, x)
  terms = {'pixel': distance(x, outputs['x_recon'], included)}
  if 'x_start' in outputs:
    terms['drift'] = distance(outputs['x_start'], outputs['x_recon'], included)
  if 'x_half' in outputs:
    layers, shares = image_layers(x, 1, included)
    shares = shares and shares['image_1']
    half = layers['image_1'], outputs['x_half']
    terms['equivariance'] = distance(*half, shares)
  return terms
