"""Which values a configuration may hold, and what to say when it does not.

`validate` looks at values only: ConfigDict's lock already guards the names.
"""

import difflib
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import ml_collections

from configs import default
from vaegan_jax.errors import UserError

OBJECTIVES = ('geometric', 'mse')
NORMS = ('none', 'group', 'batch')

_INT32_MAX = 2**31 - 1  # JAX counts in 32 bits.
_KINDS = {
  bool: 'true or false',
  int: 'a whole number',
  float: 'a finite number',
  str: 'text',
  tuple: 'a tuple',
}


def either(choices: Iterable[str]) -> str:
  """Returns the choices, quoted and joined: "'a', 'b' or 'c'"."""
  *most, last = map(repr, choices)
  return f'{", ".join(most)} or {last}' if most else last


class _Rule(NamedTuple):
  """What must hold for one field, and how to say so."""

  text: str
  holds: Callable[[Any], bool]


def _between(low: int, high: int) -> _Rule:
  return _Rule(f'from {low} to {high}', lambda value: low <= value <= high)


def _one_of(*choices: str) -> _Rule:
  return _Rule(either(choices), lambda value: value in choices)


def _is_weight(value: Any) -> bool:
  return _has_type(value, float) and value >= 0


_ANY = _Rule('', lambda value: True)
_NOT_EMPTY = _Rule('a name', lambda value: bool(value.strip()))
_COUNT = _between(1, _INT32_MAX)
_COUNT_OR_ZERO = _between(0, _INT32_MAX)
_DEPTH = _between(1, 12)
_POSITIVE = _Rule('above 0', lambda value: value > 0)
_WEIGHT = _Rule('at least 0', _is_weight)
_DECAY = _Rule('at least 0 and below 1', lambda value: 0 <= value < 1)
_MULTIPLIERS = _Rule(
  'whole numbers of at least 1',
  lambda value: value and all(_has_type(m, int) and m >= 1 for m in value),
)
_NAMES = _Rule(
  'names, each once',
  lambda value: (
    all(isinstance(name, str) for name in value)
    and len(set(value)) == len(value)
  ),
)
_WEIGHTS = _Rule(
  'numbers of at least 0, one of them above 0',
  lambda value: not value or (all(map(_is_weight, value)) and any(value)),
)

RULES = {
  'seed': _between(0, 2**32 - 1),
  'objective': _one_of(*OBJECTIVES),
  'batch_size': _COUNT,
  'num_train_steps': _COUNT,
  'log_every_steps': _COUNT,
  'checkpoint_every_steps': _COUNT,
  'eval_every_steps': _COUNT,
  'figure_every_steps': _COUNT,
  'num_eval_images': _COUNT_OR_ZERO,
  'num_checkpoints': _COUNT,
  'max_skipped_steps': _COUNT,
  'data.name': _NOT_EMPTY,
  'data.path': _ANY,
  'data.data_dir': _ANY,
  'data.image_size': _COUNT,
  'data.channels': _between(1, 4),
  'data.center_crop': _COUNT_OR_ZERO,
  'data.train_split': _NOT_EMPTY,
  'data.eval_split': _NOT_EMPTY,
  'data.random_flip': _ANY,
  'data.cache_images': _ANY,
  'model.width': _COUNT,
  'model.depth': _DEPTH,
  'model.channel_multipliers': _MULTIPLIERS,
  'model.latent_dim': _COUNT,
  'model.norm': _one_of(*NORMS),
  'critic.width': _COUNT,
  'critic.depth': _DEPTH,
  'critic.channel_multipliers': _MULTIPLIERS,
  'critic.norm': _one_of(*NORMS),
  'loss.layers': _NAMES,
  'loss.layer_weights': _WEIGHTS,
  'loss.normalize': _one_of('none', 'unit', 'relative'),
  'loss.reduction': _one_of('sum', 'mean'),
  'loss.pixel_weight': _WEIGHT,
  'loss.adversarial_weight': _WEIGHT,
  'loss.adversarial_ramp_steps': _COUNT_OR_ZERO,
  'loss.kl_weight': _WEIGHT,
  'optimizer.autoencoder_learning_rate': _POSITIVE,
  'optimizer.critic_learning_rate': _POSITIVE,
  'optimizer.b1': _DECAY,
  'optimizer.b2': _DECAY,
  'update_order': _one_of('alternating', 'simultaneous'),
  'ema_decay': _DECAY,
}


def nearest(name: str, choices: Iterable[str]) -> str:
  """Returns the choice most like a misspelt name, or '' where none is."""
  return next(iter(difflib.get_close_matches(name, list(choices), n=1)), '')


