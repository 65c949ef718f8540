"""Weights of the terms of the autoencoder's loss, and the loss's gradient.

Owns constant weights, the ramp of the adversarial weight, and its adaptive
factor with its moving average; `kl_rate.py` steers the KL's. Axes: B examples
on one device.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from vaegan_jax.losses.reconstruction import LossConfig
from vaegan_jax.runtime import devices
from vaegan_jax.training import kl_rate

# Decay of the adaptive factor's moving average, and the ratio's largest value.
_ADAPTIVE_DECAY, _ADAPTIVE_MAX = 0.99, 10.0


def create_combine_losses(loss: LossConfig) -> Callable:
  """Creates the function that combines the terms into a loss and its gradient.

  Returns:
    (step [], losses_and_pull, latent's losses {name: [B]}, averages) ->
    (cotangents of (decoded, latent's losses), metrics {name: []}, changed
    averages, moments). `losses_and_pull` takes the function from the terms
    {name: [B]} to their cotangents, and returns the terms, the cotangents of
    the decoded images, and the moments. The metrics are each term's mean, and
    `loss`, the sum that the cotangents are the gradient of. All of it may be in
    chunks, [A, B / A]; a chunk's cotangents are those of its own mean.
  """

  def combine_losses(step, losses_and_pull, latent_losses, averages):
    weights = {
      'distance': loss.distance_weight,
      'pixel': loss.pixel_weight,
      'adversarial': _ramp(step, loss.adversarial_ramp_steps)
      * loss.adversarial_weight,
      'kl': averages.get(kl_rate.NAME, loss.kl_weight),
      'equivariance': loss.equivariance_weight,
      'drift': loss.drift_weight,
      'commitment': loss.commitment_weight,
      'entropy': loss.entropy_weight,
    }

    def weigh(terms):
      # The adaptive factor depends on the gradient without it.
      adapts = {'adversarial': 1.0} if loss.adaptive_weight else {}
      unscaled = weights | adapts
      return {
        name: jnp.ones_like(term) * unscaled[name] / term.size
        for name, term in terms.items()
      }

    terms, x_cotangents, moments = losses_and_pull(weigh)
    adapted = {}
    if loss.adaptive_weight and 'adversarial' in terms:
      factor = _adapt(x_cotangents, averages['adaptive_weight'])
      adapted = {'adaptive_weight': factor}
      weights['adversarial'] *= factor
      # In a fixed order, as all processes must compile the same program.
      for name in ('x_adversarial', 'x_prior'):
        if name in x_cotangents:
          x_cotangents[name] = weights['adversarial'] * x_cotangents[name]
    means = {
      name: term.mean() for name, term in (terms | latent_losses).items()
    }
    steered = {k: v for k, v in averages.items() if k == kl_rate.NAME}
    metrics = means | adapted | steered
    metrics['loss'] = sum(weights[name] * mean for name, mean in means.items())
    latent_cotangents = {
      name: jnp.full_like(term, weights[name] / term.shape[-1])
      for name, term in latent_losses.items()
    }
    return (x_cotangents, latent_cotangents), metrics, adapted, moments

  return combine_losses


def _ramp(step, ramp_steps):
  """Rises linearly from 0 to 1 over `ramp_steps` steps; 1 if they are 0."""
  return jnp.minimum(step / max(ramp_steps, 1), 1.0)


def _adapt(cotangents, average) -> jax.Array:
  """Returns the new adaptive weight (arXiv 2012.09841, eq. 7).

  It is the ratio of the norms of the distance's and the adversarial loss's
  gradients, over all devices, capped and smoothed.
  """

  def norm(x):
    return jnp.sqrt(devices.psum(jnp.sum(x**2)))

  ratio = norm(cotangents['x_recon']) / (
    norm(cotangents['x_adversarial']) + 1e-8
  )
  ratio = jnp.minimum(ratio, _ADAPTIVE_MAX)
  return optax.incremental_update(ratio, average, 1.0 - _ADAPTIVE_DECAY)
