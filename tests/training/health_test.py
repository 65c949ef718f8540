"""Health checks on sequences of metrics whose findings are known by hand."""

import functools
import math
import os
import re
import subprocess
import sys

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from configs import default
from vaegan_jax import names
from vaegan_jax.config import validation
from vaegan_jax.config.overrides import apply_overrides
from vaegan_jax.config.rules import flatten
from vaegan_jax.errors import UserError
from vaegan_jax.losses import adversarial
from vaegan_jax.training import health, health_checks

_PATIENCE = 500
_LOG_EVERY = 100
_HEALTHY = {
  'loss': 1.5,
  'largest_loss': 1.6,
  'distance': 1.4,
  'kl': 100.0,
  'critic_loss': 0.8,
  'critic_logits_real': 0.9,
  'critic_logits_fake': -0.8,
  'critic_grad_norm': 5.0,
  'autoencoder_grad_norm': 2.0,
  'skipped_in_a_row': 0.0,
  'feature_scale': 0.2,
  'output_std': 0.3,
  'input_std': 0.4,
  'usage': 0.9,
  'largest_share': 0.25,
}
# Unhealthy states: (kind, changes to the healthy metrics).
_ILL = (
  ('dead_critic', {'critic_loss': 0.004}),
  ('dead_critic', {'critic_loss': 2.01}),
  ('latent_collapse', {'kl': 0.02}),
  ('output_collapse', {'output_std': 0.01}),
  ('codebook_collapse', {'usage': 0.02}),
  ('exploding_features', {'feature_scale': 50.0}),
  ('non_finite', {'loss': math.nan, 'skipped_in_a_row': 7.0}),
)
_LASTING = _ILL[:5]
_URGENT = _ILL[5:]
_OBJECTIVES = ('mse', *sorted(adversarial.OBJECTIVES))
_FROZEN = {
  'critic__network': 'vgg16',
  'critic__weights': 'vgg16.pth',
  'loss__adversarial_weight': 0.0,
}


def _config(objective='geometric', **changes):
  """Returns a configuration; in its changes, `__` stands for the dot."""
  config = default.get_config(objective)
  config.loss.adversarial_weight = 0.5
  if config.optimizer.name == 'adam':
    config.optimizer.autoencoder_learning_rate = 5e-4
    config.optimizer.muon_learning_rate = 0.0
    config.optimizer.critic_learning_rate = 5e-4
  config.update_from_flattened_dict(
    {name.replace('__', '.'): value for name, value in changes.items()}
  )
  return config


@functools.cache
def _fields(objective):
  """Returns the fields of `_config`, which takes most of the time."""
  return flatten(_config(objective, health__patience_steps=_PATIENCE))


def _monitor(objective='geometric', **changes):
  """Returns the monitor of a run with these changes to the defaults."""
  changes = {name.replace('__', '.'): v for name, v in changes.items()}
  assert changes.keys() <= _fields(objective).keys()
  return _monitor_of(_fields(objective) | changes)


def _monitor_of(fields):
  objective = adversarial.OBJECTIVES.get(fields['objective'])
  return health.HealthMonitor(
    fields,
    separated_loss=objective.separated_loss if objective else 0.0,
    undecided_loss=objective.undecided_loss if objective else 0.0,
  )


def _run(monitor, steps, **ill):
  """Logs the same metrics at each step; returns [(step, kind)] found."""
  return [
    (step, finding.kind)
    for step in steps
    for finding in monitor.check(step, _HEALTHY | ill)
  ]


def _find(monitor=None, step=100, **ill):
  """Returns the one finding of a state that lasts from `step` on."""
  monitor = monitor or _monitor()
  steps = range(step, step + 20 * _LOG_EVERY, _LOG_EVERY)
  found = [f for step in steps for f in monitor.check(step, _HEALTHY | ill)]
  (finding,) = found
  return finding