def flatten(tree: Any, prefix: str = '') -> dict[str, Any]:
  """Returns nested dicts or ConfigDicts as {'a.b': value}."""
  flat = {}
  for key, value in tree.items():
    if isinstance(value, (dict, ml_collections.ConfigDict)):
      flat |= flatten(value, f'{prefix}{key}.')
    else:
      flat[f'{prefix}{key}'] = value
  return flat


def must_be(name: str, like: Any) -> str:
  """Says what kind of value a field takes, with a valid one as example."""
  return (
    f'must be {_KINDS[type(like)]}: for example, '
    f'--config.{name}={_as_argument(like)}'
  )


def validate(
  config: ml_collections.ConfigDict, *, num_devices: int | None = None
) -> None:
  """Checks every value of a configuration.

  Args:
    config: a configuration with the fields of `configs/default.py`.
    num_devices: if given, the batch must divide evenly over this many.

  Raises:
    UserError: a value has the wrong type, is out of range, or contradicts
      another one.
  """
  defaults = flatten(default.get_config())
  for name, rule in RULES.items():
    _check_field(name, _get(config, name), rule, defaults[name])
  for network in ('model', 'critic'):
    _check_network(network, config[network], config.data.image_size)
  _check_layers(config)
  _check_data(config.data)
  if num_devices and config.batch_size % num_devices:
    raise UserError(
      f'{_not_divisible("batch_size", config.batch_size, num_devices)} '
      '(the number of devices)'
    )


def _get(config: ml_collections.ConfigDict, name: str) -> Any:
  for key in name.split('.'):
    config = config[key]
  return config


def _has_type(value: Any, kind: type) -> bool:
  """True for a value of that kind: no bool is a number, no NaN is finite."""
  if kind is float:
    return type(value) is int or (type(value) is float and math.isfinite(value))
  return type(value) is kind


def _check_field(name: str, value: Any, rule: _Rule, like: Any) -> None:
  kind = type(like)
  if not _has_type(value, kind):
    raise UserError(f'{name}={value!r} {must_be(name, like)}')
  if not rule.holds(value):
    example = f'for example, --config.{name}={_as_argument(like)}'
    guess = nearest(value, rule.text.split("'")) if kind is str else ''
    hint = f'did you mean {guess!r}?' if guess else example
    raise UserError(f'{name}={value!r} must be {rule.text}: {hint}')


def _as_argument(value: Any) -> str:
  """Returns a value as it is typed, quoted for the shell where needed."""
  text = str(value)
  return f'"{text}"' if isinstance(value, tuple) else text.lower()


def _not_divisible(name: str, value: int, divisor: int, why: str = '') -> str:
  """Says which multiples of the divisor are near."""
  below = value // divisor * divisor
  use = f'{below} or {below + divisor}' if below else f'{divisor}'
  return (
    f'{name}={value} must be divisible by {why}{divisor}; '
    f'{value} / {divisor} leaves {value % divisor}: use {use}'
  )


def _check_network(
  name: str, network: ml_collections.ConfigDict, image_size: int
) -> None:
  multipliers = network.channel_multipliers
  if len(multipliers) != network.depth:
    example = tuple(2 ** min(block, 3) for block in range(network.depth))
    raise UserError(
      f'{name}.channel_multipliers={multipliers} must have one entry for each '
      f'of the {name}.depth={network.depth} blocks: for example, '
      f'--config.{name}.channel_multipliers={_as_argument(example)}'
    )
  if image_size % 2**network.depth:
    why = f'2**{name}.depth=2**{network.depth}='
    raise UserError(
      _not_divisible('data.image_size', image_size, 2**network.depth, why)
    )


def _check_layers(config: ml_collections.ConfigDict) -> None:
  blocks = tuple(f'block_{index}' for index in range(config.critic.depth))
  for layer in config.loss.layers:
    if layer not in blocks:
      raise UserError(
        f'loss.layers={config.loss.layers} names {layer!r}, but the critic has '
        f'{", ".join(blocks)}: for example, '
        f'--config.loss.layers={_as_argument(blocks[-2:])}'
      )
  chosen = config.loss.layers or blocks
  weights = config.loss.layer_weights
  if weights and len(weights) != len(chosen):
    example = _as_argument((1.0,) * len(chosen))
    raise UserError(
      f'loss.layer_weights={weights} must have one weight for each of the '
      f'{len(chosen)} layers {", ".join(chosen)}: for example, '
      f'--config.loss.layer_weights={example}'
    )


def _check_data(data: ml_collections.ConfigDict) -> None:
  from_folder = data.name == 'image_folder'
  if from_folder and not data.path.strip():
    raise UserError(
      f'data.path={data.path!r} must name a folder when data.name='
      "'image_folder': for example, --config.data.path=/data/my_photos"
    )
  if data.path and not from_folder:
    raise UserError(
      f'data.path={data.path!r} is only read when data.name is '
      f"'image_folder', not {data.name!r}: set --config.data.name=image_folder"
    )
