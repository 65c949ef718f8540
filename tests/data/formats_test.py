"""A sample of the matrix of formats, which a command reads whole."""

import importlib.util
import itertools

import pytest

from tests.data import formats


@pytest.mark.parametrize('package', formats.PACKAGES)
def test_a_sample_of_each_tool_is_exact_or_refused(package, tmp_path):
  if not importlib.util.find_spec(package):
    pytest.skip(f'no {package}')
  step = 7 if package in formats.FILES else 15
  cases = formats.cases(package, tmp_path)
  for case in itertools.islice(cases, 0, None, step):
    assert formats.read(case)[0] != 'wrong', case.row
    if case.want is not None:
      other = case._replace(want=case.want[1:])
  assert formats.read(other)[0] == 'wrong'


def test_a_wrong_value_is_noticed():
  case, *_ = formats.of_numpy()
  assert formats.read(case) == ('exact', '')
  other = case.want.copy()
  other.flat[3] += 1
  told = 'wrong', 'other values uint8'
  assert formats.read(case._replace(want=other)) == told
  cut = case._replace(data=case.data[:-9])
  assert formats.read(cut)[0] == 'wrong'
  # A reason that is not the true one.
  assert formats.read(cut._replace(want=None))[0] == 'wrong'
