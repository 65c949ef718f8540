"""A new run that starts from the weights of another, `config.init_from`.

The networks alone are read, in the newest whole checkpoint: the optimisers, the
moving averages of the losses and the steps begin anew.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import flax.linen as nn
import ml_collections
from etils import epath

from vaegan_jax import models
from vaegan_jax.config.io import load_config
from vaegan_jax.config.paths import resolve
from vaegan_jax.config.rules import flatten
from vaegan_jax.errors import UserError
from vaegan_jax.runtime import distributed
from vaegan_jax.setup.networks import create_networks, restore_networks
from vaegan_jax.training.train_state import Params

# The critic's are of its own section, and the autoencoder's of two.
_OF_DATA = ('shape', 'image_size', 'channels')


class InitialWeights(NamedTuple):
  """What a run that begins takes from another.

  Attributes:
    variables: {network: its params and batch_stats}; of the critic only if both
      runs have the same.
    ema_params: the autoencoder's weights, averaged over that run's steps.
    told: one sentence: where they are from, and what begins anew, and why.
  """

  variables: dict[str, Mapping[str, Params]]
  ema_params: Params
  told: str


def check_other_run(init_from: str, workdir: str) -> None:
  """Refuses a run that would start from itself.

  Args:
    init_from: the field, as an absolute path; '': from the seed.
    workdir: of the run.

  Raises:
    UserError: they are the same folder, be it by a link.
  """
  if init_from and resolve(init_from) == resolve(workdir):
    raise UserError(
      f'init_from={init_from!r} is --workdir={workdir} itself: leave it out to '
      'go on with that run, or start another one from it, such as '
      f'--config.init_from={init_from} --workdir={workdir.rstrip("/")}_2'
    )


def read_initial_weights(
  config: ml_collections.ConfigDict,
) -> InitialWeights | None:
  """Reads the networks of the run that `config.init_from` names.

  A frozen critic is not among them: it is what its own file says. Processes
  that train together must call this at the same time.

  Args:
    config: of the run that begins.

  Returns:
    Its weights; None if none is named.

  Raises:
    UserError: it is no run, has no whole checkpoint, or another autoencoder.
  """
  path = config.init_from
  if not path:
    return None
  modules, _, _ = create_networks(config)
  with distributed.together(), _naming(path):
    source = load_config(epath.Path(path) / 'config.json')
    others, _, _ = create_networks(_computing_alike(source, config))
    if modules['autoencoder'] != others['autoencoder']:
      _refuse_autoencoder(config, source)
  with _naming(path):
    _, state, step = restore_networks(source, path)
  names, told = ['autoencoder'], f'Starting from step {step:,} of {path}'
  if 'critic' in modules and not models.is_frozen(modules['critic']):
    if difference := _compare_critics(modules['critic'], others, source):
      told += f', but the critic begins anew, because {difference}'
    else:
      names.append('critic')
  variables = {name: state.networks[name].variables for name in names}
  return InitialWeights(variables, state.ema_params, f'{told}.')


def _computing_alike(source, config):
  """The other run's configuration, but for what no weight depends on."""
  source = source.copy_and_resolve_references()
  source.model.remat = config.model.remat
  for section in ('model', 'critic'):
    source[section].dtype = config[section].dtype
  return source


def _refuse_autoencoder(config, source) -> None:
  """Names the first field that differs; only some of them matter."""
  was, now = (
    flatten({'model': c.model, 'data': {k: c.data[k] for k in _OF_DATA}})
    for c in (source, config)
  )
  field = next(field for field in now if was[field] != now[field])
  raise UserError(
    f'{field} is {was[field]!r} there and {now[field]!r} here, but weights are '
    'of one network: take the same value, or leave --config.init_from out'
  )


def _compare_critics(module, others, source) -> str:
  """What another run's critic has otherwise; '' if it is the same network."""
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
  """Yields (field, its value here, its value there) of those that differ."""
  for field in dataclasses.fields(module):
    values = [getattr(m, field.name) for m in (module, other)]
    if values[0] != values[1]:
      yield field.name, *values


@contextlib.contextmanager
def _naming(path: str) -> Iterator[None]:
  """A context whose UserErrors say which field has led to them."""
  try:
    yield
  except UserError as error:
    raise UserError(f'init_from={path!r}: {error}') from error
