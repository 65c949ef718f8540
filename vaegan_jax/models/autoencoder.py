"""The variational autoencoder: encoder, flat Gaussian latent, decoder.

Kingma & Welling, "Auto-Encoding Variational Bayes" (arXiv 1312.6114). Axes:
B batch, S height and width, C channels, Z latent.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from vaegan_jax.models import blocks


class Encoder(nn.Module):
  """Down-blocks, then one dense layer to the Gaussian's mean and log variance.

  Attributes:
    latent_dim: Z.
    width: channels of the first block, before its multiplier.
    channel_multipliers: one a block, in forward order.
    norm: 'none', 'group' or 'batch'.
  """

  latent_dim: int
  width: int
  channel_multipliers: Sequence[int]
  norm: str = 'none'

  @nn.compact
  def __call__(
    self, x: jax.Array, train: bool = False
  ) -> tuple[jax.Array, jax.Array]:
    """Maps x: [B, S, S, C] in [-1, 1] to mean and logvar, each [B, Z]."""
    for i, multiplier in enumerate(self.channel_multipliers):
      block = blocks.DownBlock(
        self.width * multiplier, self.norm, name=f'block_{i}'
      )
      x = block(x, train)
    moments = nn.Dense(2 * self.latent_dim)(x.reshape(x.shape[0], -1))
    mean, logvar = jnp.split(moments, 2, axis=-1)
    return mean, logvar


class Decoder(nn.Module):
  """A dense layer to the smallest feature map, then up-blocks, then pixels.

  The blocks mirror the encoder's; the last two have the encoder's first width.

  Attributes:
    image_size: S, divisible by 2 ** the number of blocks.
    channels: C.
    width, channel_multipliers, norm: as the encoder's.
  """

  image_size: int
  channels: int
  width: int
  channel_multipliers: Sequence[int]
  norm: str = 'none'

  @nn.compact
  def __call__(self, latents: jax.Array, train: bool = False) -> jax.Array:
    """Maps latents: [B, Z] to images [B, S, S, C] in [-1, 1]."""
    widths = [self.width * m for m in self.channel_multipliers]
    side = self.image_size // 2 ** len(widths)
    x = nn.Dense(side * side * widths[-1])(latents)
    x = nn.leaky_relu(x, blocks.LEAKY_SLOPE)
    x = x.reshape(-1, side, side, widths[-1])
    for i, features in enumerate([*reversed(widths[:-1]), widths[0]]):
      x = blocks.UpBlock(features, self.norm, name=f'block_{i}')(x, train)
    return nn.tanh(
      nn.Conv(self.channels, (3, 3), padding=1, name='to_image')(x)
    )


class Autoencoder(nn.Module):
  """Encoder and decoder with the reparameterised latent between them.

  Attributes: those of `Encoder` and `Decoder`.
  """

  image_size: int
  channels: int
  latent_dim: int
  width: int
  channel_multipliers: Sequence[int]
  norm: str = 'none'

  def setup(self):
    network = dict(
      width=self.width,
      channel_multipliers=self.channel_multipliers,
      norm=self.norm,
    )
    self.encoder = Encoder(self.latent_dim, **network)
    self.decoder = Decoder(self.image_size, self.channels, **network)

  def __call__(
    self, x: jax.Array, noise: jax.Array, train: bool = False
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Encodes, samples and decodes.

    Args:
      x: [B, S, S, C] float32 in [-1, 1].
      noise: [B, Z] standard normal; zeros reconstruct from the mean.
      train: whether BatchNorm uses (and updates) the batch's own moments.

    Returns:
      x_recon [B, S, S, C] in [-1, 1], mean [B, Z], logvar [B, Z].
    """
    mean, logvar = self.encoder(x, train)
    latents = mean + jnp.exp(0.5 * logvar) * noise
    return self.decoder(latents, train), mean, logvar

  def encode(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Maps x: [B, S, S, C] to mean and logvar, each [B, Z]."""
    return self.encoder(x)

  def decode(self, latents: jax.Array) -> jax.Array:
    """Maps latents: [B, Z] to images [B, S, S, C] in [-1, 1]."""
    return self.decoder(latents)


def gaussian_kl(mean: jax.Array, logvar: jax.Array) -> jax.Array:
  """KL of N(mean, exp(logvar)) from the standard normal prior, in nats.

  arXiv 1312.6114, appendix B, summed over the latent's dimensions.

  Args:
    mean: [B, Z].
    logvar: [B, Z].

  Returns:
    [B], non-negative.
  """
  return 0.5 * jnp.sum(jnp.exp(logvar) + mean**2 - 1.0 - logvar, axis=-1)
