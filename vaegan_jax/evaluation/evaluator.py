"""One run's held-out examples: scored, drawn and, of sounds, played.

Serves the training loop, `evaluate`, `compare` and `study`. Everything uses the
averaged weights (`ema_params`), and is a function of the checkpoint, the seed
and the images alone. What is drawn is reconstructed from the latent's mean.
Axes: B, N examples; S, one to three axes of space; C channels.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import flax.linen as nn
import jax
import numpy as np

from vaegan_jax.data import pixels
from vaegan_jax.data.split import Images
from vaegan_jax.evaluation import figures, signal_figures
from vaegan_jax.evaluation.feature_metrics import Judges
from vaegan_jax.evaluation.scores import Scores, measure, summarize
from vaegan_jax.losses import perceptual
from vaegan_jax.losses.reconstruction import LossConfig, compare
from vaegan_jax.runtime.progress import track
from vaegan_jax.training.train_state import TrainState

NUM_COLUMNS = 8  # Of the figures of images; half of the originals drawn.
NUM_SAMPLES = 64
_NUM_PLAYED = 4
Distance = Callable[[jax.Array, jax.Array], jax.Array]  # [B, ...] x 2 -> [B]
_NO_JUDGES = Judges()
Poll = Callable[[], None]  # Raises what is to end the work.


def go_on() -> None:
  """The poll of work that nothing ends."""


class Evaluator:
  """Measures and draws the held-out examples of one run."""

  def __init__(
    self,
    modules: Mapping[str, nn.Module],
    images: Images,
    *,
    loss: LossConfig,
    batch_size: int,
    seed: int,
    value_range: pixels.ValueRange = 'dtype',
    bands: Sequence[int] = (),
    sample_rate: int = 16_000,
    judges: Judges = _NO_JUDGES,
    notes: Sequence[str] = (),
  ):
    """Prepares the compiled functions; nothing is computed yet.

    Args:
      modules: the run's networks, by name.
      images: that are held out, uint8 or, with a range, of any type.
      loss: how the distance is measured; with `normalize='batch'` over the
        images of one batch.
      batch_size: images at a time.
      seed: of the samples from the prior, and of the latent.
      value_range: as `pixels.to_float` takes it.
      bands: that are drawn, as `figures.choose_bands` takes them; if there are
        any, each band is measured too.
      sample_rate: of examples with one axis of space, in Hz: how they are drawn
        and played.
      judges: that are asked too.
      notes: what else is to be known of the scores, for the protocol.
    """
    autoencoder = modules['autoencoder']
    self._images = images
    self._value_range = value_range
    self._bands = bands
    self.sample_rate = sample_rate  # Of what is played, too.
    self._batch_size = batch_size
    self._seed = seed
    self._latent = autoencoder.latent
    self._latent_space = autoencoder.latent_space
    self._reconstruct = jax.jit(functools.partial(reconstruct, autoencoder))
    self._sample = jax.jit(functools.partial(_sample, autoencoder, seed))
    self._encode = jax.jit(
      functools.partial(autoencoder.apply, method='encode')
    )
    self._decode = jax.jit(
      functools.partial(autoencoder.apply, method='decode')
    )
    self._from_prior = jax.jit(
      functools.partial(autoencoder.apply, method='from_prior')
    )
    self._judges = judges
    self._notes = notes
    self._measure = jax.jit(functools.partial(measure, by_band=bool(bands)))
    self._distance = _create_distance(modules, loss)

  @property
  def fingerprint(self) -> str:
    """Names the images, and the way they are decoded."""
    return self._images.fingerprint

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
      See `scores.summarize`. The distance is None without a critic.
    """
    variables, _ = _inference_variables(state)
    distance = distance or self.distance_for(state)
    num_images = min(num_images or len(self._images), len(self._images))
    parts = []
    starts = range(0, num_images, self._batch_size)
    for first in track(starts, 'Evaluating', len(starts)):
      poll()
      # The last batch is filled up, so that there is one shape to compile.
      places = np.arange(first, first + self._batch_size) % num_images
      part = self._look(variables, places, distance)
      part = {name: np.asarray(value) for name, value in part.items()}
      parts.append({k: v[: num_images - first] for k, v in part.items()})
    return summarize(
      {k: np.concatenate([part[k] for part in parts]) for k in parts[0]},
      num_codes=getattr(self._latent, 'codebook_size', 0),
    )

  @property
  def protocol(self) -> str:
    """How the scores of all images come about, as a Markdown list."""
    shape = 'x'.join(map(str, self._shape))
    lines = (
      f'{len(self._images):,} held-out images of {shape}, the crops that the '
      'autoencoder is fed with',
      "reconstructions from the latent's mean or, where it says sampled, from "
      'a sample of it, with the averaged weights',
      'judges see pictures clipped and rounded to 8 bits',
      *self._judges.protocol,
      *self._notes,
    )
    return ''.join(f'- {line}\n' for line in lines)

  def _look(self, variables, places, distance) -> dict[str, jax.Array]:
    """What `summarize` needs of the images at `places`, each [B, ...]."""
    x = pixels.to_float(self._images[places], self._value_range)
    seen = self._judges.look(x)
    part = {'features': seen['features']} if 'features' in seen else {}
    x_recon, facts = self._reconstruct(variables, x)
    part |= facts
    if distance:
      part['distance'] = distance(x, x_recon)
    kinds = {'': x_recon}
    if self._latent.is_random:
      kinds['_sampled'] = self._sample(variables, x, places)
    for suffix, x_recon in kinds.items():
      found = self._measure(x, x_recon) | self._judges.compare(seen, x_recon)
      part |= {f'{name}{suffix}': value for name, value in found.items()}
    return part

  def draw(
    self, state: TrainState, poll: Poll = go_on
  ) -> dict[str, np.ndarray]:
    """Figures: name -> [H', W', 3] uint8.

    Originals with their reconstructions, samples from the prior, and a row
    that walks from one original's latent to another's; of images, sounds and
    volumes as `signal_figures` shows them.

    Args:
      state: of the run, on the host or on any devices.
      poll: called before each of the three is computed.
    """
    variables, _ = _inference_variables(state)
    poll()
    x, x_recon = self.reconstruct_first(state, 2 * NUM_COLUMNS)
    poll()
    key = jax.random.key(self._seed)
    prior = self._latent.draw_prior(
      key, np.arange(NUM_SAMPLES), self._latent_space(x.shape[1:-1])
    )
    samples = np.asarray(self._from_prior(variables, prior))
    poll()
    ends = np.asarray(self._encode(variables, x[:2])['latents'])
    steps = np.linspace(0.0, 1.0, NUM_COLUMNS)
    steps = steps.reshape(-1, *[1] * (ends.ndim - 1))
    walk = (1 - steps) * ends[0] + steps * ends[-1]
    walk = self.shown(np.asarray(self._decode(variables, walk)))
    scale = signal_figures.scale_of(walk, x.ndim - 2)
    return {
      'reconstructions': signal_figures.reconstructions(
        x, x_recon, bands=self._bands, sample_rate=self.sample_rate
      ),
      'samples': figures.sample_figure(self.shown(samples), scale=scale),
      'interpolation': figures.interpolation_figure(walk[None], scale=scale),
    }

  def play(self, state: TrainState) -> dict[str, np.ndarray]:
    """The first sounds, original and reconstructed; nothing of other examples.

    Args:
      state: of the run, on the host or on any devices.

    Returns:
      {name: [N, T, C] float32 in [-1, 1]}, C at most 2: of more channels the
      first that figures show.
    """
    if len(self._shape) != 2:
      return {}
    pair = self.reconstruct_first(state, 2 * NUM_COLUMNS)  # Compiled already.
    if pair[0].shape[-1] > 2:
      pair = [figures.choose_bands(x, self._bands)[..., :1] for x in pair]
    return {
      name: np.clip(np.nan_to_num(x[:_NUM_PLAYED]), -1, 1)
      for name, x in zip(('originals', 'reconstructions'), pair, strict=True)
    }

  @property
  def num_columns(self) -> int:
    """How many examples stand in a row of a figure."""
    return signal_figures.num_columns(len(self._shape) - 1)

  @functools.cached_property
  def _shape(self) -> tuple[int, ...]:
    """(*S, C) of an example, of which the images are asked once."""
    return self._images[np.arange(1)].shape[1:]

  def shown(self, x: np.ndarray) -> np.ndarray:
    """Examples [N, *S, C] as pictures [N, H', W', C'] in [-1, 1]."""
    return signal_figures.as_pictures(
      x, bands=self._bands, sample_rate=self.sample_rate
    )

  def reconstruct_first(
    self, state: TrainState, num_images: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """The first held-out images and their reconstructions, [N, *S, C]."""
    variables, _ = _inference_variables(state)
    places = np.arange(min(num_images, len(self._images)))
    x = pixels.to_float(self._images[places], self._value_range)
    x_recon, _ = self._reconstruct(variables, x)
    return np.asarray(x), np.asarray(x_recon)


def reconstruct(
  autoencoder, variables, x: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Reconstructs without chance: of a Gaussian, from its mean.

  Args:
    autoencoder: the module.
    variables: its variables.
    x: [B, *S, C] float32 in [-1, 1].

  Returns:
    x_recon [B, *S, C] in [-1, 1], and what is to be known of the latent,
    {name: [B, ...]}: its `rate` in bits, `kl` in nats, `indices` of codes.
  """
  encoded = autoencoder.apply(variables, x, method='encode')
  x_recon = autoencoder.apply(variables, encoded['latents'], method='decode')
  return x_recon, autoencoder.latent.measure(encoded)


def _sample(autoencoder, seed, variables, x, places) -> jax.Array:
  """Reconstructs from a sample, which is of each image's own place."""
  space = autoencoder.latent_space(x.shape[1:-1])
  noise = autoencoder.latent.draw_noise(
    jax.random.key(seed), places, len(x), space
  )
  return autoencoder.apply(variables, x, noise)[0]


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


def _create_distance(modules, loss):
  """(critic variables, x, x_recon) -> [B], as in training."""

  @jax.jit
  def distance(variables, x, x_recon):
    critic = modules['critic']
    layers = loss.layers or critic.layer_names

    def capture(images):
      _, features = perceptual.capture_features(
        critic, variables, images, layers=layers
      )
      return features

    return compare(loss, x, x_recon, capture(x), capture(x_recon))

  return distance
