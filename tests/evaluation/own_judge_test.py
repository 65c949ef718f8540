"""A network of the data's own judges what people notice, on drawn signals."""

import subprocess
import sys

import numpy as np
import pytest
from scipy import ndimage

from vaegan_jax.data.sources import drawn_bands, drawn_sounds
from vaegan_jax.evaluation import own_judge
from vaegan_jax.evaluation.scores import summarize

NUMBER = 96


def examples(kind):
  """Returns parts of drawn signals, [NUMBER, *S, C] in [-1, 1]."""
  if kind == 'sounds':
    drawn = [drawn_sounds.draw(i)[4096:4224] / 2**13 for i in range(NUMBER)]
  else:
    drawn = [
      drawn_bands.draw(i)[:16, :16, 3:8] / 2048 - 1 for i in range(NUMBER)
    ]
  return np.clip(np.stack(drawn), -1, 1).astype(np.float32)


def blurred(x, deviation):
  deviations = (0, *[deviation] * (x.ndim - 2), 0)
  return ndimage.gaussian_filter(x, deviations, mode='nearest')


def noisy(x, deviation):
  noise = np.random.default_rng(1).normal(0, deviation * x.std(), x.shape)
  return (x + noise).astype(np.float32)


@pytest.mark.parametrize('kind', ['sounds', 'bands'])
def test_the_distances_grow_with_blur_and_noise(kind, monkeypatch):
  monkeypatch.setattr(own_judge, '_NUM_STEPS', 60)
  x = examples(kind)
  judge = own_judge.train_judge(lambda indices: x[indices], NUMBER)
  x = x[own_judge.is_judged(NUMBER)]
  recons = {
    '_same': x,
    '_blur_1': blurred(x, 0.7),
    '_blur_2': blurred(x, 2),
    '_noise_1': noisy(x, 0.1),
    '_noise_2': noisy(x, 0.3),
    '_noise_3': noisy(x, 1),
    '_other': np.roll(x, 1, axis=0),
  }
  values = {k: np.asarray(v) for k, v in judge.measure(x, recons).items()}
  pairs = {k: values[f'judge{k}'].mean() for k in recons}
  assert (values['judge_same'] == 0).all()
  assert 0 < pairs['_blur_1'] < pairs['_blur_2'] < pairs['_other']
  assert 0 < pairs['_noise_1'] < pairs['_noise_2'] < pairs['_noise_3']
  scores = {
    k: summarize(
      {
        **dict.fromkeys(('psnr', 'energy'), np.ones(1)),
        **dict.fromkeys(('energy_recon', 'energy_common'), np.ones((1, 1))),
        'judge_features': values['judge_features'],
        'judge_features_recon': values[f'judge_features_recon{k}'],
      }
    )
    for k in recons
  }
  sets = {k: row['judge_frechet'] for k, row in scores.items()}
  floor = scores['_same']['judge_floor']
  # Other examples of the data are right as a set, and wrong one by one.
  assert max(sets['_same'], sets['_other']) < 1e-6 < floor
  assert floor < sets['_blur_2'] and sets['_blur_1'] < sets['_blur_2']
  assert sets['_noise_1'] < sets['_noise_2'] < sets['_noise_3']


_DRAWN = """
import numpy as np
from vaegan_jax.evaluation import own_judge
own_judge._NUM_STEPS = 2
x = np.random.default_rng(0).normal(0, 0.3, (64, 8, 1)).astype(np.float32)
"""
_DIGEST = f"""{_DRAWN}
from tests.environment import draw_initial_weights
draw_initial_weights()
print(own_judge.train_judge(lambda indices: x[indices], 64).digest)
"""


def test_a_judge_is_trained_once_on_the_half_that_it_does_not_judge(
  monkeypatch,
):
  """Another process trains the same bits."""
  monkeypatch.setattr(own_judge, '_judges', {})
  monkeypatch.setattr(own_judge, '_NUM_STEPS', 2)
  defined, seen, polls = {}, set(), []
  exec(_DRAWN, defined)

  def read(indices):
    seen.update(indices.tolist())
    return defined['x'][indices]

  judges = [
    own_judge.judge_for('x', read, 64, lambda: polls.append(1))
    for _ in range(2)
  ]
  assert judges[0] is judges[1] and len(polls) == 2
  assert seen == set(range(1, 64, 2))
  assert not own_judge.is_judged(64)[1::2].any()
  other = subprocess.run(
    [sys.executable, '-c', _DIGEST], stdout=subprocess.PIPE, check=True
  )
  assert other.stdout.decode().strip() == judges[0].digest
