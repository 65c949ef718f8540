"""What the loop records, and when; `commands/train_test.py` has the rest."""

import dataclasses
import types

import numpy as np
import pytest

from vaegan_jax.evaluation.scores import Evaluation
from vaegan_jax.runtime.progress import Progress
from vaegan_jax.runtime.writers import NoWriters
from vaegan_jax.training import loop
from vaegan_jax.training.train_state import NetworkState

_PLAN = loop.Plan(
  num_train_steps=8,
  batch_size=1,
  log_every_steps=1,
  eval_every_steps=8,
  figure_every_steps=4,
  checkpoint_every_steps=8,
  num_eval_images=0,
  max_skipped_steps=1,
  on_failure='warn',
)
_FIGURE = np.zeros((2, 2, 3), np.uint8)


class _Writers:
  def __init__(self):
    self.written = []

  def __getattr__(self, method):
    return lambda *args, **options: self.written.append(
      (method, *args, *options.values())
    )


def _evaluate(step, sounds, writers, stop=False):
  evaluator = types.SimpleNamespace(
    evaluate=lambda *_, poll: Evaluation({'psnr': 20.0}, {}, np.zeros(0)),
    plot=lambda _, poll: {'samples': _FIGURE},
    play=lambda _: sounds,
    sample_rate=8000,
  )
  network = NetworkState(params={}, batch_stats={}, opt_state=())
  state = types.SimpleNamespace(
    networks={'autoencoder': network}, ema_params={}, averages={}
  )
  parts = {'evaluator': evaluator, 'writers': writers}
  write_page = writers.write_page  # The order is recorded.
  return _loop(**parts, write_page=write_page)._evaluate(step, state, {}, stop)


def _loop(**changes):
  names = [field.name for field in dataclasses.fields(loop.Loop)]
  stopper = types.SimpleNamespace(poll=lambda: None)
  given = dict.fromkeys(names) | {'plan': _PLAN, 'stopper': stopper}
  return loop.Loop(**given | changes)


@pytest.mark.parametrize(
  ('step', 'sounds', 'wanted'),
  [
    (3, True, []),
    (4, True, ['write_images', 'write_audios']),
    (4, False, ['write_images']),
    (8, True, ['write_scalars', 'write_page', 'write_images', 'write_audios']),
  ],
)
def test_sounds_are_written_beside_figures(step, sounds, wanted):
  sounds = {'originals': np.zeros((4, 16, 1))} if sounds else {}
  writers = _Writers()
  assert not _evaluate(step, sounds, writers)
  assert [method for method, *_ in writers.written] == wanted
  for method, *args in writers.written:
    if method == 'write_audios':
      assert args == [step, sounds, 8000]
  assert not _evaluate(step, sounds, NoWriters())


def test_a_run_that_is_to_stop_writes_no_figures():
  writers = _Writers()
  assert _evaluate(4, {'originals': np.zeros((4, 16, 1))}, writers, stop=True)
  assert writers.written == []


def test_the_largest_loss_is_of_all_steps_since_the_last_log():
  losses = [np.float32(value) for value in (1.5, -7.0, np.nan, np.inf, 2.0)]
  assert loop._largest(losses) == {'largest_loss': 7.0}
  assert loop._largest(losses[2:4]) == loop._largest([]) == {}


def test_a_logged_step_has_its_metrics_and_its_learning_rates():
  rates = {'learning_rate_autoencoder': 0.25, 'learning_rate_critic': 0.5}
  record = _loop(learning_rates=lambda state: rates)._log(
    3, None, {'loss': 1.5}, Progress(8, 1, clock=lambda: 0.0)
  )
  assert record == {'train/loss': 1.5} | {
    f'train/{name}': rate for name, rate in rates.items()
  }
