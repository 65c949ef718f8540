"""The autoencoder's pass, and which images come out of it.

Axes: B images on one device, S axes of space, C channels.
"""

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax


def create_autoencode(
  module: nn.Module, *, split: bool = False, to_encoder: bool = True
) -> Callable:
  """Builds the pass that is differentiated with respect to the parameters.

  Args:
    module: the autoencoder.
    split: whether the adversarial loss is to have an image of its own.
    to_encoder: whether the gradient of that image reaches the encoder (arXiv
      1512.09300, section 2.3, keeps it from that).

  Returns:
    (params, batch_stats, draw) -> ((x_fakes, the latent's losses {name: [B]}),
    (new batch_stats, the latent's stats {name: []})). The `x_fakes`, each
    [B, *S, C], are 'x_recon'; with `split` 'x_adversarial',
    the same images by themselves to the gradient; and 'x_prior', decoded from
    the prior, if the draw has it.
  """

  def forward(module, x, noise, prior):
    latents, losses, stats = module.latent(module.encoder(x, True), noise, True)
    x_recon = module.decoder(latents, True)
    x_fakes = {'x_recon': x_recon}
    if split:  # XLA finds the same forward pass.
      x_fakes['x_adversarial'] = (
        x_recon
        if to_encoder
        else module.decoder(jax.lax.stop_gradient(latents), True)
      )
    if prior is not None:
      x_fakes['x_prior'] = module.decoder(module.latent.from_prior(prior), True)
    return (x_fakes, losses), stats

  def autoencode(params, batch_stats, draw: Mapping[str, jax.Array]):
    (outputs, stats), mutated = module.apply(
      {'params': params, 'batch_stats': batch_stats},
      draw['x'],
      draw['noise'],
      draw.get('prior'),
      mutable=['batch_stats'],
      method=forward,
    )
    return outputs, (mutated.get('batch_stats', {}), stats)

  return autoencode