@pytest.mark.parametrize(('kind', 'ill'), _LASTING)
def test_a_lasting_condition_is_reported_once_when_patience_ends(kind, ill):
  monitor = _monitor()
  assert _run(monitor, range(100, 1001, 100)) == []
  assert _run(monitor, range(1100, 1600, 100), **ill) == []
  assert monitor.healthy
  assert _run(monitor, [1600], **ill) == [(1600, kind)]
  assert _run(monitor, range(1700, 9000, 100), **ill) == []
  assert not monitor.healthy


@pytest.mark.parametrize(('kind', 'ill'), _LASTING)
def test_one_healthy_log_starts_patience_again(kind, ill):
  monitor = _monitor()
  assert _run(monitor, range(100, 600, 100), **ill) == []
  assert _run(monitor, [600]) == []
  assert _run(monitor, range(700, 1200, 100), **ill) == []
  assert _run(monitor, [1200], **ill) == [(1200, kind)]


@pytest.mark.parametrize(('kind', 'ill'), _URGENT)
def test_an_urgent_condition_is_reported_at_once(kind, ill):
  monitor = _monitor()
  assert _run(monitor, [1, 100]) == []
  assert _run(monitor, [200, 300], **ill) == [(200, kind)]
  assert not monitor.healthy


@pytest.mark.parametrize(('kind', 'ill'), _ILL)
def test_a_condition_that_returns_is_reported_again(kind, ill):
  monitor = _monitor()
  _run(monitor, [1])
  assert len(_run(monitor, range(100, 2000, 100), **ill)) == 1
  assert _run(monitor, [2000]) == []
  assert monitor.healthy
  assert [k for _, k in _run(monitor, range(2100, 4000, 100), **ill)] == [kind]


def test_two_kinds_are_found_in_one_check():
  monitor = _monitor()
  ill = {'kl': 0.0, 'output_std': 0.0}
  assert _run(monitor, range(100, 700, 100), **ill) == [
    (600, 'latent_collapse'),
    (600, 'output_collapse'),
  ]
  _run(monitor, [700], kl=0.0)  # The output alone recovers.
  assert not monitor.healthy
  _run(monitor, [800])
  assert monitor.healthy


def test_a_loss_a_thousand_times_its_median_is_reported():
  monitor = _monitor()
  # The first losses are no measure, whatever they are.
  assert _run(monitor, [1, 100, 200, 300], loss=1.0, largest_loss=1e9) == []
  assert _run(monitor, [400], loss=1.0, largest_loss=1.0) == []
  assert _run(monitor, [500, 600], loss=-4.0, largest_loss=999.0) == []
  (finding,) = monitor.check(700, _HEALTHY | {'largest_loss': 1500.5})
  assert finding.kind == 'outlier_loss' and finding.since == 601
  assert '--config.loss.min_size=0.3' in finding.message
  # One such loss among many does not move the median.
  assert _run(monitor, [800], loss=1e7, largest_loss=1e7) == []  # It lasts.
  assert _run(monitor, [900]) == []
  assert _run(monitor, [1000], largest_loss=1e7) == [(1000, 'outlier_loss')]


def test_a_run_that_logs_rarely_needs_five_logs():
  monitor = _monitor(health__patience_steps=500)
  found = _run(monitor, range(1000, 9000, 1000), critic_loss=0.0)
  assert found == [(5000, 'dead_critic')]


def test_a_start_with_constant_outputs_and_no_latent_is_normal():
  monitor = _monitor()
  steps = [1, *range(100, 501, 100)]
  assert _run(monitor, steps, kl=0.4, output_std=0.001) == []
  assert _run(monitor, range(600, 3000, 100)) == []


@pytest.mark.parametrize('name', sorted(adversarial.OBJECTIVES))
def test_a_critic_with_one_logit_for_all_images_is_dead(name):
  logits = np.linspace(-2, 2, 401)  # In steps of 0.01, so 0 and 0.5 as well.
  losses = adversarial.OBJECTIVES[name].critic_loss(logits, logits)
  loss = float(np.min(losses))
  for near in (loss, loss * 1.005):
    assert _find(_monitor(name), critic_loss=near).kind == 'dead_critic'
  for far in (loss * 1.05 + 0.001, loss * 0.95 - 0.001):
    assert _run(_monitor(name), range(0, 5000, 100), critic_loss=far) == []


