"""The autoencoder: an encoder, a latent of any kind, a decoder.

Kingma & Welling, "Auto-Encoding Variational Bayes" (arXiv 1312.6114). Axes:
B batch, S axes of space, C channels, Z entries of a latent.
"""

import flax.linen as nn
import jax

from vaegan_jax.models.latents.base import Losses, Stats


class Autoencoder(nn.Module):
  """Encoder and decoder with the latent between them.

  Attributes:
    encoder: x -> what the latent takes; it has `factor` and `flat`.
    latent: see `latents.py`.
    decoder: latents -> images.
  """

  encoder: nn.Module
  latent: nn.Module
  decoder: nn.Module

  def __call__(
    self, x: jax.Array, noise=None, train: bool = False
  ) -> tuple[jax.Array, Losses, Stats]:
    """Encodes, samples and decodes.

    Args:
      x: [B, *S, C] float32 in [-1, 1]; S as the training's, or, where the
        latent is a map, any that `encoder.factor` divides.
      noise: from `latent.draw_noise`; None reconstructs without chance.
      train: whether BatchNorm uses (and updates) the batch's own moments, and a
        codebook learns.

    Returns:
      x_recon [B, *S, C] in [-1, 1], the latent's losses {name: [B]}, and its
      stats {name: []}.
    """
    latents, losses, stats = self.latent(self.encoder(x, train), noise, train)
    return self.decoder(latents, train), losses, stats

  def encode(self, x: jax.Array) -> dict[str, jax.Array]:
    """Maps x: [B, *S, C] to what is known of its latent.

    Always `latents`, without chance, as `decode` takes them; a Gaussian's
    `mean` and `logvar`, [B, *S, Z] each, and the `indices` of codes.
    """
    return self.latent.encode(self.encoder(x))

  def decode(self, latents: jax.Array) -> jax.Array:
    """Maps latents: [B, Z] or [B, *S, Z] to images [B, *S', C] in [-1, 1]."""
    return self.decoder(latents)

  def from_prior(self, prior: jax.Array) -> jax.Array:
    """Decodes what `latent.draw_prior` gave, as `decode` does."""
    return self.decoder(self.latent.from_prior(prior))

  @nn.nowrap
  def over(self, axis_name: str) -> 'Autoencoder':
    """The same, for devices of that axis which share a batch."""
    if not hasattr(self.latent, 'axis_name'):
      return self
    return self.clone(latent=self.latent.clone(axis_name=axis_name))

  @nn.nowrap
  def latent_space(self, space: tuple[int, ...]) -> tuple[int, ...]:
    """The sides of the latent's map, of images of such sides; () if flat."""
    if self.encoder.flat:
      return ()
    return tuple(side // self.encoder.factor for side in space)
