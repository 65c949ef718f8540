"""Scores and figures of one run's held-out examples.

Everything is a function of the weights, the seed and the examples alone.
Figures show reconstructions from the latent's mean. Axes: B, N examples; S, one
to three axes of space; C channels.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vaegan_jax.data import pixels
from vaegan_jax.data.split import Images
from vaegan_jax.evaluation import constants, figures, metrics, signal_figures
from vaegan_jax.evaluation.critic_distance import (
  critic_distance,
  describe_distance,
)
from vaegan_jax.evaluation.feature_metrics import FeatureMetrics
from vaegan_jax.evaluation.own_judge import is_judged, judge_for
from vaegan_jax.evaluation.reconstructor import (
  NUM_COLUMNS,
  Poll,
  Reconstructor,
  Variables,
  concatenate,
  never_stop,
)
from vaegan_jax.evaluation.scores import (
  Evaluation,
  Scores,
  by_example,
  count_codes,
  measure,
  summarize,
)
from vaegan_jax.losses.reconstruction import LossConfig
from vaegan_jax.runtime import devices

_NUM_PLAYED = 4
_NO_FEATURE_METRICS = FeatureMetrics()
# (x, x_recon, valid or None), each [B, ...] -> [B]
Distance = Callable[[jax.Array, jax.Array, jax.Array | None], jax.Array]


class Evaluator(Reconstructor):
  """Scores and figures of one run's held-out examples."""

  def __init__(
    self,
    modules: Mapping[str, nn.Module],
    images: Images,
    *,
    loss: LossConfig,
    bands: Sequence[int] = (),
    sample_rate: int = 16_000,
    feature_metrics: FeatureMetrics = _NO_FEATURE_METRICS,
    has_judge: bool = False,
    notes: Sequence[str] = (),
    **options: Any,
  ):
    """Prepares the compiled functions; computes nothing yet.

    Args:
      modules: the run's networks, by name.
      images: the held-out examples.
      loss: settings of the distance; `normalize='batch'` takes its means over
        one batch.
      bands: the channels that figures show, if not all; then each channel is
        scored, too.
      sample_rate: sample rate of sounds, in Hz.
      has_judge: whether a network of the data's own judges; `score` trains it.
      notes: further lines of the protocol.
      **options: those of `Reconstructor`.
    """
    super().__init__(modules['autoencoder'], images, **options)
    self.bands, self.sample_rate = bands, sample_rate
    self._feature_metrics = feature_metrics
    self._has_judge, self._judge = has_judge, None
    told = describe_distance(modules, loss, self._batch_size)
    self._notes = (*told, *notes)
    self._measure = functools.partial(
      _measure, by_band=bool(bands), sample_rate=sample_rate
    )
    self._distance = functools.partial(
      critic_distance, loss, modules.get('critic')
    )

  @property
  def fingerprint(self) -> str:
    """The fingerprint of the examples and of how they are decoded."""
    return self._images.fingerprint

  @property
  def judge_key(self) -> tuple:
    """The inputs that determine the network of the data's own."""
    return (self.fingerprint, self.shape, self._value_range, self._masked)

  def distance_for(self, variables: Variables) -> Distance | None:
    """Returns the distance in the critic of a run; None if it has none."""
    if 'critic' not in variables:
      return None
    found = variables['critic'], variables.get('layer_sizes')
    critic, sizes = devices.replicate(found)
    distance = functools.partial(self._distance, critic, sizes)
    if not self._mid_side:
      return distance
    # Reconstructions are left and right; the critic takes mid and side.
    return lambda x, x_recon, valid: distance(
      pixels.mid_side_of(x), pixels.mid_side_of(x_recon), valid
    )

  def score(self, *args: Any, **options: Any) -> Scores:
    """Computes the scores alone of `evaluate`."""
    return self.evaluate(*args, **options).scores

  def evaluate(
    self,
    variables: Variables,
    num_images: int = 0,
    distance: Distance | None = None,
    poll: Poll = never_stop,
  ) -> Evaluation:
    """Computes the metrics over the held-out examples, on all local devices.

    Args:
      variables: {network: variables}.
      num_images: number of the split's first examples; 0: all.
      distance: of another run's critic, by `distance_for`; None: of its own.
      poll: called before each batch.

    Returns:
      See `scores.summarize` and `by_example`. The distance is None without a
      critic.
    """
    num_images = min(num_images or len(self._images), len(self._images))
    if self._has_judge:
      self._judge = judge_for(
        self.judge_key,
        lambda indices: self._heard(self._prepare(self._images[indices])[0]),
        len(self._images),
        poll,
      )
    autoencoder = devices.replicate(variables['autoencoder'])
    batches = devices.map_batches(
      functools.partial(
        self._measure_batch,
        autoencoder,
        distance or self.distance_for(variables),
      ),
      _WithIndices(self._images),
      batch_size=self._batch_size,
      what='Evaluating',
      indices=range(num_images),
      poll=poll,
    )
    values = concatenate(batches)
    examples = by_example(values, is_judged(num_images))
    counted = values.pop('counted', ...)
    judged = np.zeros(num_images, bool)
    judged[counted] = is_judged(num_images)[counted]
    values = {
      name: value[judged if name.startswith('judge') else counted]
      for name, value in values.items()
    }
    values |= self._measure_constants(autoencoder, poll)
    num_codes = getattr(self._latent, 'codebook_size', 0)
    scores = summarize(values, num_codes=num_codes)
    return Evaluation(scores, examples, count_codes(values, num_codes))

  def _measure_constants(self, autoencoder, poll) -> dict[str, np.ndarray]:
    """Returns what `summarize` needs of constant pictures."""
    batches = devices.map_batches(
      lambda x: {
        'constants': constants.energies(self._reconstruct(autoencoder, x)[0])
      },
      constants.constant_examples(self.shape),
      batch_size=self._batch_size,
      what='Constant pictures',
      poll=poll,
    )
    return concatenate(batches)

  @property
  def protocol(self) -> str:
    """A Markdown list that explains how the scores are computed."""
    shape = 'x'.join(map(str, self.shape))
    lines = (
      f'{len(self._images):,} held-out examples of {shape}, as the autoencoder '
      'takes them: after crops and resizing',
      "reconstructions from the latent's mean or, where it says sampled, from "
      'a sample of it, with the averaged weights',
      'fine detail: frequencies above a quarter of the sampling frequency; '
      'false_detail by rings of 1/16 cycles per position',
      f'grid: {len(constants.constant_examples(self.shape))} constant '
      'pictures of several levels and colours',
      *((metrics.NO_DATA,) if self._masked else ()),
      *self._feature_metrics.describe(self.shape[-1]),
      *((self._judge.description,) if self._judge else ()),
      *self._tile_notes,
      *self._notes,
    )
    return ''.join(f'- {line}\n' for line in lines)

  def _measure_batch(self, variables, distance, batch) -> dict[str, jax.Array]:
    """Returns what `summarize` needs of a batch, {name: [B, ...]}."""
    images, indices = batch
    x, valid = self._prepare(images)
    x_recon, _, values = self._reconstruct(variables, x)
    recons = {'': x_recon}
    if self._latent.is_random:
      recons['_sampled'] = self._sample(variables, x, indices)
    if self._masked:  # No network sees a difference where there is no data.
      recons = {k: jnp.where(valid, r, x) for k, r in recons.items()}
      values['counted'] = metrics.has_every_channel(valid)
    x, recons = jax.tree.map(self._heard, (x, recons))
    if distance:
      values['distance'] = distance(x, recons[''], valid)
    for suffix, x_recon in recons.items():
      measured = self._measure(x, x_recon, valid)
      values |= {f'{name}{suffix}': value for name, value in measured.items()}
    if self._judge:
      values |= self._judge.measure(x, recons)
    return values | self._feature_metrics.measure(x, recons)

  def plot(
    self, variables: Variables, poll: Poll = never_stop
  ) -> dict[str, np.ndarray]:
    """Plots originals with reconstructions, samples, and an interpolation.

    Each is [H', W', 3] uint8; the interpolation is between two originals.
    """
    x, x_recon, latents = self.reconstruct(
      variables, range(2 * NUM_COLUMNS), poll
    )
    poll()
    samples = self.as_pictures(self.sample(variables))
    poll()
    path = self.as_pictures(
      self.interpolate(variables, *latents[[0, 1 % len(latents)]])
    )
    scale = signal_figures.scale_of(path, x.ndim - 2)
    return {
      'reconstructions': signal_figures.reconstructions(
        x, x_recon, bands=self.bands, sample_rate=self.sample_rate
      ),
      'samples': figures.sample_figure(samples, scale=scale),
      'interpolation': figures.image_grid([path], scale=scale),
    }

  def play(self, variables: Variables) -> dict[str, np.ndarray]:
    """Returns the first sounds and their reconstructions; {} for other signals.

    Each is [N, T, C] float32 in [-1, 1]; of more than two channels the first
    shown one.
    """
    if len(self.shape) != 2:
      return {}
    pair = self.reconstruct(variables, range(_NUM_PLAYED))[:2]
    if pair[0].shape[-1] > 2:
      pair = [figures.choose_bands(x, self.bands)[..., :1] for x in pair]
    return {
      name: np.clip(np.nan_to_num(x), -1, 1)
      for name, x in zip(('originals', 'reconstructions'), pair, strict=True)
    }

  @property
  def num_columns(self) -> int:
    """The number of examples in a row of a figure."""
    return signal_figures.num_columns(len(self.shape) - 1)

  def as_pictures(self, x: np.ndarray) -> np.ndarray:
    """Turns examples [N, *S, C] into pictures [N, H', W', C'] in [-1, 1]."""
    return signal_figures.as_pictures(
      x, bands=self.bands, sample_rate=self.sample_rate
    )


class _WithIndices:
  """Examples whose batches carry their indices: (images [B, ...], [B])."""

  def __init__(self, images: Images):
    self._images = images

  def __getitem__(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return self._images[indices], indices


# Evaluators of equal modules share what is compiled, as in a study.
_measure = jax.jit(measure, static_argnames=('by_band', 'sample_rate'))
