"""One run's held-out images: scored, and drawn.

Serves the training loop and the modes of `evaluate.py`. Everything uses the
averaged weights (`ema_params`) and reconstructs from the latent's mean, so
that it is a function of the checkpoint and the images alone.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from vaegan_jax.data import input_pipeline
from vaegan_jax.evaluation import figures, metrics
from vaegan_jax.experiment.train_state import TrainState
from vaegan_jax.losses import perceptual
from vaegan_jax.models import autoencoder as autoencoder_lib

NUM_COLUMNS = 8  # Of figures.
NUM_SAMPLES = 64
_PATIENCE = 5  # Seconds of evaluation before a progress bar is shown.
Scores = dict[str, float | None]
Distance = Callable[[jax.Array, jax.Array], jax.Array]  # [B, ...] x 2 -> [B]
Poll = Callable[[], None]  # Raises what is to end the work.


def go_on() -> None:
  """The poll of work that nothing ends."""


class Evaluator:
  """Measures and draws the held-out images of one run."""

  def __init__(
    self,
    modules: Mapping[str, nn.Module],
    images: input_pipeline.Images,
    *,
    loss: Mapping[str, Any],
    batch_size: int,
    seed: int,
  ):
    """Prepares the compiled functions; nothing is computed yet.

    Args:
      modules: the run's networks, by name.
      images: the held-out images, uint8.
      loss: the fields of `config.loss`, for the distance.
      batch_size: images at a time.
      seed: of the samples from the prior.
    """
    autoencoder = modules['autoencoder']
    self._images = images
    self._batch_size = batch_size
    self._seed = seed
    self._latent_dim = autoencoder.latent_dim
    self._reconstruct = jax.jit(functools.partial(reconstruct, autoencoder))
    self._encode = jax.jit(
      functools.partial(autoencoder.apply, method='encode')
    )
    self._decode = jax.jit(
      functools.partial(autoencoder.apply, method='decode')
    )
    self._measure = jax.jit(_measure)
    self._distance = _create_distance(modules, loss)

  def distance_for(self, state: TrainState) -> Distance | None:
    """The distance in a state's own critic; None if it has none."""
    critic = _inference_variables(state)[1]
    return critic and functools.partial(self._distance, critic)

  def score(
    self,
    state: TrainState,
    num_images: int = 0,
    distance: Distance | None = None,
    poll: Poll = go_on,
  ) -> Scores:
    """Evaluation metrics over the held-out images.

    Args:
      state: of the run, on the host or on any devices.
      num_images: how many, from the split's beginning; 0: all.
      distance: from another run's `distance_for`; None: in its own critic.
      poll: called before each batch.

    Returns:
      `psnr` (dB), `ssim`, `sharpness` (ratio), `kl` (nats), and `distance`.
      None for what is not finite, and the distance without a critic.
    """
    variables, _ = _inference_variables(state)
    distance = distance or self.distance_for(state)
    num_images = min(num_images or len(self._images), len(self._images))
    parts = []
    starts = range(0, num_images, self._batch_size)
    starts = tqdm(
      starts,
      'Evaluating',
      leave=False,
      delay=_PATIENCE,
      disable=jax.process_index() > 0,
    )
    for first in starts:
      poll()
      # The last batch is filled up, so that there is one shape to compile.
      places = np.arange(first, first + self._batch_size)
      x = input_pipeline.to_float(self._images[places % num_images])
      x_recon, kl = self._reconstruct(variables, x)
      part = self._measure(x, x_recon) | {'kl': kl}
      if distance:
        part['distance'] = distance(x, x_recon)
      part = {name: np.asarray(value) for name, value in part.items()}
      parts.append({k: v[: num_images - first] for k, v in part.items()})
    return _summarize(parts)

  def draw(
    self, state: TrainState, poll: Poll = go_on
  ) -> dict[str, np.ndarray]:
    """Figures: name -> [H', W', 3] uint8.

    Two rows of originals over their reconstructions, samples from the prior,
    and a row that walks from one original's latent to another's.

    Args:
      state: of the run, on the host or on any devices.
      poll: called before each of the three is computed.
    """
    variables, _ = _inference_variables(state)
    poll()
    x, x_recon = self.reconstruct_first(state, 2 * NUM_COLUMNS)
    poll()
    key = jax.random.key(self._seed)
    latents = jax.random.normal(key, (NUM_SAMPLES, self._latent_dim))
    samples = np.asarray(self._decode(variables, latents))
    poll()
    mean, _ = self._encode(variables, x[:2])
    steps = np.linspace(0.0, 1.0, NUM_COLUMNS)[:, None]
    walk = (1 - steps) * np.asarray(mean[0]) + steps * np.asarray(mean[-1])
    scale = max(1, 128 // x.shape[1])
    return {
      'reconstructions': figures.reconstruction_figure(
        x, x_recon, columns=NUM_COLUMNS, scale=scale
      ),
      'samples': figures.sample_figure(samples, scale=scale),
      'interpolation': figures.interpolation_figure(
        np.asarray(self._decode(variables, walk))[None], scale=scale
      ),
    }

  def reconstruct_first(
    self, state: TrainState, num_images: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """The first held-out images and their reconstructions, [N, S, S, C]."""
    variables, _ = _inference_variables(state)
    places = np.arange(min(num_images, len(self._images)))
    x = input_pipeline.to_float(self._images[places])
    return np.asarray(x), np.asarray(self._reconstruct(variables, x)[0])


def reconstruct(autoencoder, variables, x: jax.Array):
  """Reconstructs from the latent's mean.

  Args:
    autoencoder: the module.
    variables: its variables.
    x: [B, S, S, C] float32 in [-1, 1].

  Returns:
    x_recon [B, S, S, C] in [-1, 1] and the latent's kl [B] in nats.
  """
  noise = jnp.zeros((x.shape[0], autoencoder.latent_dim))
  x_recon, mean, logvar = autoencoder.apply(variables, x, noise)
  return x_recon, autoencoder_lib.gaussian_kl(mean, logvar)


def _inference_variables(state: TrainState):
  """Returns the variables of (autoencoder, critic), the first averaged.

  The critic's are None if there is none. Of arrays on many devices it takes
  one device's copy: evaluation is not worth a collective.
  """
  state = jax.tree.map(
    lambda x: x.addressable_data(0) if isinstance(x, jax.Array) else x, state
  )
  batch_stats = state.networks['autoencoder'].batch_stats
  autoencoder = {'params': state.ema_params, 'batch_stats': batch_stats}
  critic = state.networks.get('critic')
  return autoencoder, critic.variables if critic else None


def to_line(scores: Scores) -> str:
  """Scores on one line, for people."""
  shown = {name: value for name, value in scores.items() if value is not None}
  return '  '.join(f'{name} {value:.4g}' for name, value in shown.items())


def _measure(x, x_recon):
  """Metrics of each image, [B], that need no network."""
  return {
    'psnr': metrics.psnr(x, x_recon),
    'ssim': metrics.ssim(x, x_recon),
    'energy': metrics.high_frequency_energy(x),
    'energy_recon': metrics.high_frequency_energy(x_recon),
  }


def _create_distance(modules, loss):
  """(critic variables, x, x_recon) -> [B], by the fields of `config.loss`."""

  @jax.jit
  def distance(variables, x, x_recon):
    return perceptual.perceptual_distance(
      modules['critic'],
      variables,
      x,
      x_recon,
      layers=loss['layers'] or modules['critic'].layer_names,
      weights=loss['layer_weights'] or None,
      normalize=loss['normalize'],
      reduction=loss['reduction'],
    )

  return distance


def _summarize(parts) -> Scores:
  """Means over all images; the sharpness is a ratio of sums."""
  values = {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}
  sharpness = metrics.sharpness_ratio(
    values.pop('energy'), values.pop('energy_recon')
  )
  scores = {name: float(value.mean()) for name, value in values.items()}
  scores['sharpness'] = float(sharpness)
  names = ('psnr', 'ssim', 'sharpness', 'kl', 'distance')
  return {  # JSON has no NaN, the sharpness of flat originals.
    name: scores[name] if math.isfinite(scores.get(name, math.nan)) else None
    for name in names
  }
