"""Of a folder that grows one prepared copy is kept, and no other is touched."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from vaegan_jax.data import datasets, prepared_copies

_ROOT = Path(__file__).parents[2]


def _add(folder, count):
  folder.mkdir(exist_ok=True)
  first = len(list(folder.iterdir()))
  for index in range(first, first + count):
    Image.new('RGB', (4, 4), (index, 0, 0)).save(folder / f'{index}.png')


def _copies(tmp_path):
  folder = tmp_path / 'data' / 'image_folder'
  return {path.name for path in folder.iterdir() if path.is_dir()}


@pytest.fixture
def open_folder(tmp_path):
  """Returns a function that opens a folder as a new process would."""

  def open_folder(folder, **options):
    builder = datasets.create_builder(
      'image_folder',
      path=str(folder),
      data_dir=str(tmp_path / 'data'),
      **options,
    )
    return builder.data_path.parents[1].name

  def leave():
    for descriptor in prepared_copies._held.values():
      os.close(descriptor)
    prepared_copies._held.clear()

  open_folder.leave = leave
  yield open_folder
  leave()


def test_one_copy_is_kept_of_a_folder_that_grows(open_folder, tmp_path, capsys):
  for _ in range(3):
    _add(tmp_path / 'images', 12)
    copy = open_folder(tmp_path / 'images')
    open_folder.leave()
    assert _copies(tmp_path) == {copy}
  out = capsys.readouterr().out
  assert out.count('prepared of an earlier state of the folder') == 2
  assert open_folder(tmp_path / 'images') == copy
  assert len(list((tmp_path / 'data' / 'image_folder').iterdir())) == 2


def test_what_another_process_uses_is_kept_until_it_ends(open_folder, tmp_path):
  _add(tmp_path / 'images', 12)
  code = (
    'import sys\n'
    'from vaegan_jax.data import datasets\n'
    'datasets.create_builder(\n'
    '  "image_folder", path=sys.argv[1], data_dir=sys.argv[2])\n'
    'print("opened", flush=True)\n'
    'sys.stdin.read()\n'
  )
  command = [sys.executable, '-c', code]
  command += [str(tmp_path / 'images'), str(tmp_path / 'data')]
  with subprocess.Popen(
    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT
  ) as process:
    assert any(line == 'opened\n' for line in process.stdout)
    (before,) = _copies(tmp_path)
    _add(tmp_path / 'images', 12)
    after = open_folder(tmp_path / 'images')
    assert _copies(tmp_path) == {before, after}
    process.kill()  # However it dies.
  open_folder(tmp_path / 'images')
  assert _copies(tmp_path) == {after}


def test_what_is_of_another_folder_or_version_is_kept(open_folder, tmp_path):
  _add(tmp_path / 'images', 12)
  _add(tmp_path / 'other', 15)
  kept = {open_folder(tmp_path / 'other')}
  kept.add(open_folder(tmp_path / 'images', folder_rules=1))
  # A copy with its times is in the same state, and so has the same copy.
  shutil.copytree(tmp_path / 'images', tmp_path / 'twin')
  shared = open_folder(tmp_path / 'images')
  assert open_folder(tmp_path / 'twin') == shared
  # The first version has left no note.
  old = tmp_path / 'data' / 'image_folder' / '0123456789abcdef'
  old.mkdir()
  # In a container, another folder is at the same path.
  elsewhere = old.with_name('fedcba9876543210')
  elsewhere.mkdir()
  source = json.loads(prepared_copies.describe_source(tmp_path / 'images', 2))
  note = json.dumps(source | {'inode': source['inode'] + 1}, sort_keys=True)
  elsewhere.with_suffix('.json').write_text(note + '\n')
  open_folder.leave()

  _add(tmp_path / 'images', 12)
  after = open_folder(tmp_path / 'images')
  assert _copies(tmp_path) == kept | {shared, after, old.name, elsewhere.name}


def test_a_removal_that_was_killed_is_ended(open_folder, tmp_path):
  _add(tmp_path / 'images', 12)
  before = open_folder(tmp_path / 'images')
  open_folder.leave()
  copy = tmp_path / 'data' / 'image_folder' / before
  copy.rename(copy.with_suffix('.removed'))
  _add(tmp_path / 'images', 12)
  after = open_folder(tmp_path / 'images')
  assert _copies(tmp_path) == {after}
