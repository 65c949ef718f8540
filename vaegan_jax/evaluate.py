"""Evaluation: numbers and figures from images that training never saw.

`Evaluator` serves the training loop; `evaluate` and `compare` are the modes
of `main.py` of the same names. Everything uses the averaged weights
(`ema_params`) and reconstructs from the latent's mean, so that it is a
function of the checkpoint and the images alone.
"""

import functools
import json
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from etils import epath
from tqdm import tqdm

from configs.serialization import load_config
from vaegan_jax import (
  adversarial,
  figures,
  input_pipeline,
  metrics,
  models,
  perceptual,
)
from vaegan_jax.checkpoints import Checkpoints
from vaegan_jax.errors import UserError
from vaegan_jax.models import autoencoder as autoencoder_lib
from vaegan_jax.models import blocks
from vaegan_jax.optimizers import create_optimizers
from vaegan_jax.train_state import TrainState, create_train_state
from vaegan_jax.writers import check_writable

NUM_COLUMNS = 8  # Of figures.
NUM_SAMPLES = 64
_PATIENCE = 5  # Seconds of evaluation before a progress bar is shown.
# Fields of `config.data` that decide what the held-out images are.
_SAME_DATA = (
  'name',
  'path',
  'image_size',
  'channels',
  'center_crop',
  'eval_split',
)
Scores = dict[str, float | None]
Distance = Callable[[jax.Array, jax.Array], jax.Array]  # [B, ...] x 2 -> [B]


