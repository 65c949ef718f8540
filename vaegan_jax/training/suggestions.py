"""What to change in a run that is ill: which field, and to what.

Derived from the run's own configuration, so that what is advised differs from
what is set, in the direction that is said, and passes `validation.py`. Plain
Python on plain values, no JAX.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

# Of the configuration: what `Advisor` looks up, by name.
FIELDS = (
  'objective',
  'critic.weights',
  'critic.norm',
  'critic.spectral_norm',
  'critic.weight_clip',
  'critic.gradient_penalty_weight',
  'critic.r1_weight',
  'loss.adversarial_weight',
  'loss.adversarial_ramp_steps',
  'loss.kl_weight',
  'loss.entropy_weight',
  'model.latent',
  'model.codebook_size',
  'optimizer.autoencoder_learning_rate',
  'optimizer.critic_learning_rate',
)
# From here on the verdict outweighs the distance, which is about 1.
_HIGH_ADVERSARIAL_WEIGHT = 1.0
_FIRST_ADVERSARIAL_WEIGHT = 0.1  # Where it is off, or next to nothing.
_FIRST_ENTROPY_WEIGHT, _HIGH_ENTROPY_WEIGHT = 0.1, 10.0
_HIGH_R1_WEIGHT = 10.0  # As in arXiv 1801.04406.
_FIRST_R1_WEIGHT = 1.0


class Change(NamedTuple):
  """Another value for a field, and the word for how it differs."""

  verb: str
  field: str
  value: float | bool

  @property
  def flag(self) -> str:
    """As it is typed."""
    return f'--config.{self.field}={_as_typed(self.value)}'


class Advisor:
  """Knows the few fields of a run that advice is about.

  Each method returns changes of which any one may help; none where there is
  nothing left to change.

  Attributes:
    trains_critic: whether the run has a critic that learns.
  """

  def __init__(self, fields: Mapping[str, Any]):
    """Takes {field: value}, at least of `FIELDS`."""
    self._fields = fields
    # Only a critic that is frozen is read from a file.
    self.trains_critic = (
      fields['objective'] != 'mse' and not fields['critic.weights']
    )

  @property
  def holds_critic(self) -> bool:
    """Whether anything holds the critic's weights or its slope."""
    return any(
      self._fields[f'critic.{name}']
      for name in (
        *('spectral_norm', 'weight_clip'),
        *('gradient_penalty_weight', 'r1_weight'),
      )
    )

  def slow_autoencoder(self) -> tuple[Change, ...]:
    """A lower learning rate."""
    return self._divide('optimizer.autoencoder_learning_rate', 5)

  def slow_critic(self) -> tuple[Change, ...]:
    """A lower learning rate, of a critic that has one."""
    if not self.trains_critic:
      return ()
    return self._divide('optimizer.critic_learning_rate', 5)

  def hold_critic(self) -> tuple[Change, ...]:
    """What keeps its weights small, without a word of `critic.norm`.

    A critic that normalises divides the contrast away and cannot judge it.
    """
    if not self.trains_critic:
      return ()
    changes = ()
    weight = self._fields['critic.r1_weight']
    # They bound its slope in R1's place; a batch's moments rule R1 out.
    bounded = any(
      self._fields[f'critic.{name}']
      for name in ('weight_clip', 'gradient_penalty_weight')
    )
    mixed = self._fields['critic.norm'] == 'batch'
    if weight < _HIGH_R1_WEIGHT and not bounded and not mixed:
      changes += (
        _raise(
          'critic.r1_weight', weight, 5, _FIRST_R1_WEIGHT, _HIGH_R1_WEIGHT
        ),
      )
    field = 'critic.spectral_norm'  # It would rescale what was clipped.
    if not self._fields[field] and not self._fields['critic.weight_clip']:
      changes += (Change('turn on', field, True),)
    return changes

  def heed_critic(self) -> tuple[Change, ...]:
    """More weight for its verdict, where it does not outweigh all else."""
    field = 'loss.adversarial_weight'
    weight = self._fields[field]
    if not self.trains_critic or weight >= _HIGH_ADVERSARIAL_WEIGHT:
      return ()
    # While it is off, nobody asks whether the ramp ends within the run.
    if not weight and self._fields['loss.adversarial_ramp_steps']:
      return ()
    limits = _FIRST_ADVERSARIAL_WEIGHT, _HIGH_ADVERSARIAL_WEIGHT
    return (_raise(field, weight, 2, *limits),)

  def heed_critic_less(self) -> tuple[Change, ...]:
    """Less weight for its verdict, if it has any."""
    if not self.trains_critic:
      return ()
    return self._divide('loss.adversarial_weight', 5)

  def free_latent(self) -> tuple[Change, ...]:
    """A lower price of the latent, if it has one."""
    return self._divide('loss.kl_weight', 10)

  def open_codebook(self) -> tuple[Change, ...]:
    """Fewer codes, or a higher price of uneven ones; a slower encoder."""
    changes = self.slow_autoencoder()
    kind = self._fields['model.latent']
    size = self._fields['model.codebook_size']
    if kind == 'vq' and size >= 8:
      changes = (Change('lower', 'model.codebook_size', size // 4), *changes)
    field = 'loss.entropy_weight'
    weight = self._fields[field]
    if kind == 'lfq' and weight < _HIGH_ENTROPY_WEIGHT:
      limits = _FIRST_ENTROPY_WEIGHT, _HIGH_ENTROPY_WEIGHT
      changes = (_raise(field, weight, 3, *limits), *changes)
    return changes

  def _divide(self, field: str, divisor: float) -> tuple[Change, ...]:
    now = self._fields[field]
    value = _round(now / divisor)
    # Of 0, and of what is next to 0, nothing is left.
    return (Change('lower', field, value),) if 0 < value < now else ()


def to_sentence(changes: Sequence[Change], together: bool) -> str:
  """Says what to do.

  Args:
    changes: what may help, one at least.
    together: whether all are needed, where else any one will do.
  """
  what = join(
    (f'{change.verb} {change.field}' for change in changes),
    'and' if together else 'or',
  )
  flags = (' ' if together else ' or ').join(c.flag for c in changes)
  return f'{what}, in a new --workdir: for example, {flags}'


def join(words: Iterable[str], conjunction: str) -> str:
  """Returns 'a', 'a and b' or 'a, b and c'."""
  *most, last = words
  return f'{", ".join(most)} {conjunction} {last}' if most else last


def _raise(
  field: str, now: float, factor: float, first: float, limit: float
) -> Change:
  """Some times what it is, which is below the limit, but `first` at least."""
  value = first if now < first else min(_round(now * factor), limit)
  return Change('raise', field, value)


def _round(value: float) -> float:
  """To one digit, a third off at most."""
  return float(f'{value:.0e}')


def _as_typed(value: float | bool) -> str:
  """Returns 'True', '0.5', '20' or '1e-4', of one digit."""
  if isinstance(value, int):  # A bool is one.
    return str(value)
  text = f'{value:g}'
  if len(text) <= 4:
    return text
  digit, exponent = f'{value:.0e}'.split('e')
  return f'{digit}e{int(exponent)}'
