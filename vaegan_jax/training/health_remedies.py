"""Suggestions of health checks: other values of the run's fields.

A suggestion is a function of the fields {field: value} that returns changes of
which any one may help. A suggested value differs from the run's in the stated
direction, and is valid.
"""

import functools
from collections.abc import Mapping
from typing import Any

Fields = Mapping[str, Any]  # {field: value} of a run's configuration.
Suggestion = tuple[str, str, float | bool]  # (verb, field, another value).


def trains_critic(fields: Fields) -> bool:
  """Returns whether a run trains its critic; only a frozen one has a file."""
  return fields['objective'] != 'mse' and not fields['critic.weights']


def bounds_critic(fields: Fields) -> bool:
  """Returns whether anything bounds the critic's weights or gradient."""
  names = 'spectral_norm', 'weight_clip', 'gradient_penalty_weight', 'r1_weight'
  return any(fields[f'critic.{name}'] for name in names)


def _may_change(field: str, fields: Fields) -> bool:
  of_critic = field.startswith(('critic.', 'loss.adv', 'optimizer.critic'))
  return trains_critic(fields) or not of_critic


def _lower(field: str, divisor: float, fields: Fields) -> list[Suggestion]:
  now, value = fields[field], _one_digit(fields[field] / divisor)
  # A value of 0, or next to 0, cannot be lowered.
  possible = 0 < value < now and _may_change(field, fields)
  return [('lower', field, value)] if possible else []


def _raise(field, factor, first, limit, fields: Fields) -> list[Suggestion]:
  now = fields[field]
  value = first if now < first else min(_one_digit(now * factor), limit)
  possible = now < limit and _may_change(field, fields)
  return [('raise', field, value)] if possible else []


slow_critic = functools.partial(_lower, 'optimizer.critic_learning_rate', 5)
lower_adversarial = functools.partial(_lower, 'loss.adversarial_weight', 5)


def slow_autoencoder(fields: Fields) -> list[Suggestion]:
  """Suggests lower learning rates of the autoencoder's optimizers."""
  return [
    suggestion
    for name in ('autoencoder', 'muon')
    for suggestion in _lower(f'optimizer.{name}_learning_rate', 5, fields)
  ]


def lower_kl(fields: Fields) -> list[Suggestion]:
  """Suggests a lower KL weight, unless it is steered: then it has fallen."""
  return [] if fields['loss.rate'] else _lower('loss.kl_weight', 10, fields)


def raise_adversarial(fields: Fields) -> list[Suggestion]:
  """Suggests a higher weight of the adversarial loss."""
  field = 'loss.adversarial_weight'
  # A ramp is not checked against the run's length while the weight is 0.
  if fields['loss.adversarial_ramp_steps'] and not fields[field]:
    return []
  # Above 1 it outweighs the distance, which is about 1.
  return _raise(field, 2, 0.1, 1.0, fields)


def raise_min_size(fields: Fields) -> list[Suggestion]:
  """Suggests a larger least size of the distance's layers in a batch."""
  if fields['objective'] == 'mse' or fields['loss.normalize'] == 'none':
    return []  # Nothing is divided by a batch's size.
  return _raise('loss.min_size', 3, 0.1, 1.0, fields)


def bound_critic(fields: Fields) -> list[Suggestion]:
  """Suggests what bounds a critic's slope.

  It suggests no norm: norms divide away the contrast that a critic measures.
  """
  suggestions, clip = [], fields['critic.weight_clip']
  # These bound its slope already, and a batch's moments exclude R1. Its limit
  # is above what examples of many values need; see `configs/bands.py`.
  bounded = clip or fields['critic.gradient_penalty_weight']
  if not bounded and fields['critic.norm'] != 'batch':
    suggestions += _raise('critic.r1_weight', 5, 1.0, 100.0, fields)
  # Spectral normalization would rescale clipped weights.
  if not clip and not fields['critic.spectral_norm']:
    suggestions.append(('turn on', 'critic.spectral_norm', True))
  return suggestions


def even_codes(fields: Fields) -> list[Suggestion]:
  """Suggests a smaller codebook, or a higher weight of the codes' entropy."""
  size = fields['model.codebook_size']
  if fields['model.latent'] == 'vq' and size >= 8:
    return [('lower', 'model.codebook_size', size // 4)]
  if fields['model.latent'] == 'lfq':
    return _raise('loss.entropy_weight', 3, 0.1, 10.0, fields)
  return []


def as_flag(field: str, value: float | bool) -> str:
  """Returns the flag that gives a field a suggested value."""
  return f'--config.{field}={_format(value)}'


def _one_digit(value: float) -> float:
  return float(f'{value:.0e}')


def _format(value: float | bool) -> str:
  """Returns 'True', '0.5', '20' or '1e-4', of one digit."""
  text = str(value) if isinstance(value, int) else f'{value:g}'
  if isinstance(value, int) or len(text) <= 4:
    return text
  digit, exponent = f'{value:.0e}'.split('e')
  return f'{digit}e{int(exponent)}'
