"""Starts a run from the weights of another, `config.init_from`.

Only networks are read: from a run's newest undamaged checkpoint, an export, or
a folder of diffusers. Optimisers, moving averages of losses and the step start
afresh.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from etils import epath

from vaegan_jax import models
from vaegan_jax.config.io import load_config
from vaegan_jax.config.paths import resolve
from vaegan_jax.config.rules import flatten
from vaegan_jax.config.shapes import example_shape
from vaegan_jax.data.data_config import in_bucket
from vaegan_jax.errors import UserError, naming
from vaegan_jax.models import widening
from vaegan_jax.models.pretrained import diffusers, diffusers_files
from vaegan_jax.runtime import distributed
from vaegan_jax.setup.exported_run import WEIGHTS_FILE, read_export
from vaegan_jax.setup.modules import Variables, create_modules, variable_shapes
from vaegan_jax.setup.networks import restore_networks

# Fields of `data` that the autoencoder's weights depend on.
_SHAPE_FIELDS = ('shape', 'image_size', 'channels')
# Fields of networks that they do not.
_FREE = ('model.remat', 'model.dtype', 'model.train', 'critic.dtype')


class InitialWeights(NamedTuple):
  """Weights that a new run takes from another."""

  # {network: its params and batch_stats}; of the critic only if both runs have
  # the same.
  variables: dict[str, Variables]
  # Params of the autoencoder, averaged over that run's steps.
  ema_params: Mapping[str, Any]
  message: str  # Source of the weights, and what starts afresh.
  # AutoencoderKL's `config.json`, of the folder or of the run that has kept its
  # latents, if any.
  diffusers: Mapping[str, Any] | None = None


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
  """Reads the networks that `config.init_from` names.

  It is a run, an export of one, or a folder of diffusers. A frozen critic is
  left to its own file. Processes that train together must call this at the same
  time.

  Returns:
    The weights; None if nothing is named.

  Raises:
    UserError: the folder is not one of these, has no undamaged weights, or has
      another autoencoder.
  """
  path = config.init_from
  if not path:
    return None
  modules = create_modules(config)
  with distributed.together(), naming(f'init_from={path!r}'):
    if not in_bucket(path) and not epath.Path(path).exists():
      raise UserError(
        'there is no such folder: name a workdir, an export or a folder of '
        'diffusers, which one of a hub is once it is downloaded'
      )
    if found := diffusers_files.read_config(path):
      return _from_diffusers(config, modules['autoencoder'], found)
    _check_folder(epath.Path(path))
    source = load_config(epath.Path(path) / 'config.json')
    others = create_modules(_with_free_fields(source, config))
    if modules['autoencoder'] != others['autoencoder']:
      _refuse_autoencoder(config, source)
  with naming(f'init_from={path!r}'):
    restored, ema_params, step = _restore(source, path)
  names = ['autoencoder']
  message = f'Starting from step {step:,} of {path}'
  if 'critic' in modules and not models.is_frozen(modules['critic']):
    if difference := _compare_critics(modules['critic'], others, source):
      message += f', but the critic starts afresh, because {difference}'
    elif 'critic' not in restored:
      message += ', but the critic starts afresh, because none was exported'
    else:
      names.append('critic')
  variables = {name: restored[name] for name in names}
  if 'critic' in variables:
    critic = _resize_head(config, modules['critic'], restored['critic'])
    if critic is not restored['critic']:
      variables['critic'] = critic
      changes = _changes(source, config).items()
      shapes = {name: v for name, v in changes if name.startswith('data.')}
      message += (
        ', but the dense head of the critic starts afresh, because '
        f'{_describe(shapes)}'
      )
  if config.model.train != 'all':  # Latents are those of the averaged encoder.
    own = {**variables['autoencoder'], 'params': ema_params}
    variables['autoencoder'] = own
  about = _read_about(source, path)
  return InitialWeights(variables, ema_params, f'{message}.', about)


def _check_folder(path: epath.Path) -> None:
  """Refuses a file, and a folder of another kind than these three."""
  if path.is_file():
    raise UserError(
      'it is a file, and folders are read: for a checkpoint in one file, such '
      'as .safetensors or .ckpt, name the folder that diffusers writes of it, '
      'AutoencoderKL.from_single_file(path).save_pretrained(folder)'
    )
  if not (path / 'config.json').exists():
    raise UserError(
      'it has no config.json: name a workdir, an export or a folder of '
      'diffusers'
    )


def _read_about(source, path) -> Mapping[str, Any] | None:
  """Returns AutoencoderKL's `config.json` with the scaling of the latents.

  None if a run has not kept it, or has moved the latents since. It lacks the
  class, as it is not what the run's network is read from.
  """
  about = diffusers_files.read_config(str(epath.Path(path) / 'diffusers'))
  if not about and source.model.train != 'all':
    about = diffusers_files.read_kept(path)
  return about and {k: v for k, v in about.items() if k != '_class_name'}


def _restore(source, path):
  """Returns ({network: variables}, averaged params, step)."""
  root = epath.Path(path)
  if (root / WEIGHTS_FILE).exists():
    _, variables, step = read_export(root, source)
    variables.pop('layer_sizes', None)
    return variables, variables['autoencoder']['params'], step
  restored = restore_networks(source, path)
  return restored.variables, restored.ema_params, restored.step


def _from_diffusers(config, autoencoder, found) -> InitialWeights:
  """Reads a folder of diffusers, whose network may be widened."""
  path = config.init_from
  source = config.copy_and_resolve_references()
  source.update_from_flattened_dict(diffusers_files.read_fields(path, found))
  shapes = variable_shapes(source, create_modules(source))['autoencoder']
  variables = diffusers_files.read_variables(path, shapes)
  message = f"Starting from {path}, diffusers' {found['_class_name']}"
  if unread := diffusers.unread(found):
    listed = ', '.join(f'{name}={value!r}' for name, value in unread.items())
    message += f', ignoring {listed} of its config.json'
  if _changes(source, config):
    params, widened = _widen(config, source, autoencoder, variables['params'])
    variables['params'] = params
    message += f', widened with its weights kept: {widened}'
  params = variables['params']
  return InitialWeights(
    {'autoencoder': variables}, params, f'{message}.', found
  )


def _widen(config, source, autoencoder, params) -> tuple[dict, str]:
  """Returns params of the run's shapes, and which fields differ."""
  changes = _changes(source, config)
  for field, (was, now) in changes.items():
    if field not in widening.fields(config.model) or was > now:
      _refuse_autoencoder(config, source)
  widened = ', '.join(f'{f} from {w} to {n}' for f, (w, n) in changes.items())
  if config.model.train != 'all':
    raise UserError(
      f'{widened} widens the encoder, which model.train='
      f'{config.model.train!r} keeps: set --config.model.train=all'
    )
  fresh = _init(config, autoencoder)
  return widening.widen(params, fresh['params']), widened


