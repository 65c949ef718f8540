"""Starts a run from the weights of another, `config.init_from`.

Only networks are read, from the newest undamaged checkpoint. Optimisers, moving
averages of losses and the step start afresh.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import ml_collections
from etils import epath

from vaegan_jax import models
from vaegan_jax.config.io import load_config
from vaegan_jax.config.paths import resolve
from vaegan_jax.config.rules import flatten
from vaegan_jax.errors import UserError
from vaegan_jax.runtime import distributed
from vaegan_jax.setup.modules import Variables, create_modules
from vaegan_jax.setup.networks import restore_networks

# Fields of `data` that the autoencoder's weights depend on.
_SHAPE_FIELDS = ('shape', 'image_size', 'channels')


class InitialWeights(NamedTuple):
  """Weights that a new run takes from another.

  Attributes:
    variables: {network: its params and batch_stats}; of the critic only if both
      runs have the same.
    ema_params: the autoencoder's params, averaged over that run's steps.
    message: where the weights come from, and what starts afresh.
  """

  variables: dict[str, Variables]
  ema_params: Mapping[str, Any]
  message: str


def check_init_from(init_from: str, workdir: str) -> None:
  """Refuses a run that would start from itself.

  Raises:
    UserError: both are the same folder, perhaps through a link.
  """
  if init_from and resolve(init_from) == resolve(workdir):
    raise UserError(
      f'init_from={init_from!r} is --workdir={workdir} itself: leave it out to '
      'resume that run, or start another from it, such as '
      f'--config.init_from={init_from} --workdir={workdir.rstrip("/")}_2'
    )


def read_initial_weights(
  config: ml_collections.ConfigDict,
) -> InitialWeights | None:
  """Reads the networks of the run that `config.init_from` names.

  A frozen critic is left to its own file. Processes that train together must
  call this at the same time.

  Returns:
    The weights; None if no run is named.

  Raises:
    UserError: the folder is no run, has no undamaged checkpoint, or has another
      autoencoder.
  """
  path = config.init_from
  if not path:
    return None
  modules = create_modules(config)
  with distributed.together(), _naming(path):
    source = load_config(epath.Path(path) / 'config.json')
    others = create_modules(_with_free_fields(source, config))
    if modules['autoencoder'] != others['autoencoder']:
      _refuse_autoencoder(config, source)
  with _naming(path):
    restored = restore_networks(source, path)
  names = ['autoencoder']
  message = f'Starting from step {restored.step:,} of {path}'
  if 'critic' in modules and not models.is_frozen(modules['critic']):
    if difference := _compare_critics(modules['critic'], others, source):
      message += f', but the critic starts afresh, because {difference}'
    else:
      names.append('critic')
  variables = {name: restored.variables[name] for name in names}
  return InitialWeights(variables, restored.ema_params, f'{message}.')


def _with_free_fields(source, config):
  """Copies the fields that do not affect the weights."""
  source = source.copy_and_resolve_references()
  source.model.remat = config.model.remat
  for section in ('model', 'critic'):
    source[section].dtype = config[section].dtype
  return source


def _refuse_autoencoder(config, source) -> None:
  """Raises UserError with the first field that differs."""
  was, now = (
    flatten({'model': c.model, 'data': {k: c.data[k] for k in _SHAPE_FIELDS}})
    for c in (source, config)
  )
  field = next(field for field in now if was[field] != now[field])
  raise UserError(
    f'{field} is {was[field]!r} there and {now[field]!r} here, but weights are '
    'of one network: set the same value, or leave --config.init_from out'
  )


def _compare_critics(module, others, source) -> str:
  """Describes how another run's critic differs; '' if it does not."""
  other = others.get('critic')
  if other is None:
    return f'objective is {source.objective!r} there, which has none'
  if type(other) is not type(module):
    return f'critic.network is {source.critic.network!r} there'
  return ' and '.join(
    f'critic.{field} is {was!r} there and {is_now!r} here'
    for field, is_now, was in _differences(module, other)
  )


def _differences(module: nn.Module, other: nn.Module) -> Iterator[tuple]:
  """Yields (field, value here, value there) where they differ."""
  for field in dataclasses.fields(module):
    values = [getattr(m, field.name) for m in (module, other)]
    if values[0] != values[1]:
      yield field.name, *values


@contextlib.contextmanager
def _naming(path: str) -> Iterator[None]:
  """Adds the field to the UserErrors of its context."""
  try:
    yield
  except UserError as error:
    raise UserError(f'init_from={path!r}: {error}') from error
