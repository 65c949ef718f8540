"""Data that TFDS has prepared as tfrecord is read as it is, all of it."""

import numpy as np
import pytest

from vaegan_jax.data import datasets, drawn, images
from vaegan_jax.errors import UserError


def _load(builder, split, **options):
  return images.load_images(
    builder, split, sides=(96, 96), channels=3, **options
  )


@pytest.fixture(scope='module')
def builders(tmp_path_factory):
  """The same drawn faces, prepared by us and by TFDS as it does by default."""
  with pytest.MonkeyPatch.context() as patch:
    counts = (('train', 12), ('test', 3))
    patch.setattr(drawn.DrawnFaces, 'num_images', counts)
    ours = tmp_path_factory.mktemp('ours')
    theirs = tmp_path_factory.mktemp('theirs')
    drawn.DrawnFaces(data_dir=str(theirs)).download_and_prepare()
    return [
      datasets.create_builder('drawn_faces', data_dir=str(data_dir))
      for data_dir in (ours, theirs)
    ]


@pytest.mark.parametrize(
  'split', ('train', 'test', 'train[25%:75%]', 'test+train[:2]')
)
def test_they_are_the_same_dataset(builders, split):
  ours, theirs = (_load(b, split, cache_images=False) for b in builders)
  assert builders[1].info.file_format.value == 'tfrecord'
  assert len(ours) == len(theirs)
  assert ours.fingerprint == theirs.fingerprint
  indices = np.arange(len(ours))[::-1]
  np.testing.assert_array_equal(ours[indices], theirs[indices])
  np.testing.assert_array_equal(
    _load(builders[1], split)[indices], ours[indices]
  )


@pytest.mark.parametrize('split', ('no', 'train[', 'train[:0]'))
def test_an_unknown_split_is_a_users_error(builders, split):
  with pytest.raises(UserError, match=r"it has the splits 'train', 'test'"):
    _load(builders[1], split)


@pytest.mark.parametrize('place', ('length', 'record', 'end'))
def test_damage_is_a_users_error(builders, place):
  (file,) = builders[1].data_path.glob('*-test.tfrecord*')
  whole = file.read_bytes()
  try:
    damaged = bytearray(whole)
    if place == 'end':
      del damaged[-9:]
    else:
      damaged[2 if place == 'length' else len(whole) // 2] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(UserError, match='is damaged near record'):
      _load(builders[1], 'test', cache_images=False)[np.arange(3)]
  finally:
    file.write_bytes(whole)
