"""Fixtures of tests of data."""

import pytest


@pytest.fixture
def folder(tmp_path):
  """An empty folder for files, apart from that of what is made of them."""
  (tmp_path / 'files').mkdir()
  return tmp_path / 'files'
