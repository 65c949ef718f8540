"""The autoencoder: an encoder, a latent of any kind, a decoder.

Kingma & Welling, "Auto-Encoding Variational Bayes" (arXiv 1312.6114). Axes:
B batch, S axes of space, C channels, Z entries of a latent.
"""

import flax.linen as nn
import jax

from vaegan_jax.models.latents.base import Losses, Stats


class Autoencoder(nn.Module):
  """Encoder and decoder with the latent between them."""

  encoder: nn.Module  # x -> the latent's input; it has `factor` and `flat`.
  latent: nn.Module  # See `latents/base.py`.
  decoder: nn.Module  # Latents -> images.

  def __call__(
    self, x: jax.Array, noise=None, train: bool = False
  ) -> tuple[jax.Array, Losses, Stats]:
    """Encodes, samples and decodes.

    Args:
      x: [B, *S, C] float32 in [-1, 1]. S is the training's, or, if the latent
        is a map, any that `encoder.factor` divides.
      noise: from `latent.sample_noise`; None: a deterministic reconstruction.
      train: whether BatchNorm uses (and updates) the batch's own moments, and a
        codebook learns.

    Returns:
      x_recon [B, *S, C] in [-1, 1], the latent's losses {name: [B]}, and its
      stats {name: []}.
    """
    latents, losses, stats = self.latent(self.encoder(x, train), noise, train)
    return self.decoder(latents, train), losses, stats

  def encode(self, x: jax.Array) -> dict[str, jax.Array]:
    """Maps x: [B, *S, C] to its latent, without sampling.

    Returns:
      `latents`, as `decode` takes them; of a Gaussian also `mean` and `logvar`,
      [B, *S, Z] each, and of a quantiser the `indices` of its codes.
    """
    return self.latent.encode(self.encoder(x))

  def decode(self, latents: jax.Array) -> jax.Array:
    """Maps latents: [B, Z] or [B, *S, Z] to images [B, *S', C] in [-1, 1]."""
    return self.decoder(latents)

  def from_prior(self, prior: jax.Array) -> jax.Array:
    """Decodes what `latent.sample_prior` returned, as `decode` does."""
    return self.decoder(self.latent.from_prior(prior))

  @nn.nowrap
  def over(self, axis_name: str) -> 'Autoencoder':
    """Returns a copy for devices that share a batch along a mapped axis."""
    if not hasattr(self.latent, 'axis_name'):
      return self
    return self.clone(latent=self.latent.clone(axis_name=axis_name))

  @nn.nowrap
  def latent_space(self, space: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the latent map's spatial shape for images' S; () if flat."""
    if self.encoder.flat:
      return ()
    return tuple(size // self.encoder.factor for size in space)
