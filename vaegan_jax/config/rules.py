"""Descriptions of one field of a configuration: its rule and its row.

`schema.py` has the rows.
"""

import dataclasses
import difflib
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import ml_collections

from vaegan_jax.config.paths import is_files, is_local_path, is_path
from vaegan_jax.config.shapes import MAX_AXES
from vaegan_jax.data.buckets import is_folder
from vaegan_jax.data.data_config import as_pair, in_bucket
from vaegan_jax.errors import UserError
from vaegan_jax.names import VIEWS as VIEW_NAMES

_INT32_MAX = 2**31 - 1  # JAX counts in 32 bits.
_FLOAT32_MAX = 3.4e38  # Larger values become infinity in float32.
_MAX_SIDE = 2**20
_KINDS = {
  bool: 'true or false',
  int: 'a whole number',
  float: 'a finite number of 32 bits',
  str: 'text',
  tuple: 'a tuple',
}


class Rule(NamedTuple):
  """Rule for the values of one field."""

  text: str  # The words after "must be" in an error.
  holds: Callable[[Any], bool]  # True for values that obey the rule.
  also: tuple[type, ...] = ()  # Types besides that of the default.


REQUIRED = object()  # Every version has written the field.
_DEFAULT = object()


@dataclasses.dataclass(frozen=True)
class Field:
  """One field of a configuration."""

  name: str  # Dotted, with its section.
  default: Any  # It gives the type.
  rule: Rule
  help: str
  # The value in runs of earlier versions, whose `config.json` lacks the field.
  # By default it is the default, so write that here before you change it.
  absent: Any = _DEFAULT
  # True if a resumed run may change it, because no update depends on it.
  resumable: bool = False

  @property
  def if_absent(self) -> Any:
    """The value in a `config.json` without the field, or REQUIRED."""
    return self.default if self.absent is _DEFAULT else self.absent


def between(low: int, high: int) -> Rule:
  """Returns the rule for numbers from `low` to `high`, both included."""
  return Rule(f'from {low} to {high}', lambda value: low <= value <= high)


def one_of(*choices: str) -> Rule:
  """Returns the rule that a value is one of these names."""
  return Rule(either(choices), lambda value: value in choices)


def whole_numbers(low: int, high: int, least: int = 0) -> Rule:
  """Returns the rule for `least` or more whole numbers in a range."""
  return Rule(
    f'whole numbers from {low} to {high}',
    lambda values: len(values) >= least and _all_within(values, low, high),
  )


def each_once(low: int, high: int, least: int = 0) -> Rule:
  """Returns the rule for distinct such numbers."""
  text, holds, _ = whole_numbers(low, high, least)
  return Rule(
    f'{text}, each once', lambda values: holds(values) and _is_distinct(values)
  )


def has_type(value: Any, kind: type) -> bool:
  """Returns whether a value has a type; no bool is a number, no NaN a float."""
  if kind is float:
    return type(value) in (int, float) and abs(value) <= _FLOAT32_MAX
  return type(value) is kind


def _all_within(values: Iterable[Any], low: int, high: int) -> bool:
  return all(has_type(n, int) and low <= n <= high for n in values)


def _is_distinct(values: tuple) -> bool:
  return len(set(values)) == len(values)


def _is_weight(value: Any) -> bool:
  return has_type(value, float) and value >= 0


def _is_range(value: Any) -> bool:
  numbers = isinstance(value, tuple) and all(has_type(v, float) for v in value)
  return numbers and len(value) == 2 and value[0] < value[1]


def _is_size(value: Any) -> bool:
  return len(as_pair(value)) == 2 and _all_within(as_pair(value), 1, 2**13)


def _is_interval(value: tuple) -> bool:
  return not value or (
    len(value) == 2
    and _all_within(value, 1, _INT32_MAX)
    and value[0] <= value[1]
  )


def _is_nodata(text: str) -> bool:
  try:
    return text in ('', 'none') or math.isfinite(float(text))
  except ValueError:
    return False


def _compiles(pattern: str) -> bool:
  try:
    re.compile(pattern)
  except (re.error, RecursionError, OverflowError):
    return False
  return True