@pytest.mark.parametrize(
  ('name', 'real', 'fake'),
  [
    ('geometric', 5.0, -6.0),
    ('vanilla', 6.0, -6.0),
    ('non_saturating', 6.0, -6.0),
    ('least_squares', 0.95, 0.05),
  ],
)
def test_a_critic_that_separates_all_images_is_dead(name, real, fake):
  loss = adversarial.OBJECTIVES[name].critic_loss
  sure = float(loss(np.array([real]), np.array([fake]))[0])
  finding = _find(_monitor(name), critic_loss=sure)
  assert finding.kind == 'dead_critic'
  assert 'loss.adversarial_weight' in finding.message
  # With a hundredth of the images on the wrong side it has a gradient.
  wrong = float(loss(np.array([fake]), np.array([real]))[0])
  some = 0.99 * sure + 0.01 * wrong
  assert _run(_monitor(name), range(0, 5000, 100), critic_loss=some) == []


@pytest.mark.parametrize('name', ['wasserstein', 'wasserstein_gp'])
@pytest.mark.parametrize('loss', [-1e-3, -40.0, 3.0])
def test_a_wasserstein_critic_may_separate_as_far_as_it_can(name, loss):
  assert _run(_monitor(name), range(0, 5000, 100), critic_loss=loss) == []


def test_the_two_kinds_of_dead_critic_have_their_own_patience():
  monitor = _monitor()
  assert _run(monitor, range(100, 600, 100), critic_loss=0.0) == []
  assert _run(monitor, range(600, 1100, 100), critic_loss=2.0) == []
  assert _run(monitor, [1100], critic_loss=2.0) == [(1100, 'dead_critic')]


def test_features_may_drift_but_not_explode():
  monitor = _monitor()
  for step, scale in enumerate((0.2, 0.1, 0.3, 0.4, 0.2, 5.0, 19.0)):
    assert _run(monitor, [step], feature_scale=scale) == []
  # 100 times the median of the first five, 0.2.
  found = _run(monitor, [7, 8], feature_scale=20.1)
  assert found == [(7, 'exploding_features')]


def test_features_that_explode_early_do_not_raise_the_limit():
  monitor = _monitor()
  assert _run(monitor, [1], feature_scale=0.2) == []
  assert len(_run(monitor, range(2, 20), feature_scale=21.0)) == 1


def test_features_that_begin_near_zero_may_grow_to_one():
  monitor = _monitor()
  assert _run(monitor, range(5), feature_scale=0.0) == []
  assert _run(monitor, [5], feature_scale=1.0) == []
  assert len(_run(monitor, [6], feature_scale=1.1)) == 1


def test_exploded_features_are_found_in_the_first_log_of_a_resumed_run():
  assert len(_run(_monitor(), [5001], feature_scale=1.1e4)) == 1


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize('name', sorted(_HEALTHY))
def test_any_value_that_is_not_finite_is_found_and_named(name, value):
  ill = {'skipped_in_a_row': 2.0} | {name: value}
  (finding,) = _monitor().check(100, _HEALTHY | ill)
  assert finding.kind == 'non_finite'
  assert f'{name} is not finite' in finding.message


def test_one_skipped_update_alone_is_not_reported():
  monitor = _monitor()
  skipped = {'loss': math.inf, 'skipped_in_a_row': 1.0}
  for step in range(100, 5000, 200):
    assert _run(monitor, [step], **skipped) == []
    assert _run(monitor, [step + 100]) == []
  # Unless every log has one.
  assert len(_run(monitor, range(5000, 6000, 100), **skipped)) == 1


def test_skipped_updates_in_a_row_are_found_with_every_value_finite():
  (finding,) = _monitor().check(100, _HEALTHY | {'skipped_in_a_row': 3.0})
  assert '3 skipped in a row' in finding.message


