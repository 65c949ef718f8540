"""The critic: tells photographs from reconstructions, one logit an image.

Its blocks are the layers of the perceptual distance: `block_0`, `block_1`, ...
in forward order. Neither BatchNorm nor dropout by default, because either
would make an image's features depend on its batch-mates or on chance.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax

from vaegan_jax.models import blocks


class Critic(nn.Module):
  """Down-blocks, then one dense layer to the logit.

  Attributes:
    width: channels of the first block, before its multiplier.
    channel_multipliers: one a block, in forward order.
    norm: 'none', 'group' or 'batch'.
    spectral_norm: whether every kernel is divided by the largest singular
      value that it has as a matrix; see `blocks.spectrally`.
    head: whether there is the dense layer, which ties a trained critic to one
      image size. Without it the last block's feature is returned.
  """

  width: int
  channel_multipliers: Sequence[int]
  norm: str = 'none'
  spectral_norm: bool = False
  head: bool = True

  @property
  def layer_names(self) -> tuple[str, ...]:
    """The layers of the perceptual distance, in forward order."""
    return tuple(f'block_{i}' for i in range(len(self.channel_multipliers)))

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps x: [B, H, W, C] in [-1, 1] to logits [B]; positive means real."""
    for name, multiplier in zip(
      self.layer_names, self.channel_multipliers, strict=True
    ):
      block = blocks.DownBlock(
        self.width * multiplier, self.norm, self.spectral_norm, name=name
      )
      x = block(x, train)
    if not self.head:
      return x
    dense = blocks.spectrally(nn.Dense(1), self.spectral_norm, train)
    return dense(x.reshape(x.shape[0], -1))[:, 0]
