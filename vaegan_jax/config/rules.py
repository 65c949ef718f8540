"""What one field of a configuration may hold, and how to say so.

`RULES` has an entry for every field of `configs/default.py`, `STYLE_RULES` for
every field of `configs/style.py`; `validation.py` looks at them together.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import ml_collections

from vaegan_jax.config.path_names import is_local_path, is_path, is_two_files
from vaegan_jax.config.shapes import MAX_AXES, as_pair
from vaegan_jax.errors import UserError

OBJECTIVES = (
  *('geometric', 'wasserstein', 'wasserstein_gp'),
  *('vanilla', 'non_saturating', 'least_squares', 'mse'),
)
NORMS = ('none', 'group', 'instance', 'batch')
# Convolutions in each of the five stages of the frozen critics. The module has
# them too, but this wing knows no networks.
VGG_CONVOLUTIONS = {'vgg16': (2, 2, 3, 3, 3), 'vgg19': (2, 2, 4, 4, 4)}
FROZEN = (*VGG_CONVOLUTIONS, 'lpips')  # The last looks through VGG16.

_INT32_MAX = 2**31 - 1  # JAX counts in 32 bits.
_FLOAT32_MAX = 3.4e38  # And it computes in 32: beyond is infinity.
# Beyond them there is no memory, and the sizes of arrays leave their 64 bits.
_MAX_BATCH_SIZE = _MAX_LATENT_DIM = 2**16
_MAX_IMAGE_SIZE = _MAX_WIDTH = 2**13
_MAX_MULTIPLIER = 2**10
_MAX_SIDE = 2**20
_KINDS = {
  bool: 'true or false',
  int: 'a whole number',
  float: 'a finite number of 32 bits',
  str: 'text',
  tuple: 'a tuple',
}


def either(choices: Iterable[str]) -> str:
  """Returns the choices, quoted and joined: "'a', 'b' or 'c'"."""
  *most, last = map(repr, choices)
  return f'{", ".join(most)} or {last}' if most else last


class Rule(NamedTuple):
  """What must hold for one field, and how to say so."""

  text: str
  holds: Callable[[Any], bool]
  also: tuple[type, ...] = ()  # Types that it takes beside its example's.


def _between(low: int, high: int) -> Rule:
  return Rule(f'from {low} to {high}', lambda value: low <= value <= high)


def _each_once(low: int, high: int) -> Rule:
  return Rule(
    f'whole numbers from {low} to {high}, each once',
    lambda value: (
      _all_within(value, low, high) and len(set(value)) == len(value)
    ),
  )


def _all_within(values: Iterable[Any], low: int, high: int) -> bool:
  return all(_has_type(n, int) and low <= n <= high for n in values)


def _one_of(*choices: str) -> Rule:
  return Rule(either(choices), lambda value: value in choices)


def _is_weight(value: Any) -> bool:
  return _has_type(value, float) and value >= 0


def _is_pair(value: Any) -> bool:
  numbers = isinstance(value, tuple) and all(_has_type(v, float) for v in value)
  return numbers and len(value) == 2 and value[0] < value[1]


_ANY = Rule('', lambda value: True)
PATH = Rule('a local path or gs://..., of names up to 255 bytes', is_path)
_LOCAL_PATH = Rule('a local path of names up to 255 bytes', is_local_path)
_TWO_FILES = Rule(
  "two local files with a comma between them, VGG16's and LPIPS's heads",
  lambda text: not text or is_two_files(text),
)
_NOT_EMPTY = Rule('a name', lambda value: bool(value.strip()))
_COUNT = _between(1, _INT32_MAX)
_COUNT_OR_ZERO = _between(0, _INT32_MAX)
_DEPTH = _between(1, 12)
_POSITIVE = Rule('above 0', lambda value: value > 0)
_WEIGHT = Rule('at least 0', _is_weight)
_DECAY = Rule('at least 0 and below 1', lambda value: 0 <= value < 1)
_MULTIPLIERS = Rule(
  f'whole numbers from 1 to {_MAX_MULTIPLIER}',
  lambda value: value and _all_within(value, 1, _MAX_MULTIPLIER),
)
_IMAGE_SIZE = Rule(
  f'from 1 to {_MAX_IMAGE_SIZE}, or two of that, "(height, width)"',
  lambda value: (
    _all_within(as_pair(value), 1, _MAX_IMAGE_SIZE) and len(as_pair(value)) == 2
  ),
  also=(tuple,),
)
_SHAPE = Rule(
  f'one to three sides from 1 to {_MAX_SIDE}, such as "(8192,)"',
  lambda value: _all_within(value, 1, _MAX_SIDE) and len(value) <= MAX_AXES,
)
_VALUE_RANGE = Rule(
  "'dtype', 'percentiles' or two numbers that rise, such as \"(0, 4095)\"",
  lambda value: value in ('dtype', 'percentiles') or _is_pair(value),
  also=(tuple,),
)
_LEVELS = Rule(
  'one to 16 whole numbers from 3 to 1024',
  lambda value: 1 <= len(value) <= 16 and _all_within(value, 3, 1024),
)
_ATTENTION_SIDES = _each_once(1, _MAX_IMAGE_SIZE)
_FLIP_AXES = _each_once(0, MAX_AXES - 1)
_STEPS = Rule(
  'two steps, the first not after the last, such as 10,15',
  lambda value: (
    not value
    or (
      len(value) == 2
      and all(_has_type(n, int) for n in value)
      and 1 <= value[0] <= value[1] <= _INT32_MAX
    )
  ),
)
_NAMES = Rule(
  'names, each once',
  lambda value: (
    all(isinstance(name, str) for name in value)
    and len(set(value)) == len(value)
  ),
)
_WEIGHTS = Rule(
  'numbers of at least 0, one of them above 0',
  lambda value: not value or (all(map(_is_weight, value)) and any(value)),
)

RULES = {
  'seed': _between(0, 2**32 - 1),
  'init_from': PATH,
  'objective': _one_of(*OBJECTIVES),
  'batch_size': _between(1, _MAX_BATCH_SIZE),
  'num_train_steps': _COUNT,
  'log_every_steps': _COUNT,
  'checkpoint_every_steps': _COUNT,
  'eval_every_steps': _COUNT,
  'figure_every_steps': _COUNT,
  'num_eval_images': _COUNT_OR_ZERO,
  'num_checkpoints': _COUNT,
  'max_skipped_steps': _COUNT,
  'profile_steps': _STEPS,
  'data.name': _NOT_EMPTY,
  'data.folder_rules': _between(1, 2),
  'data.allow_growth': _ANY,
  'data.path': PATH,
  'data.data_dir': PATH,
  'data.copy_dir': _LOCAL_PATH,
  'data.image_size': _IMAGE_SIZE,
  'data.shape': _SHAPE,
  'data.sample_rate': _COUNT,
  'data.feature': _ANY,
  'data.channels': _between(1, 2**10),
  'data.value_range': _VALUE_RANGE,
  'data.shown_bands': _each_once(0, 2**10 - 1),
  'data.random_crop_margin': _between(0, 2**12),
  'data.center_crop': _COUNT_OR_ZERO,
  'data.train_split': _NOT_EMPTY,
  'data.eval_split': _NOT_EMPTY,
  'data.random_flip': _ANY,
  'data.flip_axes': _FLIP_AXES,
  'data.cache_images': _ANY,
  'model.network': _one_of('plain', 'residual'),
  'model.layout': _one_of('own', 'ldm'),
  'model.width': _between(1, _MAX_WIDTH),
  'model.depth': _DEPTH,
  'model.channel_multipliers': _MULTIPLIERS,
  'model.num_res_blocks': _between(1, 16),
  'model.attention_sides': _ATTENTION_SIDES,
  'model.middle_attention': _ANY,
  'model.latent_dim': _between(1, _MAX_LATENT_DIM),
  'model.latent': _one_of('gaussian', 'vq', 'fsq', 'lfq', 'none'),
  'model.latent_shape': _one_of('flat', 'map'),
  'model.code_dim': _between(1, 2**10),
  'model.codebook_size': _between(2, 2**24),
  'model.unit_codes': _ANY,
  'model.fsq_levels': _LEVELS,
  'model.norm': _one_of(*NORMS),
  'model.dtype': _one_of('float32', 'bfloat16'),
  'model.remat': _ANY,
  'critic.network': _one_of('plain', 'residual', *FROZEN),
  'critic.weights': _LOCAL_PATH,
  'critic.width': _between(1, _MAX_WIDTH),
  'critic.depth': _DEPTH,
  'critic.channel_multipliers': _MULTIPLIERS,
  'critic.norm': _one_of(*NORMS),
  'critic.spectral_norm': _ANY,
  'critic.dtype': _one_of('float32', 'bfloat16'),
  'critic.head': _one_of('dense', 'patch'),
  'critic.num_scales': _between(1, 4),
  'critic.num_steps': _between(1, 100),
  'critic.long_round_steps': _COUNT_OR_ZERO,
  'critic.weight_clip': _WEIGHT,
  'critic.gradient_penalty_weight': _WEIGHT,
  'critic.r1_weight': _WEIGHT,
  'critic.r1_every_steps': _COUNT,
  'critic.lecam_weight': _WEIGHT,
  'critic.lecam_decay': _DECAY,
  'critic.prior_fakes': _ANY,
  'loss.layers': _NAMES,
  'loss.layer_weights': _WEIGHTS,
  'loss.normalize': _one_of('none', 'unit', 'relative', 'batch', 'local'),
  'loss.reduction': _one_of('sum', 'mean', 'spatial'),
  'loss.distance_weight': _WEIGHT,
  'loss.image_weight': _WEIGHT,
  'loss.image_halvings': _between(0, 12),
  'loss.variance': _one_of('half', 'optimal'),
  'loss.pixel_weight': _WEIGHT,
  'loss.adversarial_weight': _WEIGHT,
  'loss.adversarial_ramp_steps': _COUNT_OR_ZERO,
  'loss.adversarial_to_encoder': _ANY,
  'loss.adaptive_weight': _ANY,
  'loss.kl_weight': _WEIGHT,
  'loss.commitment_weight': _WEIGHT,
  'loss.entropy_weight': _WEIGHT,
  'optimizer.autoencoder_learning_rate': _POSITIVE,
  'optimizer.critic_learning_rate': _POSITIVE,
  'optimizer.b1': _DECAY,
  'optimizer.b2': _DECAY,
  'optimizer.name': _one_of('adam', 'rmsprop'),
  'optimizer.warmup_steps': _COUNT_OR_ZERO,
  'optimizer.schedule': _one_of('constant', 'cosine'),
  'optimizer.max_grad_norm': _WEIGHT,
  'health.on_failure': _one_of('warn', 'stop', 'rollback'),
  'health.patience_steps': _COUNT,
  'health.min_kl': _WEIGHT,
  'health.min_usage': _between(0, 1),
  'evaluation.lpips_weights': _TWO_FILES,
  'evaluation.features_weights': _LOCAL_PATH,
  'update_order': _one_of('alternating', 'simultaneous'),
  'ema_decay': _DECAY,
}


STYLE_RULES = {
  'content': PATH,
  'style': PATH,
  'critic': PATH,
  'network': _one_of(*VGG_CONVOLUTIONS),
  'weights': _LOCAL_PATH,
  'image_size': _between(1, _MAX_IMAGE_SIZE),
  'num_steps': _COUNT,
  'learning_rate': _POSITIVE,
  'content_weight': _WEIGHT,
  'style_weight': _WEIGHT,
  'content_layers': _NAMES,
  'style_layers': _NAMES,
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
    f'--config.{name}={as_argument(like)}'
  )


def check_fields(
  config: ml_collections.ConfigDict,
  defaults: ml_collections.ConfigDict,
  rules: Mapping[str, Rule],
) -> None:
  """Checks each field by itself.

  Args:
    config: what to check.
    defaults: a valid value of each type.
    rules: {field: rule}.

  Raises:
    UserError: a value has the wrong type, or breaks its rule.
  """
  examples = flatten(defaults)
  for name, rule in rules.items():
    _check_field(name, _get(config, name), rule, examples[name])


def _get(config: ml_collections.ConfigDict, name: str) -> Any:
  for key in name.split('.'):
    config = config[key]
  return config


def _has_type(value: Any, kind: type) -> bool:
  """True for a value of that kind: no bool is a number, no NaN is finite."""
  if kind is float:
    return type(value) in (int, float) and abs(value) <= _FLOAT32_MAX
  return type(value) is kind


def _check_field(name: str, value: Any, rule: Rule, like: Any) -> None:
  kind = type(like)
  if not _has_type(value, kind) and not isinstance(value, rule.also):
    raise UserError(f'{name}={value!r} {must_be(name, like)}')
  if not rule.holds(value):
    example = f'for example, --config.{name}={as_argument(like)}'
    guess = nearest(value, rule.text.split("'")) if kind is str else ''
    hint = f'did you mean {guess!r}?' if guess else example
    raise UserError(f'{name}={value!r} must be {rule.text}: {hint}')


def as_argument(value: Any) -> str:
  """Returns a value as it is typed, quoted for the shell where needed."""
  text = str(value)
  return f'"{text}"' if isinstance(value, tuple) else text.lower()