def test_a_log_without_evidence_changes_nothing():
  monitor = _monitor()
  _run(monitor, range(100, 600, 100), kl=0.0)
  unknown = {'kl': math.nan, 'skipped_in_a_row': 1.0}
  assert _run(monitor, [600], **unknown) == []
  assert _run(monitor, [700], kl=0.0) == [(700, 'latent_collapse')]
  assert _run(monitor, [800], **unknown) == []
  assert not monitor.healthy


@pytest.mark.parametrize(
  ('objective', 'changes', 'absent'),
  [
    ('mse', {}, ('critic_', 'feature_scale')),
    ('geometric', _FROZEN, ('critic_',)),
  ],
)
def test_without_a_critic_the_other_checks_apply(objective, changes, absent):
  metrics = {k: v for k, v in _HEALTHY.items() if not k.startswith(absent)}
  monitor = _monitor(objective, **changes)
  found = []
  for step in range(100, 1000, 100):
    found += monitor.check(step, metrics | {'kl': 0.1, 'output_std': 0.0})
  kinds = ['latent_collapse', 'output_collapse']
  assert [finding.kind for finding in found] == kinds
  (finding,) = monitor.check(1000, metrics | {'loss': math.nan})
  assert 'critic_learning_rate' not in finding.message


def test_a_min_kl_of_zero_turns_its_check_off():
  assert _run(_monitor(health__min_kl=0.0), range(0, 5000, 100), kl=0.0) == []


def test_a_batch_of_one_image_without_spread_is_healthy():
  still = {'output_std': 0.0, 'input_std': 0.0}
  assert _run(_monitor(), range(0, 5000, 100), **still) == []


@pytest.mark.parametrize(
  ('ill', 'title', 'values', 'step'),
  [
    ({'critic_loss': 0.004}, 'Dead critic', ('0.01', '0.004'), 1700),
    ({'critic_loss': 2.01}, 'Dead critic', ('0.02', '2.01'), 1700),
    ({'kl': 0.02}, 'Latent collapse', ('health.min_kl=0.5', '0.02'), 1700),
    ({'output_std': 0.01}, 'Output collapse', ('5%', '0.01', '0.4'), 1700),
    (
      {'usage': 0.02},
      'Codebook collapse',
      ('health.min_usage=0.1', '0.02', '25%'),
      1700,
    ),
    ({'feature_scale': 50.0}, 'Exploding features', ('20', '50', '0.2'), 1200),
    (
      {'loss': math.nan, 'kl': math.inf, 'skipped_in_a_row': 7.0},
      'Non-finite values',
      ('loss and kl', '7 skipped in a row'),
      1200,
    ),
  ],
)
def test_a_message_has_the_values_the_steps_and_a_remedy(
  ill, title, values, step
):
  monitor = _monitor()
  _run(monitor, [1, 1100])
  message = _find(monitor, step=1200, **ill).message
  assert message.startswith(f'{title} since step 1,200: {next(iter(ill))}')
  assert f'at step {step:,}, likely because ' in message
  assert all(value in message for value in values)
  verbs, flags = _suggested(message)
  assert len(verbs) == len(flags) > 0
  assert '\n' not in message


def _messages(monitor, ill):
  """Returns the messages of a lasting state, after one healthy log."""
  _run(monitor, [1])
  return [
    finding.message
    for step in range(100, 1000, 100)
    for finding in monitor.check(step, _HEALTHY | ill)
  ]


def _suggested(message):
  """Returns ({field: verb}, [flag]) of a message."""
  _, _, remedy = message.partition('; ')
  said, _, flags = remedy.partition(', in a new --workdir: for example, ')
  verbs = re.findall(r'(lower|raise|turn on) ([\w.]+)', said)
  return {field: verb for verb, field in verbs}, re.findall(r'--\S+', flags)


# A fifth of the learning rates.
_SLOW = 'optimizer.autoencoder_learning_rate=1e-4'
_SLOW_CRITIC = 'optimizer.critic_learning_rate=1e-4'
_CRITIC = {'critic_loss': 0.0}
_EXPLODED = {'feature_scale': 1e5}
_PENALTY = {'critic__gradient_penalty_weight': 10.0}