ANY = Rule('', lambda value: True)
PATH = Rule('a local path or gs://..., of names up to 255 bytes', is_path)
DATA_PATH = Rule(
  'a local path or gs://bucket/folder, of names up to 255 bytes',
  lambda text: is_path(text) and (not in_bucket(text) or is_folder(text)),
)
LOCAL_PATH = Rule('a local path of names up to 255 bytes', is_local_path)
FILES = Rule(
  'two to five local files with commas between them, such as those of VGG16 '
  "and of LPIPS's heads",
  lambda text: not text or is_files(text, 2, 5),
)
NOT_EMPTY = Rule('a name', lambda value: bool(value.strip()))
COUNT = between(1, _INT32_MAX)
COUNT_OR_ZERO = between(0, _INT32_MAX)
POSITIVE = Rule('above 0', lambda value: value > 0)
WEIGHT = Rule('at least 0', _is_weight)
DECAY = Rule('at least 0 and below 1', lambda value: 0 <= value < 1)
MULTIPLIERS = whole_numbers(1, 1024, least=1)
STRIDES = whole_numbers(2, 64)
KERNEL_SIZE = Rule(
  'an odd number from 1 to 63', lambda value: 1 <= value <= 63 and value % 2
)
LEVELS = Rule(
  'one to 16 whole numbers from 3 to 1024',
  lambda value: 1 <= len(value) <= 16 and _all_within(value, 3, 1024),
)
IMAGE_SIZE = Rule(
  'from 1 to 8192, or two such numbers, "(height, width)"', _is_size, (tuple,)
)
SHAPE = Rule(
  f'one to three sizes from 1 to {_MAX_SIDE}, such as "(8192,)"',
  lambda value: _all_within(value, 1, _MAX_SIDE) and len(value) <= MAX_AXES,
)
VALUE_RANGE = Rule(
  "'dtype', 'percentiles' or two increasing numbers, such as \"(0, 4095)\"",
  lambda value: value in ('dtype', 'percentiles') or _is_range(value),
  (tuple,),
)
AXES = Rule(
  "one letter an axis, each once, out of 'T', 'Z', 'Y', 'X' (of space) and 'C' "
  "(channels), such as 'CYX'; files with an axis of examples are read by "
  '--config.data.name=array_file',
  lambda text: set(text) <= set('TZYXC') and len(set(text)) == len(text),
)
NODATA = Rule("'', 'none' or a number, such as -9999", _is_nodata)
GROUP_BY = Rule(
  "'', 'folder' or a regular expression, such as '^[^/]+'", _compiles
)
STEPS = Rule(
  'two steps, the first not after the last, such as 10,15', _is_interval
)
NAMES = Rule(
  'names, each once',
  lambda values: (
    all(isinstance(name, str) for name in values) and _is_distinct(values)
  ),
)
VIEWS = Rule(
  f'one or more of {", ".join(map(repr, VIEW_NAMES))}, each once',
  lambda values: (
    values and set(values) <= set(VIEW_NAMES) and _is_distinct(values)
  ),
)
STFT_WINDOWS = Rule(
  'powers of 2 from 16 to 8192, each once',
  lambda values: (
    values
    and _all_within(values, 16, 2**13)
    and _is_distinct(values)
    and all(n & (n - 1) == 0 for n in values)
  ),
)
BANDS = Rule(
  'increasing numbers between 0 and 1',
  lambda values: (
    all(has_type(n, float) for n in values)
    and all(a < b for a, b in itertools.pairwise((0, *values, 1)))
  ),
)
PERIODS = each_once(2, 64, least=1)
WEIGHTS = Rule(
  'numbers of at least 0, one of them above 0',
  lambda value: not value or (all(map(_is_weight, value)) and any(value)),
)


def either(choices: Iterable[str]) -> str:
  """Returns the choices, quoted and joined: "'a', 'b' or 'c'"."""
  *most, last = map(repr, choices)
  return f'{", ".join(most)} or {last}' if most else last


def nearest(name: str, choices: Iterable[str]) -> str:
  """Returns the choice most similar to a misspelt name, or ''."""
  return next(iter(difflib.get_close_matches(name, list(choices), n=1)), '')


def flatten(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """Returns nested dicts or ConfigDicts as {'a.b': value}."""
  flat = {}
  for key, value in tree.items():
    if isinstance(value, (dict, ml_collections.ConfigDict)):
      flat |= flatten(value, f'{prefix}{key}.')
    else:
      flat[f'{prefix}{key}'] = value
  return flat


def as_argument(value: Any) -> str:
  """Returns a value as it is typed, quoted for the shell where needed."""
  text = str(value)
  return f'"{text}"' if isinstance(value, tuple) else text.lower()


def must_be(name: str, like: Any) -> str:
  """Returns which type a field takes, with a valid value as example."""
  return (
    f'must be {_KINDS[type(like)]}: for example, '
    f'--config.{name}={as_argument(like)}'
  )


def not_divisible(name: str, value: int, divisor: int, why: str = '') -> str:
  """Returns the message for a value that a divisor must divide."""
  below = value // divisor * divisor
  use = f'{below} or {below + divisor}' if below else f'{divisor}'
  return (
    f'{name}={value} must be divisible by {why}{divisor}; '
    f'{value} / {divisor} leaves {value % divisor}: use {use}'
  )


def check_value(name: str, value: Any, rule: Rule, like: Any) -> None:
  """Raises a UserError if a value has the wrong type or breaks its rule."""
  kind = type(like)
  if not has_type(value, kind) and not isinstance(value, rule.also):
    raise UserError(f'{name}={value!r} {must_be(name, like)}')
  if not rule.holds(value):
    example = f'for example, --config.{name}={as_argument(like)}'
    guess = nearest(value, rule.text.split("'")) if kind is str else ''
    hint = f'did you mean {guess!r}?' if guess else example
    raise UserError(f'{name}={value!r} must be {rule.text}: {hint}')


# Fields that contradict others: the arguments of `conflict` after the first.
Conflicts = Iterator[tuple[str, ...]]


def conflict(
  config: ml_collections.ConfigDict, name: str, rule: str, *remedies: str
) -> UserError:
  """Returns the error for a field that conflicts with others.

  Args:
    config: the configuration.
    name: of the field, dotted.
    rule: that it breaks, as it follows "field=value".
    *remedies: 'field=value' flags that mend it.
  """
  value = config
  for key in name.split('.'):
    value = value[key]
  flags = ' '.join(f'--config.{remedy}' for remedy in remedies)
  return UserError(f'{name}={value!r} {rule}: for example, {flags}')