def _init(config, module) -> Variables:
  x = jnp.zeros((1, *example_shape(config.data)))
  return jax.jit(module.init)(jax.random.key(config.seed), x)


def _resize_head(config, critic, variables) -> Variables:
  """Replaces a dense head of another shape, and returns the variables."""
  shapes = variable_shapes(config, {'critic': critic})['critic']['params']
  params = variables['params']
  heads = [
    name
    for name, layer in params.items()
    if jax.tree.map(jnp.shape, layer) != jax.tree.map(jnp.shape, shapes[name])
  ]
  if not heads:
    return variables
  fresh = _init(config, critic)['params']
  return {**variables, 'params': params | {name: fresh[name] for name in heads}}


def _changes(source, config) -> dict[str, tuple[Any, Any]]:
  """Returns {field of the weights' shapes: what it was, is now}, if changed."""
  was, now = (
    flatten({'model': c.model, 'data': {k: c.data[k] for k in _SHAPE_FIELDS}})
    for c in (source, config)
  )
  return {
    field: (was[field], now[field])
    for field in now
    if was[field] != now[field] and field not in _FREE
  }


def _describe(changes) -> str:
  return ' and '.join(
    f'{name} is {was!r} there and {now!r} here'
    for name, (was, now) in changes.items()
  )


def _with_free_fields(source, config):
  """Copies the fields that do not affect the weights."""
  source, fields = source.copy_and_resolve_references(), flatten(config)
  source.update_from_flattened_dict({name: fields[name] for name in _FREE})
  return source


def _refuse_autoencoder(config, source) -> None:
  """Raises UserError with the first field that differs."""
  field, values = next(iter(_changes(source, config).items()))
  raise UserError(
    f'{_describe({field: values})}, but weights are of one network: set the '
    'same value, or leave --config.init_from out'
  )


def _compare_critics(module, others, source) -> str:
  """Describes how another run's critic differs; '' if it does not."""
  other = others.get('critic')
  if other is None:
    return f'objective is {source.objective!r} there, which has none'
  if type(other) is not type(module):
    return f'critic.network is {source.critic.network!r} there'
  names = [field.name for field in dataclasses.fields(module)]
  changes = {
    f'critic.{name}': (was, now)
    for name in names
    if (was := getattr(other, name)) != (now := getattr(module, name))
  }
  return _describe(changes)
