"""Splits of folders: their names, groups, and what the user is told of them."""

import re

import numpy as np
import pytest

from tests.data.contents import write_images
from tests.data.opening import (
  everything,
  load,
  names_in,
  open_dataset,
  open_splits,
)
from vaegan_jax.data import image_files
from vaegan_jax.data.data_config import DataConfig
from vaegan_jax.errors import UserError


def some(folder, count=3, suffix='png'):
  return [f'{folder}/{i}.{suffix}' for i in range(count)]


def split(root, rules=3, group_by=''):
  files = image_files.ImageFiles(str(root), rules, group_by)
  return files.split(files.find_damaged())


def told(root, data_dir, name='image_folder', **fields):
  """Returns the names by split, and the lines that a run prints."""
  dataset = open_dataset(name, data_dir, path=root, **fields)
  data = DataConfig(name, path=str(root), data_dir=str(data_dir), **fields)
  names = {key: names_in(dataset, key) for key in dataset.counts}
  return names, dataset.report(data)


@pytest.mark.parametrize(
  ('train', 'test'),
  [
    ('train', 'valid'),
    ('Train', 'Test'),
    ('TRAINING', 'dev'),
    ('trn', 'eval'),
    ('train2017', 'val2017'),
    ('train_images', 'test-images'),
    ('data/v1/Training', 'data/v1/testing'),
    ('cats/train/black', 'cats/Validation/black'),
  ],
)
@pytest.mark.parametrize('suffix', ('png', 'npy'))
def test_usual_names_of_folders_are_splits(train, test, suffix, tmp_path):
  members = some(train, 9, suffix), some(test, 2, suffix)
  write_images(tmp_path / 'images', [*members[0], *members[1]])
  name = 'image_folder' if suffix == 'png' else 'array_folder'
  found, lines = told(tmp_path / 'images', tmp_path / 'data', name)
  assert found == {'train': set(members[0]), 'test': set(members[1])}
  noun = 'images' if suffix == 'png' else 'arrays'
  place = train.removesuffix('/black')
  assert f"Split 'train': 9 {noun}, in {place!r}." in lines
  assert f"Split 'test': 2 {noun}, in {test.removesuffix('/black')!r}." in lines
  assert not any('splits' in line for line in lines)


def test_three_kinds_are_three_splits(tmp_path):
  root, kinds = tmp_path / 'images', ('train', 'val', 'test')
  names = [n for kind in kinds for n in some(f'dogs/{kind}', 4)]
  write_images(root, [*names, *some('cats/train'), 'notes/page.png'])
  found, lines = told(root, tmp_path / 'data', image_size=8)
  assert found['train'] == {*some('dogs/train', 4), *some('cats/train')}
  assert found['test'] == set(some('dogs/test', 4))
  assert found['validation'] == set(some('dogs/val', 4))
  assert (
    "Split 'train': 7 images, in 'cats/train' and 1 other folders." in lines
  )
  (warning,) = (line for line in lines if 'outside' in line)
  assert '1 of 16 files are outside' in warning
  assert "such as 'notes/page.png'" in warning
  fields = {'image_size': 8, 'eval_split': 'validation'}
  train, evaluated, printed = open_splits(
    'image_folder', root, tmp_path / 'data', **fields
  )
  assert (len(train), len(evaluated)) == (7, 4) and printed == lines


@pytest.mark.parametrize(
  ('names', 'warning'),
  [
    (some('train', 9), '9 of 9 files are in folders that look like splits'),
    (some('trainA') + some('testB'), '6 of 6 files are in folders that look'),
    (some('a') + some('test', 2), "2 of 5 files .*'test/0.png'"),
    (
      [f'{k}_{i}.png' for k in ('train', 'test') for i in range(4)],
      "8 of 8 files have names .*'test_0.png' and 'train_0.png'",
    ),
    (
      some('train') + some('test') + some('my_val', 2),
      "2 of 8 files are outside .*; 2 of 8 files are in .*'my_val/0.png'",
    ),
    (
      some('train') + some('test') + some('train/val'),
      r"3 of 9 files are in folders of two splits, such as 'train/val/0\.png'",
    ),
  ],
)
def test_names_that_look_like_splits_are_counted(names, warning, tmp_path):
  write_images(tmp_path / 'images', names)
  _, lines = told(tmp_path / 'images', tmp_path / 'data')
  matching = [line for line in lines if re.search(warning, line)]
  assert len(matching) == 1 and matching[0].startswith('Warning: '), lines


def test_names_of_no_split_are_no_warning(tmp_path):
  names = [
    *('a.png', 'trainer/b.png', 'contest/c.png', 'values/d.png'),
    *('Devon/e.png', 'latest_train.png', 'evaluate/f.png'),
  ]
  write_images(tmp_path / 'images', names)
  found, lines = told(tmp_path / 'images', tmp_path / 'data')
  assert {*found['train'], *found['test']} == set(names)
  assert not any('split' in line for line in lines if 'Warning' in line)
  held = len(found['test'])
  assert (
    f"Split 'test': {held} images, held out by a hash of their content."
    in lines
  )


FLAT = [f'{i:02}.png' for i in range(40)]


