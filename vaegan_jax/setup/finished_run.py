"""Opens a finished run with its held-out examples, to evaluate it.

A map latent has no size of its own, since its networks are convolutional. A
flat latent has one, and so has a critic with one logit an image.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import ml_collections
from absl import logging
from etils import epath

from vaegan_jax.config.io import load_config
from vaegan_jax.config.settings import loss_settings, settings, with_data
from vaegan_jax.config.shapes import (
  example_shape,
  holds_arrays,
  shape_flag,
  shown_bands,
  spatial_shape,
)
from vaegan_jax.data.data_config import DataConfig
from vaegan_jax.data.split import Images, load_splits
from vaegan_jax.errors import UserError
from vaegan_jax.evaluation import own_judge
from vaegan_jax.evaluation.evaluator import Evaluator
from vaegan_jax.evaluation.feature_metrics import (
  FeatureMetrics,
  load_feature_metrics,
)
from vaegan_jax.models import is_frozen
from vaegan_jax.models.tile_plan import TilePlan, examples_at_once
from vaegan_jax.setup.data_identity import describe_change, keep_rules
from vaegan_jax.setup.memory import check_evaluation, check_features
from vaegan_jax.setup.modules import Variables, variable_shapes
from vaegan_jax.setup.networks import RestoredNetworks, restore_networks


class FinishedRun(NamedTuple):
  """A run to be evaluated."""

  evaluator: Evaluator  # Evaluator of its held-out examples.
  variables: Mapping[str, Variables]  # Variables for inference.
  step: int


def open_run(
  config: ml_collections.ConfigDict, workdir: str, **options: Any
) -> FinishedRun:
  """Restores a run's newest undamaged checkpoint and opens its held-out split.

  If the images are not those of the run's training, a warning and the
  evaluator's protocol say so.

  Args:
    config: of the run; its data may be other images and, for a map latent, of
      another size.
    **options: those of `create_evaluator`.

  Raises:
    UserError: there is no undamaged checkpoint, it has another network, or the
      images cannot be read.
  """
  restored = restore_for_shape(config, workdir)
  config = keep_rules(config, workdir)
  (images,) = load_splits(settings(DataConfig, config.data), ['eval_split'])
  change = describe_change(config, workdir, restored.step)
  if change:
    logging.warning('In %s, %s.', workdir, change)
    options['notes'] = (change,)
  evaluator = create_evaluator(config, restored.modules, images, **options)
  return FinishedRun(evaluator, restored.inference_variables, restored.step)


def create_evaluator(
  config: ml_collections.ConfigDict,
  modules: Mapping[str, nn.Module],
  images: Images,
  *,
  feature_metrics: FeatureMetrics | None = None,
  has_judge: bool | None = None,
  batch_size: int = 0,
  num_images: int = 0,
  notes: Sequence[str] = (),
) -> Evaluator:
  """Creates the evaluator of a run; computes nothing yet.

  Args:
    feature_metrics: of pretrained networks; None: as configured.
    has_judge: as `Evaluator` takes it; None: as configured.
    batch_size: examples at a time; 0: that of the configuration.
    num_images: the most examples that one evaluation takes; 0: all.
    notes: lines to add to the protocol of the scores.

  Raises:
    UserError: a file of weights cannot be used, the features of the examples
      exceed the memory, or they are too few to train a judge.
  """
  feature_metrics = feature_metrics or read_feature_metrics(config)
  if has_judge is None:
    has_judge = config.evaluation.own_judge
  if has_judge and len(images) < own_judge.MIN_EXAMPLES:
    raise UserError(
      f'evaluation.own_judge=True needs at least {own_judge.MIN_EXAMPLES} '
      f'held-out examples, and there are {len(images)}: for example, '
      '--config.evaluation.own_judge=false'
    )
  check_features(
    min(num_images or len(images), len(images)),
    feature_metrics.num_pictures(config.data.channels),
    feature_metrics.num_features,
  )
  tiles = _plan_tiles(config, modules)
  return Evaluator(
    modules,
    images,
    loss=loss_settings(config),
    batch_size=examples_at_once(
      _num_tiles(config, batch_size), _tile(config), spatial_shape(config.data)
    ),
    seed=config.seed,
    value_range=config.data.value_range,
    bands=shown_bands(config.data),
    sample_rate=config.data.sample_rate,
    masked=config.data.max_nodata > 0,
    mid_side=config.data.mid_side,
    feature_metrics=feature_metrics,
    has_judge=has_judge,
    tiles=tiles,
    notes=notes,
  )


def _tile(config: ml_collections.ConfigDict) -> tuple[int, ...]:
  """Returns the tile of an evaluation; () if examples are not larger."""
  space, side = spatial_shape(config.data), config.evaluation.tile_size
  return (side,) * len(space) if 0 < side < max(space) else ()


def _num_tiles(config: ml_collections.ConfigDict, batch_size: int = 0) -> int:
  """Returns how many tiles, or whole examples, are evaluated at a time."""
  # Each process evaluates everything, on its own devices.
  return (batch_size or config.batch_size) // jax.process_count()


def _plan_tiles(config, modules) -> TilePlan | None:
  tile, autoencoder = _tile(config), modules['autoencoder']
  if not tile:
    return None
  shapes = variable_shapes(config, {'': autoencoder})['']
  shape, name = example_shape(config.data), '--config.evaluation.tile_size'
  return TilePlan(autoencoder, shapes, shape, tile, name)


def read_feature_metrics(config: ml_collections.ConfigDict) -> FeatureMetrics:
  """Reads the pretrained networks of a configuration; compiles nothing.

  Raises:
    UserError: a file of weights cannot be used.
  """
  return load_feature_metrics(
    lpips_weights=config.evaluation.lpips_weights,
    features_weights=config.evaluation.features_weights,
    arrays=holds_arrays(config.data),
  )


def restore_for_shape(
  config: ml_collections.ConfigDict, workdir: str
) -> RestoredNetworks:
  """Restores a run's networks for examples of another shape than its own.

  Returns:
    The networks, without the critic if that takes one shape alone and the
    examples have another.

  Raises:
    UserError: there is no undamaged checkpoint, it has another network, the
      latent takes one shape alone, or the examples exceed the memory.
  """
  path = epath.Path(workdir) / 'config.json'
  own = load_config(path).data if path.exists() else config.data
  if spatial_shape(own) == spatial_shape(config.data):
    return restore_networks(config, workdir)
  field, value = shape_flag(own).split('=')
  if config.model.latent_shape == 'flat':
    raise UserError(
      f'{shape_flag(config.data)} must be {value}, as in the training of '
      f"{workdir}, because its latent is flat (model.latent_shape='map' takes "
      f'any size): for example, --config.{field}="{value}"'
    )
  shape, num_tiles = example_shape(config.data), _num_tiles(config)
  tile = _tile(config)
  config = with_data(config, image_size=own.image_size, shape=own.shape)
  restored = restore_networks(config, workdir)
  check_evaluation(
    restored.modules['autoencoder'],
    restored.variables['autoencoder'],
    shape,
    num_tiles,
    tile,
    spatial_shape(own),
  )
  critic = restored.modules.get('critic')
  if critic and not is_frozen(critic) and config.critic.head == 'dense':
    modules, variables = restored.modules, restored.variables
    restored = restored._replace(
      modules={'autoencoder': modules['autoencoder']},
      variables={'autoencoder': variables['autoencoder']},
    )
  return restored
