"""The protocol of a comparison; `evaluate_test.py` compares whole runs."""

from types import SimpleNamespace

import pytest

from vaegan_jax.commands import compare
from vaegan_jax.errors import UserError
from vaegan_jax.setup.finished_run import FinishedRun


def run_with(protocol):
  return FinishedRun(SimpleNamespace(protocol=protocol), {}, 0)


def test_each_run_has_its_own_protocol():
  shared = '- 512 held-out examples\n- pictures of 8 bits\n'
  runs = {
    'mse': run_with(f'{shared}- the examples are not those of the training\n'),
    'geometric': run_with(shared),
    'old': run_with(f'{shared}- the run was trained on other data\n'),
  }
  assert compare.join_protocols(runs) == (
    f'{shared}'
    '- mse: the examples are not those of the training\n'
    '- old: the run was trained on other data\n'
  )
  del runs['mse'], runs['old']
  assert compare.join_protocols(runs) == shared


@pytest.mark.parametrize(
  ('attribute', 'told', 'message'),
  [
    (
      'judge_key',
      compare._OTHER_JUDGE,
      r'own_judge=True .* old and mse by two',
    ),
    (
      'fingerprint',
      compare._OTHER_IMAGES,
      r'of old are not those of mse, .*_r',
    ),
  ],
)
def test_what_runs_must_share_is_checked(attribute, told, message):
  keys = {'mse': (0, 4095), 'geometric': (0, 4095), 'old': 'dtype'}
  runs = {
    label: FinishedRun(SimpleNamespace(**{attribute: ('a', key)}), {}, 0)
    for label, key in keys.items()
  }
  with pytest.raises(UserError, match=message):
    compare._check_same(runs, attribute, told)
  del runs['old']
  compare._check_same(runs, attribute, told)