@pytest.mark.parametrize(
  'names', (FLAT, some('train', 20) + some('test', 5), some('b', 9) + FLAT)
)
def test_rules_3_read_plain_folders_as_rules_2(names, tmp_path):
  root = write_images(tmp_path / 'images', names)
  opened = [
    open_dataset('image_folder', tmp_path / str(r), path=root, folder_rules=r)
    for r in (2, 3)
  ]
  for key in ('train', 'test'):
    old, new = (load(dataset, key) for dataset in opened)
    assert old.fingerprint == new.fingerprint
    np.testing.assert_array_equal(everything(old), everything(new))
    assert opened[0]._names[key] == opened[1]._names[key]


# Of the version that had rules 1 and 2 alone: their runs resume.
FINGERPRINTS = {
  ('flat', 1): ('50ab1b0567def34a', 'd04146413692438c'),
  ('flat', 2): ('29719b85a8744eba', 'c72f866e88f10ce7'),
  ('usual', 1): ('dbf550f00f427e55', 'f1af6cc18d9029fb'),
  ('usual', 2): ('dbf550f00f427e55', 'f1af6cc18d9029fb'),
  ('three', 1): ('8f0b186853a2bfab', 'eda87546611d513f'),
  ('three', 2): ('8f0b186853a2bfab', 'eda87546611d513f'),
  ('capitals', 1): ('0d6ae178a8e1c2ee', '79afdd43289695dc'),
  ('capitals', 2): ('e4cf7ddbe7007829', 'e47329e06b5f2e1d'),
}
FOLDERS = {
  'flat': ('',),
  'usual': ('train/', 'val/'),
  'three': ('train/', 'val/', 'test/'),
  'capitals': ('Train/', 'Test/'),
}


@pytest.mark.parametrize('kind', FOLDERS)
def test_earlier_rules_keep_their_splits(kind, tmp_path):
  for index in range(40):
    places = FOLDERS[kind]
    path = tmp_path / kind / f'{places[index % len(places)]}{index:02}.pgm'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'P2 2 1 999 {index} 0')

  def fingerprints(rules):
    dataset = open_dataset(
      'image_folder', tmp_path, path=tmp_path / kind, folder_rules=rules
    )
    return tuple(load(dataset, key).fingerprint for key in ('train', 'test'))

  for rules in (1, 2):
    assert fingerprints(rules) == FINGERPRINTS[kind, rules]
  same = fingerprints(3) == FINGERPRINTS[kind, 2]
  assert same == (kind in ('flat', 'usual'))


def test_groups_stay_on_one_side(tmp_path):
  names = [
    f'p{i:02}/s{j}_{k}.png' for i in range(24) for j in (1, 2) for k in 'ab'
  ]
  root = write_images(tmp_path / 'images', names)
  for group_by, key in (
    ('folder', lambda name: name.partition('/')[0]),
    (r'p\d+', lambda name: name.partition('/')[0]),
    (r'p(\d+)/s(\d)', lambda name: name.partition('_')[0]),
  ):
    found = split(root, 3, group_by)
    sides = [{key(name) for name in found[side]} for side in ('train', 'test')]
    assert not sides[0] & sides[1], group_by
    assert 1 <= len(sides[1]) <= len(sides[0]) / 3
    assert {*found['train'], *found['test']} == set(names)
  # Without, slices of one patient are on both sides.
  found = split(root)
  assert {n[:3] for n in found['train']} & {n[:3] for n in found['test']}
  before = split(root, 3, 'folder')
  write_images(root, [f'a{i}/{j}.png' for i in range(20) for j in range(2)])
  after = split(root, 3, 'folder')
  for side, members in before.items():
    assert set(members) == {n for n in after[side] if n.startswith('p')}


def test_groups_are_reported(tmp_path):
  names = [f'{k}/{i}.png' for k in 'abcdefgh' for i in range(3)]
  root = write_images(tmp_path / 'images', [*names, 'x.png'])
  found, lines = told(root, tmp_path / 'data', group_by='^(.)/')
  groups = {n[0] for n in found['test']}
  assert (
    f"Split 'test': {len(found['test'])} images, in {len(groups)} groups of "
    "data.group_by='^(.)/', held out." in lines
  )
  warning = "does not match 1 of 25 names, such as 'x.png'"
  assert warning in ' '.join(lines)
  root = write_images(
    tmp_path / 'folders', ['train/p1_a.png', 'train/p2_a.png', 'test/p1_b.png']
  )
  _, lines = told(root, tmp_path / 'data', group_by=r'(p\d)_')
  warning = "1 of 2 groups of data.group_by='(p\\\\d)_' are in"
  assert warning in ' '.join(lines)


@pytest.mark.parametrize(
  ('group_by', 'message'),
  [('folder', 'puts all 5 files'), ('patient', 'matches none of the 5 names')],
)
def test_groups_that_cannot_be_split_are_refused(group_by, message, tmp_path):
  root = write_images(tmp_path / 'images', some('a', 5))
  with pytest.raises(UserError, match=f'data.group_by={group_by!r} {message}'):
    image_files.ImageFiles(str(root), 3, group_by)