@pytest.mark.parametrize(
  ('ill', 'changes', 'flags'),
  [
    (
      {'critic_loss': 2.0},
      {'optimizer__critic_learning_rate': 5e-5, 'loss__adversarial_weight': 2},
      'optimizer.critic_learning_rate=1e-5 loss.adversarial_weight=0.4',
    ),
    # A tenth of the weight.
    (
      {'kl': 0.0},
      {'loss__rate': 0.0, 'loss__kl_weight': 3e-3},
      'loss.kl_weight=3e-4',
    ),
    # With a weight that is steered, or none, another cause.
    ({'kl': 0.0}, {'loss__kl_weight': 3e-3}, _SLOW),
    (
      _CRITIC,
      {'loss__adversarial_weight': 0.0},
      f'loss.adversarial_weight=0.1 {_SLOW_CRITIC}',
    ),
    # It is high already, or its ramp may exceed the run.
    (_CRITIC, {'loss__adversarial_weight': 1.0}, _SLOW_CRITIC),
    (
      _CRITIC,
      {'loss__adversarial_weight': 0.0, 'loss__adversarial_ramp_steps': 10**6},
      _SLOW_CRITIC,
    ),
    # Bounds of the critic: off, low, on, high, or exclusive.
    (
      _EXPLODED,
      {'critic__r1_weight': 0.0},
      f'{_SLOW_CRITIC} critic.r1_weight=1 critic.spectral_norm=True',
    ),
    (
      _EXPLODED,
      {'critic__spectral_norm': True, 'critic__r1_weight': 4.0},
      f'{_SLOW_CRITIC} critic.r1_weight=20',
    ),
    (
      _EXPLODED,
      {'critic__spectral_norm': True, 'critic__r1_weight': 100.0},
      _SLOW_CRITIC,
    ),
    (
      _EXPLODED,
      {'critic__norm': 'batch', 'critic__r1_weight': 0.0},
      f'{_SLOW_CRITIC} critic.spectral_norm=True',
    ),
    (
      _EXPLODED,
      {'objective': 'wasserstein_gp', 'critic__r1_weight': 0.0} | _PENALTY,
      f'{_SLOW_CRITIC} critic.spectral_norm=True',
    ),
    (_EXPLODED, {'critic__weight_clip': 0.01}, _SLOW_CRITIC),
    # Fewer learnt codes; a higher weight of their entropy.
    (
      {'usage': 0.0},
      {'model__latent': 'vq', 'model__codebook_size': 16384},
      f'model.codebook_size=4096 {_SLOW}',
    ),
    (
      {'usage': 0.0},
      {'model__latent': 'lfq', 'loss__entropy_weight': 0.1},
      f'loss.entropy_weight=0.3 {_SLOW}',
    ),
    # No suggestions about a critic that is not trained.
    ({'output_std': 0.0}, _FROZEN, _SLOW),
    (
      {'output_std': 0.0},
      {'objective': 'mse', 'optimizer__muon_learning_rate': 0.01},
      f'{_SLOW} optimizer.muon_learning_rate=2e-3',
    ),
  ],
)
def test_suggestions_depend_on_the_configuration(ill, changes, flags):
  (message,) = _messages(_monitor(**changes), ill)
  expected = [f'--config.{flag}' for flag in flags.split()]
  assert _suggested(message)[1] == expected


def test_the_cause_depends_on_whether_anything_bounds_the_critic():
  (bounded,) = _messages(_monitor(), _EXPLODED)
  (free,) = _messages(_monitor(critic__r1_weight=0.0), _EXPLODED)
  assert 'nothing bounds' in free and 'nothing bounds' not in bounded


def test_a_frozen_critic_cannot_explode():
  assert _run(_monitor(**_FROZEN), range(0, 900, 100), feature_scale=1e5) == []


