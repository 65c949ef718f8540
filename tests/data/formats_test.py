"""A sample of the matrix of formats, which a command reads whole."""

import importlib.util

import pytest

from tests.data import formats


@pytest.mark.parametrize('package', formats.WRITERS)
def test_a_sample_of_each_tool_is_exact_or_refused(package):
  if not importlib.util.find_spec(package):
    pytest.skip(f'no {package}')
  for case in list(formats.WRITERS[package]())[::7]:
    assert formats.read(case)[0] != 'wrong', case.row
    if case.is_image:
      assert formats.read_as_image(case)[0] != 'wrong', case.row


def test_a_wrong_value_is_noticed():
  case, *_ = formats.of_numpy()
  assert formats.read(case) == ('exact', '')
  other = case.want.copy()
  other.flat[3] += 1
  assert formats.read(case._replace(want=other)) == ('wrong', 'other values')
  cut = case._replace(data=case.data[:-9])
  assert formats.read(cut)[0] == 'wrong'
