"""The forward pass of the autoencoder in an update, and which images it gives.

Axes: B examples on one device, S axes of space, C channels.
"""

import functools
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from vaegan_jax.losses.terms import halve


def create_autoencode(
  module: nn.Module,
  *,
  split: bool = False,
  to_encoder: bool = True,
  with_half: bool = False,
  train_encoder: bool = True,
) -> Callable:
  """Creates the pass that is differentiated with respect to the parameters.

  Args:
    split: whether the adversarial loss gets an image of its own.
    to_encoder: whether that image's gradient reaches the encoder (arXiv
      1512.09300, section 2.3, stops it there).
    with_half: whether the latents at half their size are decoded, too (as arXiv
      2502.09509 and 2502.14831 do).
    train_encoder: whether the encoder and the latent are trained; if not, their
      norms and codes stay as they are.

  Returns:
    (params, batch_stats, inputs, start=None) -> ((decoded, the latent's losses
    {name: [B]}), (new batch_stats, the latent's metrics {name: []})). `decoded`
    are the decoder's images, each [B, *S, C]: 'x_recon'; with `split`
    'x_adversarial', equal to it but with a gradient of its own; 'x_half' [B,
    *(S / 2), C], if asked for; 'x_prior', samples of the prior, if the inputs
    have it; and, with the decoder's first variables `start`, 'x_start', its
    images of the same latents, constants. Where the inputs' `valid` is false,
    all but 'x_half' equal x, so that no gradient arises.
  """

  forward = functools.partial(
    _forward,
    split=split,
    to_encoder=to_encoder,
    with_half=with_half,
    train_encoder=train_encoder,
  )

  def autoencode(params, batch_stats, inputs: Mapping, start=None):
    ((decoded, losses), stats, latents), mutated = module.apply(
      {'params': params, 'batch_stats': batch_stats},
      inputs['x'],
      inputs['noise'],
      inputs.get('prior'),
      mutable=['batch_stats'],
      method=forward,
    )
    if start is not None:
      latents = jax.lax.stop_gradient(latents)
      decoded['x_start'], _ = module.decoder.apply(
        start, latents, True, mutable=['batch_stats']
      )
    if 'valid' in inputs:
      for name in [name for name in decoded if name != 'x_half']:
        valid, images = inputs['valid'], decoded[name]
        decoded[name] = jnp.where(valid, images, inputs['x'])
    return (decoded, losses), (mutated.get('batch_stats', {}), stats)

  return autoencode


def _forward(
  module, x, noise, prior, *, split, to_encoder, with_half, train_encoder
):
  encoded = module.encoder(x, train_encoder)
  latents, losses, stats = module.latent(encoded, noise, train_encoder)
  x_recon = module.decoder(latents, True)
  decoded = {'x_recon': x_recon}
  if split:  # XLA merges the two forward passes.
    decoded['x_adversarial'] = (
      x_recon
      if to_encoder
      else module.decoder(jax.lax.stop_gradient(latents), True)
    )
  if with_half:
    decoded['x_half'] = module.decoder(halve(latents), True)
  if prior is not None:
    decoded['x_prior'] = module.decoder(module.latent.from_prior(prior), True)
  return (decoded, losses), stats, latents
