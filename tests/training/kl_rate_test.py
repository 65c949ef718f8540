"""The KL weight is steered until the run's own KL meets `loss.rate`."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.finished_run import restore_state
from tests.networks import assert_equal
from tests.processes import read_rows
from vaegan_jax.training import kl_rate

_RATE = 10.0
_NATS = _RATE * math.log(2)


@pytest.mark.parametrize(
  ('average', 'kl', 'move'),
  (
    (_NATS, _NATS, 0.0),
    (2 * _NATS, 2 * _NATS, 0.02 * math.log(2)),
    (_NATS, 2 * _NATS, 1.02 * math.log(1.05)),
    (_NATS, 0.0, 1.02 * math.log(0.95)),
    (9 * _NATS, 10 * _NATS, 0.02),  # No error is larger.
    (0.1 * _NATS, 0.0, -0.02),
    (None, _NATS, 0.0),  # The first step.
    (None, 2 * _NATS, 0.02 * math.log(2)),
  ),
)
def test_the_weight_follows_the_error_and_its_changes(average, kl, move):
  averages = kl_rate.create(_RATE, 0.3) | {'logits_real': 1.0}
  if average is None:
    average = kl
  else:
    averages['kl_average'] = average
  averages = {name: jnp.float32(value) for name, value in averages.items()}
  moved = kl_rate.steer(averages, {'kl': jnp.float32(kl)}, _RATE)
  assert set(moved) == {'kl_weight', 'kl_average'}
  np.testing.assert_allclose(
    moved['kl_average'], 0.95 * average + 0.05 * kl, rtol=1e-6
  )
  np.testing.assert_allclose(
    moved['kl_weight'], 0.3 * math.exp(move), rtol=1e-6
  )


def test_one_exploded_batch_moves_the_weight_little():
  """Its KL counts as ten rates: the weight is back within 200 steps."""
  steer = jax.jit(lambda averages, kl: kl_rate.steer(averages, kl, _RATE))
  averages = {'kl_weight': jnp.float32(0.3), 'kl_average': jnp.float32(_NATS)}
  weights = []
  for step in range(200):
    kl = 1e30 if step == 0 else _NATS
    averages = steer(averages, {'kl': jnp.float32(kl)})
    weights.append(float(averages['kl_weight']))
  first = math.log(0.95 + 0.05 * 10)
  assert weights[0] == pytest.approx(0.3 * math.exp(1.02 * first), rel=1e-5)
  assert weights[0] == max(weights)
  assert weights[-1] < 0.3 * 1.2


def test_nothing_is_steered_without_a_rate():
  assert kl_rate.create(0.0, 0.3) == {}
  assert kl_rate.steer({'logits_real': 1.0}, {'kl': 5.0}, 0.0) == {}


def test_a_kl_that_follows_its_weight_late_meets_the_rate():
  """The KL is 20 weight^-slope nats after `lag` steps, with noise of 20%."""
  steer = jax.jit(lambda averages, kl: kl_rate.steer(averages, kl, _RATE))
  # Eighteen runs side by side.
  runs = itertools.product((0.3, 0.5, 1.0), (30, 100), (1e-3, 1e-1, 10.0))
  slope, lag, first = np.transpose(list(runs))
  rng = np.random.default_rng(0)
  averages = jax.tree.map(
    lambda value: np.full(18, value, np.float32), kl_rate.create(_RATE, 0.0)
  ) | {'kl_weight': first.astype(np.float32)}
  log_kl, found = np.full(18, math.log(1e-3)), []
  for _ in range(2000):
    weight = np.asarray(averages['kl_weight'])
    log_kl = log_kl + (math.log(20) - slope * np.log(weight) - log_kl) / lag
    kl = np.exp(log_kl + 0.2 * rng.normal())
    averages = steer(averages, {'kl': kl.astype(np.float32)})
    found.append(np.exp(log_kl))
  found = np.asarray(found) / _NATS
  np.testing.assert_allclose(found[1500:].mean(axis=0), 1, rtol=0, atol=0.03)
  # It does not swing: no later hundred steps leave a tenth of it.
  means = found[1000:].reshape(-1, 100, 18).mean(axis=1)
  np.testing.assert_allclose(means, 1, rtol=0, atol=0.1)


def test_a_run_logs_the_weight_that_trains_it_and_resumes_with_it(
  run, tiny_run, tmp_path
):
  args = [arg for arg in tiny_run if 'kl_weight' not in arg]
  args.append(f'--config.loss.rate={_RATE}')
  args.append('--config.objective=mse')  # A critic compiles slowly.
  assert run(tmp_path / 'a', *args) == 0
  for more in ('--config.num_train_steps=10', '--config.num_train_steps=20'):
    assert run(tmp_path / 'b', *args, more) == 0
  rows = read_rows(tmp_path / 'a')
  weights = [row['train/kl_weight'] for row in rows]
  assert weights[0] == pytest.approx(4.0)  # loss.kl_weight of pixels
  average = rows[0]['train/kl']
  error = np.clip(math.log(average / _NATS), -1, 1)
  for row, after in itertools.pairwise(rows):
    average, last = 0.95 * average + 0.05 * row['train/kl'], error
    error = np.clip(math.log(average / _NATS), -1, 1)
    assert after['train/kl_weight'] == pytest.approx(
      row['train/kl_weight'] * math.exp(1.02 * error - last), rel=1e-5
    )
    loss = row['train/distance'] + row['train/kl_weight'] * row['train/kl']
    assert row['train/loss'] == pytest.approx(loss, rel=1e-5)
  assert_equal(*(restore_state(tmp_path / name)[0] for name in 'ab'))
