"""The posterior of a batch of latents, of any kind.

Axes: B batch, S axes of the latent's space, () where it is flat, Z entries of a
latent, T entries of Z that make one code.
"""

import jax
import jax.numpy as jnp
from flax import struct


class Posterior(struct.PyTreeNode):
  """Distribution of the latents of a batch, given its images.

  Attributes:
    latents: [B, *S, Z] float32, the mode, as `decode` takes them.
    mean, logvar: [B, *S, Z] of a Gaussian, whose mode is its mean; None of
      other latents.
    indices: [B, *S, Z / T] int32 of codes ('vq', 'fsq', 'lfq'), which `decode`
      takes too; None of other latents.
  """

  latents: jax.Array
  mean: jax.Array | None = None
  logvar: jax.Array | None = None
  indices: jax.Array | None = None

  @property
  def codes(self) -> jax.Array | None:
    """The codes' vectors, [B, *S, Z]; None of other latents."""
    return None if self.indices is None else self.latents

  def mode(self) -> jax.Array:
    """Returns the likeliest latents, [B, *S, Z]."""
    return self.latents

  def sample(self, key: jax.Array) -> jax.Array:
    """Samples latents [B, *S, Z]; the mode where nothing is random."""
    if self.logvar is None:
      return self.latents
    noise = jax.random.normal(key, self.mean.shape)
    return self.mean + jnp.exp(0.5 * self.logvar) * noise
