"""The public API: the perceptual distance, for any Flax module.

    from vaegan_jax import perceptual_distance
    loss = perceptual_distance(critic, variables, x, x_recon).mean()

Importing this imports neither TensorFlow nor orbax.
"""

from vaegan_jax.losses.distances import (
  feature_distance,
  gram_distance,
  style_and_content_loss,
)
from vaegan_jax.losses.perceptual import capture_features, perceptual_distance

__all__ = [
  'capture_features',
  'feature_distance',
  'gram_distance',
  'perceptual_distance',
  'style_and_content_loss',
]
