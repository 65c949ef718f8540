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
  """

  width: int
  channel_multipliers: Sequence[int]
  norm: str = 'none'

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps x: [B, H, W, C] in [-1, 1] to logits [B]; positive means real."""
    for i, multiplier in enumerate(self.channel_multipliers):
      block = blocks.DownBlock(
        self.width * multiplier, self.norm, name=f'block_{i}'
      )
      x = block(x, train)
    return nn.Dense(1)(x.reshape(x.shape[0], -1))[:, 0]
