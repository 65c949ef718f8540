"""How much each term of the autoencoder's loss counts, and its gradient.

Owns constant weights, the ramp of the adversarial one and its adaptive factor,
with the moving average that it keeps. Axes: B images on one device, H height,
W width, C channels.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from vaegan_jax.losses.reconstruction import LossConfig
from vaegan_jax.runtime import devices

# Of the adaptive weight: how slowly it moves, and its largest value.
_ADAPTIVE_DECAY, _ADAPTIVE_MAX = 0.99, 10.0


def create_weigh(loss: LossConfig) -> Callable:
  """Builds what turns terms into a loss and its gradient.

  Args:
    loss: the weights.

  Returns:
    (step [], terms {name: [B]}, pull_judge, the latent's losses {name: [B]},
    averages) -> (cotangents of (x_fakes, the latent's losses), metrics {name:
    []}, averages that changed). `pull_judge` maps
    cotangents of the terms to those of x_fakes. The metrics are the mean of
    each term, and `loss`, the sum that the cotangents are the gradient of.
  """

  def weigh(step, terms, pull_judge, latent, averages):
    weights = {
      'distance': loss.distance_weight,
      'pixel': loss.pixel_weight,
      'adversarial': _ramp(step, loss.adversarial_ramp_steps)
      * loss.adversarial_weight,
      'kl': loss.kl_weight,
      'commitment': loss.commitment_weight,
      'entropy': loss.entropy_weight,
    }
    adapts = loss.adaptive_weight and 'adversarial' in terms
    # An adaptive one depends on the gradient without it, and is applied to it.
    at_first = weights | {'adversarial': 1.0} if adapts else weights
    (x_cotangents,) = pull_judge(
      {
        name: jnp.ones_like(term) * at_first[name] / term.size
        for name, term in terms.items()
      }
    )
    adapted = {}
    if adapts:
      factor = _adapt(x_cotangents, averages['adaptive_weight'])
      adapted = {'adaptive_weight': factor}
      weights['adversarial'] *= factor
      for name in x_cotangents.keys() - {'x_recon'}:
        x_cotangents[name] = weights['adversarial'] * x_cotangents[name]
    means = {name: term.mean() for name, term in (terms | latent).items()}
    metrics = means | adapted
    metrics['loss'] = sum(weights[name] * mean for name, mean in means.items())
    latent_cotangents = {
      name: jnp.full_like(term, weights[name] / term.size)
      for name, term in latent.items()
    }
    return (x_cotangents, latent_cotangents), metrics, adapted

  return weigh


def _ramp(step, ramp_steps):
  """Rises linearly from 0 to 1 over `ramp_steps` steps; 0 of them: 1."""
  return jnp.minimum(step / max(ramp_steps, 1), 1.0)


def _adapt(cotangents, average) -> jax.Array:
  """Returns the new adaptive weight (arXiv 2012.09841, eq. 7).

  The ratio of the lengths of the distance's and the adversarial loss's
  gradients, over all devices; capped, and smoothed.
  """

  def length(x):
    return jnp.sqrt(devices.psum(jnp.sum(x**2)))

  ratio = length(cotangents['x_recon']) / (
    length(cotangents['x_adversarial']) + 1e-8
  )
  ratio = jnp.minimum(ratio, _ADAPTIVE_MAX)
  return optax.incremental_update(ratio, average, 1.0 - _ADAPTIVE_DECAY)
