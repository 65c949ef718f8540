"""Runs whose examples and scores are made up, for pages without training."""

import functools

import numpy as np

from vaegan_jax.evaluation.scores import Evaluation
from vaegan_jax.report.examples import collect
from vaegan_jax.report.page import ReportedRun

NUM_EXAMPLES = 70  # That are evaluated.


class FakeEvaluator:
  """The part of `Evaluator` that a page uses; the examples are noise."""

  has_codes = False
  sample_rate = 8000

  def __init__(self, shape, bands=(), blur=0.5):
    self.shape, self.bands, self._blur = shape, bands, blur
    rng = np.random.default_rng(0)
    self.x = rng.uniform(-1, 1, (NUM_EXAMPLES, *shape)).astype(np.float32)

  def reconstruct(self, variables, indices):
    x = self.x[list(indices)]
    return x, self._blur * x, x.reshape(len(x), -1)[:, :6]

  def interpolate(self, variables, first, last):
    return self.x[:8]

  def sample(self, variables):
    return self.x[:64]


def create_run(label, shape=(12, 16, 3), bands=(), blur=0.5, **changes):
  """Creates a run whose PSNR of example i is 20 + i, and detail the reverse."""
  numbers = np.arange(NUM_EXAMPLES, dtype=float)
  values = {
    'psnr': 20 + numbers,
    'detail': 1 - numbers / 1000,
    'kl': 0 * numbers,
  }
  scores = {'psnr': 39.5, 'detail': 0.8, 'kl': 12.0, 'psnr_sampled': 31.0}
  fields = {
    'label': label,
    'step': 300,
    'config': {'data': {'name': 'drawn_faces'}, 'seed': 3},
    'collect': functools.partial(
      collect, FakeEvaluator(shape, bands, blur), {}
    ),
    'evaluation': Evaluation(scores, values, np.array([6, 0, 2])),
    'workdir': '',
  }
  return ReportedRun(**fields | changes)
