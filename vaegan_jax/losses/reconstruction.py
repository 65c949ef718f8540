"""What the reconstructions are to minimise, term by term.

The distance is measured in the features of a critic that is held constant, or
between the pixels.
Axes: B examples on one device, S one to three axes of space, C channels.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vaegan_jax.losses import distances, perceptual
from vaegan_jax.losses.adversarial import mean_over_map

_MIN_VARIANCE = 1e-6  # A deviation of a seventh of an 8-bit level.
# (critic's variables or None, x, x_fakes) -> ({term: [B]}, moments).
Judge = Callable[..., tuple[dict[str, jax.Array], dict[str, Any]]]


@dataclasses.dataclass(frozen=True)
class LossConfig:
  """What the autoencoder minimises; the fields of `config.loss`.

  The loss is distance_weight * distance + pixel_weight * pixel error +
  kl_weight * KL, plus the adversarial loss with a weight that rises from 0 over
  the ramp.
  """

  layers: tuple[str, ...]
  layer_weights: tuple[float, ...]
  normalize: str
  reduction: str
  pixel_weight: float
  adversarial_weight: float
  adversarial_ramp_steps: int
  kl_weight: float
  # Whether the adversarial loss moves the encoder too (arXiv 1512.09300,
  # section 2.3, keeps it from that).
  adversarial_to_encoder: bool = True
  # Whether the adversarial weight is multiplied by the ratio of the gradients'
  # lengths (arXiv 2012.09841, eq. 7), here at x_recon, smoothed and capped.
  adaptive_weight: bool = False
  # Of the distance; 0: it is not computed, and the other terms are the loss.
  distance_weight: float = 1.0
  # Of the image itself as a layer of the distance, before the critic's blocks.
  image_weight: float = 0.0
  # Further such layers, the image at half its sides, at a quarter and so on.
  image_halvings: int = 0
  # Of the pixels' Gaussian, without a critic: 'half', under which the summed
  # squared error is its negative log likelihood, or 'optimal', the one that the
  # batch's errors have (arXiv 2006.13202, eq. 4).
  variance: str = 'half'
  # Of discrete latents: how near the encoder is held to the codes, and, without
  # a codebook of its own (lfq), how surely and evenly they are used.
  commitment_weight: float = 0.25
  entropy_weight: float = 0.1

  @property
  def parts_verdict(self) -> bool:
    """Whether the adversarial loss needs a gradient of its own."""
    return self.adaptive_weight or not self.adversarial_to_encoder


def create_judge(
  critic: nn.Module | None,
  adversarial_loss: Callable[[jax.Array], jax.Array] | None,
  loss: LossConfig,
  *,
  axis_name: str | None = None,
) -> Judge:
  """Builds the judge of reconstructions.

  Args:
    critic: in whose features the distance is measured; None: the pixels.
    adversarial_loss: of the objective, of each logit; None: the critic has no
      verdict.
    loss: which layers, and how they are compared.
    axis_name: of the devices that share a batch, by whose features some of
      `loss.normalize` divide.

  Returns:
    (critic's variables, x [B, *S, C], x_fakes) -> (terms, moments). The
    `x_fakes` are `x_recon` and, where they are not the same to the gradient,
    `x_adversarial` (its copy) and `x_prior` (samples), each [B, *S, C]. The
    terms 'distance', unless its weight is 0, 'pixel' and, with its loss,
    'adversarial' are [B]; see `describe` for the moments.
  """

  def judge(variables, x, x_fakes: Mapping[str, jax.Array]):
    x_recon = x_fakes['x_recon']
    pixel = _pixel_distance(x, x_recon, loss.reduction)
    moments = {'output': _moments(x_recon), 'input': _moments(x)}
    if critic is None:  # An image's only feature is itself.
      distance = pixel
      if loss.variance == 'optimal':
        distance = negative_log_likelihood(x, x_recon, axis_name=axis_name)
      return {'distance': distance, 'pixel': pixel}, moments
    variables = jax.lax.stop_gradient(variables)
    terms = {'pixel': pixel}
    if loss.distance_weight:
      x = jax.lax.stop_gradient(x)
      _, features_x = _capture(critic, variables, x, loss)
      logits, features_recon = _capture(critic, variables, x_recon, loss)
      terms['distance'] = compare(
        loss, x, x_recon, features_x, features_recon, axis_name=axis_name
      )
      moments['features'] = {k: jnp.mean(f**2) for k, f in features_x.items()}
    else:
      logits = _judge_alone(critic, variables, x_recon)
    if adversarial_loss is not None:
      verdicts = [logits]
      if 'x_adversarial' in x_fakes:  # XLA finds the same forward pass.
        verdicts = [_judge_alone(critic, variables, x_fakes['x_adversarial'])]
      if 'x_prior' in x_fakes:
        verdicts.append(_judge_alone(critic, variables, x_fakes['x_prior']))
      losses = [mean_over_map(adversarial_loss(v)) for v in verdicts]
      terms['adversarial'] = sum(losses) / len(losses)
    return terms, moments

  return judge


def compare(
  loss: LossConfig,
  x: jax.Array,
  x_recon: jax.Array,
  features_x: Mapping[str, jax.Array],
  features_recon: Mapping[str, jax.Array],
  *,
  axis_name: str | None = None,
) -> jax.Array:
  """The distance between images and their reconstructions, as configured.

  Args:
    loss: how the layers are compared.
    x: [B, *S, C].
    x_recon: [B, *S, C].
    features_x: {layer: [B, ...]} of x, in the order of `loss.layer_weights`.
    features_recon: of x_recon.
    axis_name: see `create_judge`.

  Returns:
    [B], non-negative.
  """
  distance = distances.feature_distance(
    features_x,
    features_recon,
    weights=loss.layer_weights or None,
    normalize=loss.normalize,
    reduction=loss.reduction,
    axis_name=axis_name,
  )
  if loss.image_weight:
    # By the batch's size, whatever the features': by its own, a flat image
    # outweighs all others, and of unit length it has no contrast.
    images, images_recon = (
      image_layers(i, loss.image_halvings) for i in (x, x_recon)
    )
    distance += distances.feature_distance(
      images,
      images_recon,
      weights=(loss.image_weight,) * len(images),
      normalize='none' if loss.normalize == 'none' else 'batch',
      reduction=loss.reduction,
      axis_name=axis_name,
    )
  return distance


def image_layers(images: jax.Array, num_halvings: int) -> dict[str, jax.Array]:
  """The image as layers of the distance: its own, and its means over squares.

  Of an error that is the same all over a square nothing averages out, so that
  colour and brightness count in every layer, and fine detail in the first alone
  (the Gaussian pyramid of Burt & Adelson, 1983, with squares for Gaussians).

  Args:
    images: [B, *S, C].
    num_halvings: layers beyond the first.

  Returns:
    {'image': [B, *S, C], 'image_1': [B, *ceil(S / 2), C], ...}.
  """
  layers, square = {'image': images}, (2,) * (images.ndim - 2)
  for halving in range(1, num_halvings + 1):
    images = nn.avg_pool(
      images, square, square, 'SAME', count_include_pad=False
    )
    layers[f'image_{halving}'] = images
  return layers


def negative_log_likelihood(
  x: jax.Array, x_recon: jax.Array, *, axis_name: str | None = None
) -> jax.Array:
  """Of images under a Gaussian around their reconstructions, at its best.

  Its variance, one number, is the mean squared error of the batch, which makes
  the batch likeliest (arXiv 2006.13202, eq. 4 and 5). To the gradient it is a
  constant: there the derivative with respect to it is 0.

  Args:
    x: [B, *S, C].
    x_recon: [B, *S, C].
    axis_name: of the devices that share the batch; None: it is all here.

  Returns:
    [B] in nats, of either sign.
  """
  errors = jnp.square(x - x_recon)
  variance = jax.lax.stop_gradient(errors.mean())
  if axis_name is not None:
    variance = jax.lax.pmean(variance, axis_name)
  variance = jnp.maximum(variance, _MIN_VARIANCE)
  log_norm = 0.5 * math.prod(x.shape[1:]) * jnp.log(2 * math.pi * variance)
  axes = tuple(range(1, errors.ndim))
  return errors.sum(axes) / (2 * variance) + log_norm


def describe(moments: Mapping[str, Any]) -> dict[str, jax.Array]:
  """What the health of a run is judged by, from its judge's moments.

  Args:
    moments: averaged over the devices: means over the batch of images and of
      their squares, and mean squares of features.

  Returns:
    {'output_std', 'input_std'}: how much images differ from each other, 0 if
    all are the same; 'feature_scale': the root mean square of a layer's
    features, averaged over the layers. Each is [].
  """
  metrics = {}
  for name in ('output', 'input'):
    mean, square = moments[name]
    variance = jnp.maximum(square - mean**2, 0.0)
    metrics[f'{name}_std'] = jnp.mean(jnp.sqrt(variance))
  if 'features' in moments:
    squares = jnp.stack(list(moments['features'].values()))
    metrics['feature_scale'] = jnp.mean(jnp.sqrt(squares))
  return metrics


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


def _judge_alone(critic, variables, images):
  return critic.apply(variables, images, train=True, mutable=['batch_stats'])[0]


def _pixel_distance(x, x_recon, reduction):
  """Squared error between the images; [B]."""
  return distances.feature_distance(
    {'pixels': x}, {'pixels': x_recon}, reduction=reduction
  )


def _moments(images):
  """Means over the batch, of the images and of their squares, [*S, C]."""
  images = jax.lax.stop_gradient(images)
  return jnp.mean(images, axis=0), jnp.mean(images**2, axis=0)