class Evaluator:
  """Measures and draws the held-out images of one run."""

  def __init__(self, config: ml_collections.ConfigDict, modules, images):
    """Prepares the compiled functions; nothing is computed yet.

    Args:
      config: of the run.
      modules: its networks, by name.
      images: the held-out images.
    """
    self._images = images
    self._batch_size = config.batch_size
    self._seed = config.seed
    self._latent_dim = config.model.latent_dim
    autoencoder = modules['autoencoder']
    self._reconstruct = jax.jit(functools.partial(reconstruct, autoencoder))
    self._encode = jax.jit(
      functools.partial(autoencoder.apply, method='encode')
    )
    self._decode = jax.jit(
      functools.partial(autoencoder.apply, method='decode')
    )
    self._measure = jax.jit(_measure)
    self._distance = _create_distance(config, modules)

  def distance_for(self, state: TrainState) -> Distance | None:
    """The distance in a state's own critic; None if it has none."""
    critic = _inference_variables(state)[1]
    return critic and functools.partial(self._distance, critic)

  def score(
    self,
    state: TrainState,
    num_images: int = 0,
    distance: Distance | None = None,
  ) -> Scores:
    """Evaluation metrics over the held-out images.

    Args:
      state: of the run, on the host or on any devices.
      num_images: how many, from the split's beginning; 0: all.
      distance: from another run's `distance_for`; None: in its own critic.

    Returns:
      `psnr` (dB), `ssim`, `sharpness` (ratio), `kl` (nats), and `distance`.
      None for what is not finite, and the distance without a critic.
    """
    variables, _ = _inference_variables(state)
    distance = distance or self.distance_for(state)
    num_images = min(num_images or len(self._images), len(self._images))
    parts = []
    starts = range(0, num_images, self._batch_size)
    for first in tqdm(starts, 'Evaluating', leave=False, delay=_PATIENCE):
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

  def draw(self, state: TrainState) -> dict[str, np.ndarray]:
    """Figures: name -> [H', W', 3] uint8.

    Two rows of originals over their reconstructions, samples from the prior,
    and a row that walks from one original's latent to another's.
    """
    variables, _ = _inference_variables(state)
    x, x_recon = self.reconstruct_first(state, 2 * NUM_COLUMNS)
    key = jax.random.key(self._seed)
    latents = jax.random.normal(key, (NUM_SAMPLES, self._latent_dim))
    mean, _ = self._encode(variables, x[:2])
    steps = np.linspace(0.0, 1.0, NUM_COLUMNS)[:, None]
    walk = (1 - steps) * np.asarray(mean[0]) + steps * np.asarray(mean[-1])
    scale = max(1, 128 // x.shape[1])
    return {
      'reconstructions': figures.reconstruction_figure(
        x, x_recon, columns=NUM_COLUMNS, scale=scale
      ),
      'samples': figures.sample_figure(
        np.asarray(self._decode(variables, latents)), scale=scale
      ),
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


def evaluate(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Measures a run on the whole held-out split, and draws it.

  Writes `evaluation.json` (one line), `evaluation.md` and
  `figures/evaluation_*.png` into the workdir, and prints the first two.

  Args:
    config: of the run; its data may be other images of the same shape.
    workdir: of the run.

  Raises:
    UserError: there is no whole checkpoint, or it is of another network.
  """
  check_writable(workdir)
  evaluator, state, step = _open(config, workdir)
  scores = evaluator.score(state)
  line = json.dumps({'step': step, **scores}, allow_nan=False)
  table = figures.markdown_table({epath.Path(workdir).name: scores})
  root = epath.Path(workdir)
  (root / 'evaluation.json').write_text(line + '\n')
  (root / 'evaluation.md').write_text(table)
  for name, image in evaluator.draw(state).items():
    figures.save_png(root / 'figures' / f'evaluation_{name}.png', image)
  print(line, table, f'Figures: {root / "figures"}', sep='\n', flush=True)


def compare(workdirs: list[str], output_dir: str) -> None:
  """Puts runs side by side, on the same held-out images.

  Every run's distance is measured by one critic, that of the first run that
  has one, as distances in different features cannot be compared. Writes
  `comparison.png`, `comparison.json` and `comparison.md`.

  Args:
    workdirs: of the runs; their images must be of the same dataset and shape.
    output_dir: where the three files go.

  Raises:
    UserError: a run has no checkpoint, or the runs' data differ.
  """
  check_writable(output_dir)
  configs = [load_config(epath.Path(w) / 'config.json') for w in workdirs]
  _check_same_data(configs, workdirs)
  runs = {
    label: _open(config, workdir)
    for label, config, workdir in zip(
      _labels(workdirs), configs, workdirs, strict=True
    )
  }
  judge = next(
    (
      (label, evaluator.distance_for(state))
      for label, (evaluator, state, _) in runs.items()
      if 'critic' in state.networks
    ),
    None,
  )
  rows, results = {}, {}
  for label, (evaluator, state, _) in runs.items():
    print(f'Evaluating {label} ...', flush=True)
    x, rows[label] = evaluator.reconstruct_first(state, NUM_COLUMNS)
    results[label] = evaluator.score(state, distance=judge and judge[1])
    distance = results[label].pop('distance')
    if judge:
      results[label][f'distance ({judge[0]})'] = distance
  rows = {'originals': x} | rows
  output = epath.Path(output_dir)
  figures.save_png(
    output / 'comparison.png', figures.comparison_figure(rows, results)
  )
  table = figures.markdown_table(results)
  (output / 'comparison.md').write_text(table)
  (output / 'comparison.json').write_text(json.dumps(results) + '\n')
  print(table, f'Figure: {output / "comparison.png"}', sep='\n', flush=True)


def _measure(x, x_recon):
  """Metrics of each image, [B], that need no network."""
  return {
    'psnr': metrics.psnr(x, x_recon),
    'ssim': metrics.ssim(x, x_recon),
    'energy': metrics.high_frequency_energy(x),
    'energy_recon': metrics.high_frequency_energy(x_recon),
  }


def _create_distance(config, modules):
  """(critic variables, x, x_recon) -> [B], with the run's `config.loss`."""
  loss = config.loss

  @jax.jit
  def distance(variables, x, x_recon):
    return perceptual.perceptual_distance(
      modules['critic'],
      variables,
      x,
      x_recon,
      layers=loss.layers or None,
      layer_type=blocks.DownBlock,
      weights=loss.layer_weights or None,
      normalize=loss.normalize,
      reduction=loss.reduction,
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


def _open(config, workdir) -> tuple[Evaluator, TrainState, int]:
  """A run's evaluator, and its newest whole checkpoint with its step."""
  modules = models.create_modules(
    with_critic=config.objective in adversarial.OBJECTIVES,
    data=config.data,
    model=config.model,
    critic=config.critic,
  )
  shape = (*[config.data.image_size] * 2, config.data.channels)
  template = jax.eval_shape(
    lambda: create_train_state(
      modules,
      create_optimizers(modules, **config.optimizer),
      seed=config.seed,
      image_shape=shape,
    )
  )
  restored = Checkpoints(workdir).restore(
    template,
    config=config.to_dict(),
    # Only the networks must be those of the checkpoint.
    free_fields=tuple(set(config) - {'model', 'critic'}),
    quarantine=False,
  )
  if restored is None:
    raise UserError(
      f'--workdir={workdir} has no checkpoint: train it first, with '
      f'--mode=train --workdir={workdir}'
    )
  (images,) = input_pipeline.load_splits(config.data, ['eval_split'])
  return Evaluator(config, modules, images), *restored


def _check_same_data(configs, workdirs) -> None:
  first = configs[0].data
  for config, workdir in zip(configs, workdirs, strict=True):
    for field in _SAME_DATA:
      if config.data[field] != first[field]:
        raise UserError(
          f'data.{field} is {config.data[field]!r} in {workdir} and '
          f'{first[field]!r} in {workdirs[0]}: only runs on the same held-out '
          'images can be compared'
        )


def _labels(workdirs: list[str]) -> list[str]:
  """Short names of runs: their folders' names, or paths if those repeat."""
  names = [epath.Path(workdir).name for workdir in workdirs]
  return names if len(set(names)) == len(names) else list(workdirs)