def test_where_nothing_is_left_to_change_nothing_is_suggested():
  tiny = {
    'loss__kl_weight': 0.0,
    'optimizer__autoencoder_learning_rate': 5e-324,
  }
  (message,) = _messages(_monitor(**tiny), {'kl': 0.0})
  assert '--config' not in message


def test_a_monitor_without_a_field_that_it_needs_fails_at_once():
  fields = flatten(default.get_config())
  del fields['optimizer.critic_learning_rate']
  with pytest.raises(KeyError, match='critic_learning_rate'):
    _monitor_of(fields)


def test_a_missing_metric_is_no_evidence_but_another_key_error_is_raised(
  monkeypatch,
):
  def condition(metrics, limits):
    del limits
    return metrics['misspelt']

  check = health_checks.CHECKS[2]._replace(condition=condition)
  monkeypatch.setattr(health, 'CHECKS', (check,))
  monitor = _monitor()
  assert monitor.check(100, {'kl': 100.0}) == []  # It needs critic_loss.
  with pytest.raises(KeyError, match='misspelt'):
    monitor.check(200, _HEALTHY)


@pytest.mark.parametrize('check', health_checks.CHECKS)
def test_a_condition_takes_only_the_metrics_that_its_check_needs(check):
  limits = health_checks.Limits(math.inf, 0.0, math.inf, 1.0)
  metrics = {name: 0.5 for name in check.metrics or ()}
  check.condition(metrics, limits)


_SIZES = st.one_of(
  st.sampled_from([0.0, 1e-4, 5e-4, 1e-2, 0.1, 0.5, 0.95, 1.0, 9.99, 10.0]),
  st.floats(0.0, 3.4e38),
)
_RATES = _SIZES.filter(bool)
# Values on which suggestions depend, equally often.
_CHANGES = {
  'num_train_steps': st.sampled_from([500, 20_000]),
  'critic__norm': st.sampled_from(names.NORMS),
  'critic__spectral_norm': st.booleans(),
  'critic__weight_clip': st.just(0.0) | _SIZES,
  'critic__gradient_penalty_weight': st.just(0.0) | _SIZES,
  'critic__r1_weight': _SIZES,
  'loss__adversarial_weight': _SIZES,
  'loss__adversarial_ramp_steps': st.sampled_from([0, 400, 1000]),
  'loss__adaptive_weight': st.booleans(),
  'loss__kl_weight': _SIZES,
  'loss__rate': st.just(0.0),
  'loss__entropy_weight': _SIZES,
  'model__latent': st.sampled_from(['gaussian', 'vq', 'lfq', 'none']),
  'optimizer__autoencoder_learning_rate': _RATES,
  'optimizer__critic_learning_rate': _RATES,
}


@hypothesis.settings(
  deadline=None,
  max_examples=60,
  suppress_health_check=[hypothesis.HealthCheck.filter_too_much],
)
@hypothesis.given(
  objective=st.sampled_from(_OBJECTIVES),
  changes=st.fixed_dictionaries({}, optional=_CHANGES),
  frozen=st.booleans(),
)
# Values that other fields exclude, or that are checked once another is on.
@hypothesis.example(
  'geometric', {'critic__norm': 'batch', 'critic__r1_weight': 0.0}, False
)
@hypothesis.example(
  'geometric',
  {
    'num_train_steps': 500,
    'loss__adversarial_weight': 0.0,
    'loss__adversarial_ramp_steps': 1000,
  },
  False,
)
def test_a_suggested_value_is_valid_and_changes_in_the_stated_direction(
  objective, changes, frozen
):
  changes |= _FROZEN if frozen else {}
  config = _config(objective, **changes)
  try:
    validation.validate(config)
  except UserError:
    hypothesis.reject()
  trains_critic = objective != 'mse' and not frozen
  given = flatten(config)
  for _, ill in _ILL:
    for message in _messages(_monitor(objective, **changes), ill):
      verbs, flags = _suggested(message)
      names = re.findall(
        r'\b(?:health|critic|loss|model|optimizer)\.\w+', message
      )
      assert set(names) <= set(given)
      assert [f'--config.{field}' for field in verbs] == [
        flag.partition('=')[0] for flag in flags
      ]
      # All flags at once; then each alone.
      advised = config.copy_and_resolve_references()
      apply_overrides(advised, ['main.py', *flags])
      validation.validate(advised)
      values = flatten(advised)
      for field, verb in verbs.items():
        alone = changes | {field.replace('.', '__'): values[field]}
        validation.validate(_config(objective, **alone))
        assert {
          'lower': values[field] < given[field],
          'raise': values[field] > given[field],
          'turn on': values[field] and not given[field],
        }[verb]
        assert trains_critic or not re.search('critic|adversarial', field)
      assert 'critic.norm' not in message


