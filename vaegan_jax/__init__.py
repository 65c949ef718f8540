"""The public API: the perceptual distance, and trained models.

    from vaegan_jax import perceptual_distance
    loss = perceptual_distance(critic, variables, x, x_recon).mean()

    model = vaegan_jax.load('runs/celeba')
    latents = model.encode(model.preprocess(images)).mode()

Importing this imports neither TensorFlow nor orbax. `load` needs the packages
of `pip install '.[load]'`, which do not include TensorFlow.
"""

import os
from typing import TYPE_CHECKING

from vaegan_jax.losses.distances import (
  feature_distance,
  gram_distance,
  style_and_content_loss,
)
from vaegan_jax.losses.perceptual import capture_features, perceptual_distance

if TYPE_CHECKING:
  from vaegan_jax.inference.model import TrainedModel

__version__ = '0.13.0'  # Its rule is in docs/changelog.md.

__all__ = [
  'capture_features',
  'feature_distance',
  'gram_distance',
  'load',
  'perceptual_distance',
  'style_and_content_loss',
]


def load(path: str | os.PathLike) -> 'TrainedModel':
  """Loads a trained model, from a run's workdir or from an export.

  It needs neither the data nor TensorFlow, and for an export no orbax.

  Args:
    path: path of the folder, local or `gs://...`.

  Returns:
    An `inference.model.TrainedModel`, with the averaged weights of the newest
    complete checkpoint: `encode`, `decode`, `reconstruct`, `sample`,
    `features`, `distance`, `preprocess`, `config`, `step`, `latent_mean`,
    `latent_std` and `scaling_factor`.

  Raises:
    UserError: the folder is neither, is damaged, or has a newer version.
  """
  # Imported here, so that importing the distance alone stays fast.
  from vaegan_jax.inference.load import load_model

  return load_model(path)
