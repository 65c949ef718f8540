"""Synthetic data sets: the same everywhere, full of fine detail, in order."""

import hashlib
import json

import jax
import numpy as np
import pytest

from tests.data.opening import everything, load, open_dataset
from vaegan_jax.data import folder, synthetic
from vaegan_jax.data.sources import (
  drawn_bands,
  drawn_faces,
  drawn_sounds,
  drawn_volumes,
)
from vaegan_jax.errors import UserError
from vaegan_jax.evaluation import metrics

# Of eight examples, in steps so coarse that no sine's last bit counts.
DIGESTS = {
  drawn_bands: 'b036fba7219f5a15',
  drawn_sounds: 'e2e8571b13fc732b',
  drawn_volumes: 'b45b2595b7c634aa',
}
# Fingerprints of the training splits that earlier versions stored by TFDS.
FINGERPRINTS = {
  'drawn_bands': '682bc96a6e2fb3f4',
  'drawn_sounds': '3cc0c70576434e50',
  'drawn_volumes': '07896be7d2a305f3',
}


def test_faces_are_the_same_on_every_machine():
  # Changes with the drawing, or with Pillow's: then raise the version.
  faces = np.stack([drawn_faces.draw_face(index) for index in range(8)])
  assert faces.shape == (8, 64, 64, 3)
  assert faces.dtype == np.uint8
  assert hashlib.sha256(faces.tobytes()).hexdigest()[:16] == 'b927f3c4393f9edd'
  face = faces[0].astype(float)
  neighbours = sum(
    np.roll(face, (dy, dx), (0, 1)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)
  )
  assert np.std(face - neighbours / 9) > 0.2 * np.std(face)


@pytest.mark.parametrize('module', DIGESTS, ids=lambda m: m.__name__[-7:])
def test_arrays_are_the_same_everywhere_and_have_detail(module):
  # Changes with the drawing: then raise the version.
  drawn = np.stack([module.draw(index) for index in range(8)])
  assert drawn.shape == (8, *module.SHAPE)
  assert not (drawn[0] == drawn[1]).all()
  span = float(drawn.max()) - float(drawn.min())
  coarse = np.round(drawn / (span / 4)).astype(np.int8)
  digest = hashlib.sha256(coarse.tobytes()).hexdigest()[:16]
  assert digest == DIGESTS[module]
  x = (drawn - float(drawn.min())) / span * 2 - 1
  fine = np.square(jax.jit(metrics.high_frequencies)(x.astype(np.float32)))
  varying = np.square(x - x.mean(axis=tuple(range(1, x.ndim)), keepdims=True))
  assert fine.sum() > 0.01 * varying.sum()  # A blur would destroy it.


@pytest.mark.parametrize('module', DIGESTS, ids=lambda m: m.__name__[-7:])
def test_they_keep_the_fingerprints_of_stored_copies(module, tmp_path):
  name = module.__name__.rpartition('.')[2]
  dataset = open_dataset(name, tmp_path)
  *space, channels = module.SHAPE
  split = load(
    dataset, 'train', shape=space, channels=channels, cache_images=False
  )
  assert split.fingerprint == FINGERPRINTS[name]
  assert len(split) == 4000
  # The order of TFDS, by the MD5 of the split and the number.
  numbers = range(4000)
  order = sorted(numbers, key=lambda i: hashlib.md5(b'train%d' % i).digest())
  found = split[np.array([0, 3999])]
  np.testing.assert_array_equal(found[0], module.draw(order[0]))
  np.testing.assert_array_equal(found[1], module.draw(order[-1]))
  assert split.dtype == found.dtype


def test_faces_have_the_size_of_a_copy_that_is_still_there(tmp_path):
  assert open_dataset('drawn_faces', tmp_path).num_bytes == 17_318_058
  old = tmp_path / 'drawn_faces' / '1.0.0'
  old.mkdir(parents=True)
  splits = [{'name': 'train', 'numBytes': '40'}, {'numBytes': '2'}]
  (old / 'dataset_info.json').write_text(json.dumps({'splits': splits}))
  assert open_dataset('drawn_faces', tmp_path).num_bytes == 42
  (old / 'dataset_info.json').write_text('{}')
  assert open_dataset('drawn_faces', tmp_path).num_bytes == 17_318_058


def test_faces_are_cropped_and_cached_like_photographs(tmp_path, monkeypatch):
  monkeypatch.setattr(synthetic, 'COUNTS', {'train': 6, 'test': 2})
  dataset = open_dataset('drawn_faces', tmp_path)
  options = {'shape': (64, 64), 'channels': 3}
  decoded = load(dataset, 'test+train', **options, cache_images=False)
  cached = load(dataset, 'test+train', **options)
  np.testing.assert_array_equal(everything(cached), everything(decoded))
  keys = [b'6', b'7']
  order = [6 + i for i in folder.tfds_order('test', keys)]
  for face, number in zip(cached[np.arange(2)], order, strict=True):
    np.testing.assert_array_equal(face, drawn_faces.draw_face(number))
  options = {'shape': (16, 16), 'channels': 1, 'center_crop': 32}
  small = load(dataset, 'test', **options)
  assert small[np.arange(2)].shape == (2, 16, 16, 1)


def test_a_shape_for_images_is_a_users_error(tmp_path):
  from vaegan_jax.data.data_config import DataConfig
  from vaegan_jax.data.split import check_examples

  dataset = open_dataset('drawn_faces', tmp_path)
  with pytest.raises(UserError, match=r'data\.shape=.*--config\.data\.image_'):
    check_examples(dataset, DataConfig('drawn_faces', shape=(64, 64)))
