"""The public API: the loss of reconstructions, its parts, and trained models.

    from vaegan_jax import reconstruction_loss
    loss, terms = reconstruction_loss(critic, variables, x, x_recon)

    model = vaegan_jax.load('runs/celeba')
    latents = model.encode(model.preprocess(images)).mode()

Importing this imports neither TensorFlow nor orbax. `load` needs the packages
of `pip install '.[load]'`, which do not include TensorFlow.
"""

import os
from typing import TYPE_CHECKING

from vaegan_jax.losses.distances import feature_distance, feature_sizes
from vaegan_jax.losses.penalties import r1_penalty
from vaegan_jax.losses.perceptual import capture_features, perceptual_distance
from vaegan_jax.losses.recipe import reconstruction_loss
from vaegan_jax.losses.style import gram_distance, style_and_content_loss

if TYPE_CHECKING:
  from vaegan_jax.inference.lpips import LpipsDistance
  from vaegan_jax.inference.model import TrainedModel

__version__ = '0.13.0'  # Its rule is in docs/changelog.md.

__all__ = [
  'capture_features',
  'feature_distance',
  'feature_sizes',
  'gram_distance',
  'load',
  'load_lpips',
  'perceptual_distance',
  'r1_penalty',
  'reconstruction_loss',
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


def load_lpips(
  path: str | os.PathLike, heads: str | os.PathLike
) -> 'LpipsDistance':
  """Loads LPIPS: `load_lpips('vgg16.pth', 'lpips_vgg.pth')(x, x_recon)`.

  Args:
    path: path of VGG16's weights, torchvision's .pth or .safetensors.
    heads: path of the factors of LPIPS v0.1.

  Returns:
    An `inference.lpips.LpipsDistance`, a pytree, which computes LPIPS [B] of
    images [B, H, W, C] in [-1, 1].

  Raises:
    UserError: a file is damaged or holds another network.
  """
  from vaegan_jax.inference.lpips import load_distance

  return load_distance(path, heads)
