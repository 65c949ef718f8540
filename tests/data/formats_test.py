"""A sample of the matrix of formats, which a command reads whole."""

import importlib.util
import itertools

import pytest

from tests.data import formats, store_formats


@pytest.mark.parametrize('package', formats.WRITERS)
def test_a_sample_of_each_tool_is_exact_or_refused(package):
  if not importlib.util.find_spec(package):
    pytest.skip(f'no {package}')
  for case in list(formats.WRITERS[package]())[::7]:
    assert formats.read(case)[0] != 'wrong', case.row
    if case.is_image:
      assert formats.read_as_image(case)[0] != 'wrong', case.row


@pytest.mark.parametrize('package', store_formats.WRITERS)
def test_a_sample_of_each_store_is_exact(package, tmp_path):
  if not importlib.util.find_spec(package):
    pytest.skip(f'no {package}')
  stores = store_formats.WRITERS[package](tmp_path / 'files')
  for number, store in enumerate(itertools.islice(stores, 0, None, 15)):
    found = store_formats.read(store, tmp_path / str(number))
    assert found == ('exact', ''), store.row
  other = store._replace(want=store.want[1:])
  assert store_formats.read(other, tmp_path / 'other')[0] == 'wrong'


def test_a_wrong_value_is_noticed():
  case, *_ = formats.of_numpy()
  assert formats.read(case) == ('exact', '')
  other = case.want.copy()
  other.flat[3] += 1
  assert formats.read(case._replace(want=other)) == ('wrong', 'other values')
  cut = case._replace(data=case.data[:-9])
  assert formats.read(cut)[0] == 'wrong'
  # A reason that is not the true one.
  assert formats.read(cut._replace(want=None))[0] == 'wrong'
