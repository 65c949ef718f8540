"""What the loop records, and when; `commands/train_test.py` has the rest."""

import types

import numpy as np
import pytest

from vaegan_jax.runtime.writers import NoWriters
from vaegan_jax.training import loop

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


def _show(step, sounds, writers, stop=False):
  evaluator = types.SimpleNamespace(
    score=lambda *_, poll: {'psnr': 20.0},
    draw=lambda _, poll: {'samples': _FIGURE},
    play=lambda _: sounds,
    sample_rate=8000,
  )
  stopper = types.SimpleNamespace(poll=lambda: None)
  return loop._show(_PLAN, evaluator, stopper, writers, step, None, {}, stop)


@pytest.mark.parametrize(
  ('step', 'sounds', 'wanted'),
  [
    (3, True, []),
    (4, True, ['write_images', 'write_audios']),
    (4, False, ['write_images']),
    (8, True, ['write_scalars', 'write_images', 'write_audios']),
  ],
)
def test_sounds_are_played_beside_figures(step, sounds, wanted):
  sounds = {'originals': np.zeros((4, 16, 1))} if sounds else {}
  writers = _Writers()
  assert not _show(step, sounds, writers)
  assert [method for method, *_ in writers.written] == wanted
  for method, *args in writers.written:
    if method == 'write_audios':
      assert args == [step, sounds, 8000]
  assert not _show(step, sounds, NoWriters())


def test_who_is_to_stop_plays_nothing():
  writers = _Writers()
  assert _show(4, {'originals': np.zeros((4, 16, 1))}, writers, stop=True)
  assert writers.written == []
