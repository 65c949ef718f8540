"""Files whole or not at all, and folders that cannot be written."""

import errno
import os
import tempfile

import numpy as np
import pytest
from PIL import Image

from vaegan_jax.errors import UserError
from vaegan_jax.runtime import files


def test_an_unwritable_workdir_is_reported_early(tmp_path):
  (tmp_path / 'file').touch()
  files.check_writable(tmp_path / 'a' / 'b')
  assert not (tmp_path / 'a').exists()
  for path in (tmp_path / 'file', tmp_path / 'file' / 'run'):
    with pytest.raises(UserError, match='is not a folder'):
      files.check_writable(path)
  with pytest.raises(UserError, match=f'because {tmp_path}/file is not a'):
    files.check_writable(tmp_path, 'any', 'file')


def test_a_disk_with_wrong_permission_bits_is_reported_early(
  tmp_path, monkeypatch
):
  def refuse(dir):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))

  monkeypatch.setattr(tempfile, 'TemporaryFile', refuse)
  with pytest.raises(UserError, match=r'\(Read-only file system\): fix'):
    files.check_writable(tmp_path)


def test_save_png_round_trips_and_leaves_nothing_else(tmp_path):
  image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
  path = tmp_path / 'a' / 'b' / 'figure.png'
  for _ in range(2):  # The second replaces the first.
    files.save_png(path, image)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), image)
  assert [p.name for p in path.parent.iterdir()] == ['figure.png']


def test_several_processes_may_write_one_file_at_once(tmp_path):
  path = tmp_path / 'evaluation.json'
  with files.replacing(path) as first:
    first.write_text('first')
    files.write_text(path, 'second')  # Begins and ends meanwhile.
    assert path.read_text() == 'second'
  assert path.read_text() == 'first'
  assert [p.name for p in tmp_path.iterdir()] == ['evaluation.json']


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
  path = tmp_path / 'figure.png'
  path.write_bytes(b'old')

  def fail(self, file, **_):
    file.write(b'half')
    raise OSError('disk full')

  monkeypatch.setattr(Image.Image, 'save', fail)
  with pytest.raises(OSError, match='disk full'):
    files.save_png(path, np.zeros((2, 2, 3), np.uint8))
  assert [p.name for p in tmp_path.iterdir()] == ['figure.png']
  assert path.read_bytes() == b'old'
