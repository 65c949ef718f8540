"""Creates the updates of a run from its configuration."""

import functools
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import ml_collections
import optax

from vaegan_jax.config.settings import loss_settings
from vaegan_jax.config.shapes import flip_axes, spatial_shape
from vaegan_jax.data import pixels
from vaegan_jax.losses.adversarial import OBJECTIVES
from vaegan_jax.setup.modules import trained_parts
from vaegan_jax.setup.networks import critic_config
from vaegan_jax.training import build
from vaegan_jax.training.step_kinds import StepKind
from vaegan_jax.training.wrappers import Update


def create_updates(
  config: ml_collections.ConfigDict,
  modules: Mapping[str, nn.Module],
  optimizers: Mapping[str, optax.GradientTransformation],
) -> Callable[[StepKind], Update]:
  """Creates the updates of a run, over this process's devices.

  Returns:
    (kind) -> the update of that kind, on [D, K B, *S, C] of any type; each is
    built once, and compiled when it is first called.
  """
  trains_critic = 'critic' in optimizers
  return build.create_updates(
    modules,
    optimizers,
    loss_settings(config),
    objective=OBJECTIVES[config.objective] if trains_critic else None,
    order=config.update_order,
    ema_decay=config.ema_decay,
    critic_config=critic_config(config, optimizers),
    seed=config.seed,
    preprocess=_create_preprocess(config.data),
    num_flips=len(flip_axes(config.data)),
    crop_margin=config.data.random_crop_margin,
    masked=config.data.max_nodata > 0,
    max_grad_norm=config.optimizer.max_grad_norm,
    trained_parts=trained_parts(config),
    num_chunks=config.optimizer.accumulate_steps,
  )


def _create_preprocess(data) -> Callable[..., jax.Array]:
  """Creates the function that crops, mirrors and scales images on a device."""
  axes, crop = flip_axes(data), lambda images: images
  if data.random_crop_margin:
    crop = functools.partial(pixels.random_crop, shape=spatial_shape(data))

  def preprocess(images, *randoms):
    images = crop(images, *randoms[len(axes) :])
    for axis, flip in zip(axes, randoms, strict=False):
      images = pixels.random_flip(images, flip, axis)
    return pixels.to_float(images, data.value_range, data.mid_side)

  return preprocess