def test_since_is_the_step_after_the_last_log_without_it():
  monitor = _monitor()
  _run(monitor, [1000, 1100])
  assert _find(monitor, step=1200, kl=0.0).since == 1101
  # Without such a log, it is the first log.
  assert _find(step=1200, kl=0.0).since == 1200


@pytest.mark.parametrize(
  ('steps', 'since', 'expected'),
  [
    ([1000, 2000, 3000], 2101, 2000),
    ([3000, 1000, 2000], 2000, 1000),  # In any order, and strictly before.
    ([1000], 5000, 1000),
    ([1000, 2000], 1000, None),
    ([], 10, None),
  ],
)
def test_a_rollback_goes_to_the_newest_checkpoint_before(
  steps, since, expected
):
  assert health.last_healthy_step(steps, since) == expected


@hypothesis.settings(deadline=None, max_examples=40)
@hypothesis.given(
  seed=st.integers(0, 2**32 - 1),
  objective=st.sampled_from(_OBJECTIVES),
  log_every=st.integers(1, 2000),
)
def test_healthy_noise_is_never_reported(seed, objective, log_every):
  rng = np.random.default_rng(seed)
  monitor = _monitor(objective)
  # As in the README's runs: a critic near zero one time in five, and the other
  # metrics within a factor of about 3.
  for step in range(1, 100 * log_every, log_every):
    noise = {k: v * rng.lognormal(0, 0.3) for k, v in _HEALTHY.items()}
    streak = step // log_every % 5 < 2
    noise['critic_loss'] = 0.0 if streak else rng.uniform(0.05, 1.2)
    assert monitor.check(step, noise) == []
    assert monitor.healthy


_VALUES = st.one_of(
  st.floats(), st.sampled_from([0.0, 0.25, 2.0, math.nan, math.inf])
)


@hypothesis.settings(deadline=None, max_examples=200)
@hypothesis.given(
  rows=st.lists(
    st.dictionaries(st.sampled_from(sorted(_HEALTHY)), _VALUES), max_size=12
  ),
  objective=st.sampled_from(_OBJECTIVES),
  patience_steps=st.integers(0, 12),
)
def test_no_metrics_raise_an_error_or_a_repeated_finding(
  rows, objective, patience_steps
):
  monitor = _monitor(objective, health__patience_steps=patience_steps)
  active = {}
  for step, metrics in enumerate(rows, start=1):
    for finding in monitor.check(step, metrics):
      assert finding.kind in health_checks.KINDS
      assert 1 <= finding.since <= step
      assert not monitor.healthy
      active[finding.kind] = step
    if monitor.healthy:
      active.clear()
  assert monitor.healthy == (not active)


def test_it_needs_no_jax():
  # vaegan_jax/__init__.py imports JAX; these modules by themselves do not.
  code = (
    'import sys, types\n'
    'for name in ("vaegan_jax", "vaegan_jax.training"):\n'
    '  sys.modules[name] = types.ModuleType(name)\n'
    f'  sys.modules[name].__path__ = [{os.path.dirname(health.__file__)!r}]\n'
    'import vaegan_jax.training.health\n'
    'assert "jax" not in sys.modules and "numpy" not in sys.modules'
  )
  subprocess.run([sys.executable, '-c', code], check=True)
