"""A run and its held-out images, as every mode opens them."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import ml_collections
from absl import logging

from vaegan_jax.config.shapes import shown_bands
from vaegan_jax.data.data_config import DataConfig
from vaegan_jax.data.split import Images, load_splits
from vaegan_jax.evaluation.evaluator import Evaluator
from vaegan_jax.evaluation.feature_metrics import (
  FeatureMetrics,
  load_feature_metrics,
)
from vaegan_jax.losses.reconstruction import LossConfig
from vaegan_jax.setup.data_identity import describe_change, keep_rules
from vaegan_jax.setup.other_sizes import restore_for_size
from vaegan_jax.training.train_state import inference_variables


def create_evaluator(
  config: ml_collections.ConfigDict,
  modules: Mapping[str, nn.Module],
  images: Images,
  *,
  feature_metrics: FeatureMetrics | None = None,
  batch_size: int = 0,
  notes: Sequence[str] = (),
) -> Evaluator:
  """The evaluator of a run.

  Args:
    config: of the run.
    modules: its networks, by name.
    images: that are held out.
    feature_metrics: of pretrained networks; None: as configured.
    batch_size: images at a time; 0: that of the configuration.
    notes: what else is to be known of its scores.

  Returns:
    The evaluator; nothing is computed yet.
  """
  return Evaluator(
    modules,
    images,
    loss=LossConfig(**config.loss),
    # Each process computes all on its own devices.
    batch_size=max(1, (batch_size or config.batch_size) // jax.process_count()),
    seed=config.seed,
    value_range=config.data.value_range,
    bands=shown_bands(config.data),
    sample_rate=config.data.sample_rate,
    feature_metrics=feature_metrics
    or load_feature_metrics(**config.evaluation),
    notes=notes,
  )


def open_run(
  config: ml_collections.ConfigDict, workdir: str, **options: Any
) -> tuple[Evaluator, dict[str, Any], int]:
  """Restores a run's newest whole checkpoint, for its held-out images.

  Images that are not those of its training are told of, here and in the
  evaluator's protocol.

  Args:
    config: of the run; its data may be other images, and, where the latent is
      a map, of another size.
    workdir: of the run.
    **options: those of `create_evaluator`.

  Returns:
    Its evaluator, {network: variables} and the step.

  Raises:
    UserError: there is no whole checkpoint, it is of another network, or the
      images cannot be read.
  """
  modules, state, step = restore_for_size(config, workdir)
  config = keep_rules(config, workdir)
  (images,) = load_splits(DataConfig(**config.data), ['eval_split'])
  change = describe_change(config, workdir, step)
  if change:
    logging.warning('Of %s: %s.', workdir, change)
    options['notes'] = (change,)
  evaluator = create_evaluator(config, modules, images, **options)
  return evaluator, inference_variables(state), step
