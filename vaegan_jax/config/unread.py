"""Flags that a run does not read, because another field turns theirs off.

A value from a configuration file may wait for that other field. A flag is meant
to change the run. Contradictions are errors; see `validation.py`.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from operator import attrgetter
from typing import NamedTuple

import ml_collections

from vaegan_jax.config import schema
from vaegan_jax.config.network_checks import compares_layers
from vaegan_jax.config.rules import either, flatten
from vaegan_jax.names import NETWORKS

_LAYERS = ('loss.layers', 'loss.layer_weights')
_ADVERSARIAL = ('loss.adversarial_ramp_steps', 'loss.adversarial_to_encoder')
_TRAINED = (  # By a critic that is trained.
  *(f.name for f in schema.FIELDS if f.name.startswith('critic.')),
  *(*_ADVERSARIAL, 'loss.adversarial_weight', 'loss.adaptive_weight'),
  *('optimizer.critic_learning_rate', 'update_order'),
)
_IMAGE = ('loss.image_halvings', 'loss.image_growth', 'loss.image_high_pass')
_DISTANCE = ('loss.norm', 'loss.normalize', 'loss.min_size', *_IMAGE)
_LATENT = ('loss.kl_weight', 'loss.commitment_weight', 'loss.entropy_weight')
_PRETRAINED = ('critic.network', 'critic.weights', 'loss.adversarial_weight')


class _Need(NamedTuple):
  """A condition on which a run reads some fields."""

  field: str  # The field that decides.
  rule: str  # The words after the field's name in a message.
  holds: Callable[[ml_collections.ConfigDict], bool]
  dependents: Collection[str]  # The fields that are read only then.


def _view(view: str, *dependents: str) -> _Need:
  rule = f'has {view!r}'
  return _Need(
    'critic.views', rule, lambda c: view in c.critic.views, dependents
  )


def _is_not(field: str, off: float | str, *dependents: str) -> _Need:
  rule, get = f'is not {off!r}' if off else 'is above 0', attrgetter(field)
  return _Need(field, rule, lambda c: get(c) != off, dependents)


def _is(field: str, values: Collection[str], *dependents: str) -> _Need:
  rule, get = f'is {either(values)}', attrgetter(field)
  return _Need(field, rule, lambda c: get(c) in values, dependents)


# In the order in which a field's needs are checked.
_NEEDS = (
  _is_not('objective', 'mse', *_TRAINED, *_LAYERS),
  _Need(
    'objective',
    "is not 'mse' or loss.spectrum_weight is above 0",
    compares_layers,
    ('loss.image_weight', *_DISTANCE),
  ),
  # A pretrained critic reads the other three, or they are errors for it.
  _is(
    'critic.network', NETWORKS, *(n for n in _TRAINED if n not in _PRETRAINED)
  ),
  _is_not(
    'model.train',
    'none',
    *_ADVERSARIAL,
    *_LATENT,
    'critic.warmup_steps',
    'loss.adversarial_weight',
    'loss.adaptive_weight',
    'loss.pixel_weight',
    'loss.equivariance_weight',
  ),
  _is('model.train', ('all',), 'loss.adversarial_to_encoder'),
  _view('wave', 'critic.num_scales'),
  _view('stft', 'critic.stft_windows', 'critic.stft_bands'),
  _view('period', 'critic.periods'),
  _is_not('critic.r1_weight', 0.0, 'critic.r1_every_steps'),
  _is_not('critic.lecam_weight', 0.0, 'critic.lecam_decay'),
  _is_not('loss.adversarial_weight', 0.0, *_ADVERSARIAL),
  # Without that weight, evaluations still compute the distance.
  _is_not('loss.distance_weight', 0.0, 'loss.min_size'),
  _is_not('loss.normalize', 'none', 'loss.min_size'),
  _Need(
    'loss.normalize',
    "is not 'unit' or loss.image_weight or loss.spectrum_weight is above 0",
    lambda c: (
      c.loss.normalize != 'unit' or c.loss.image_weight + c.loss.spectrum_weight
    ),
    ('loss.min_size',),
  ),
  _is_not('model.spectral_mask', 0, 'model.spectral_noise'),
  _is_not('loss.image_weight', 0.0, *_IMAGE),
  _is_not('loss.image_halvings', 0, 'loss.image_growth'),
  _is('model.latent', ('gaussian',), 'loss.kl_weight'),
  _is('model.latent', ('vq', 'lfq'), 'loss.commitment_weight'),
  _is('model.latent', ('lfq',), 'loss.entropy_weight'),
)


def unread(
  configs: Sequence[ml_collections.ConfigDict], given: Collection[str]
) -> Iterator[str]:
  """Yields sentences with the reasons why no run reads given fields."""
  for config in configs:
    given = {name for _, names in _unmet(config, given) for name in names}
  for config in configs:
    for need, names in _unmet(config, given):
      flags = ', '.join(f'--config.{name}' for name in names)
      has, are = ('has', 'it is') if len(names) == 1 else ('have', 'they are')
      yield (
        f'{flags} {has} no effect: {are} only read where {need.field} '
        f'{need.rule}, and {need.field}={flatten(config)[need.field]!r}.'
      )


def _unmet(
  config: ml_collections.ConfigDict, given: Collection[str]
) -> Iterator[tuple[_Need, list[str]]]:
  """Yields each need that is not met, with the fields that it turns off."""
  given = set(given)
  for need in _NEEDS:
    names = given.intersection(need.dependents)
    if names and not need.holds(config):
      given -= names
      yield need, sorted(names)
