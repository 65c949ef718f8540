"""Examples of one to three axes of space: files, drawings, what is cut."""

import numpy as np
import pytest

from tests.data.contents import tiff
from tests.data.opening import load, open_dataset
from vaegan_jax.data import array_shapes, arrays
from vaegan_jax.errors import UserError

SIDES = {1: (6,), 2: (4, 6), 3: (4, 6, 2)}


@pytest.mark.parametrize('axes', SIDES)
@pytest.mark.parametrize('where', ['last', 'first', 'nowhere'])
def test_the_middle_is_cut_along_every_axis(axes, where):
  sides = SIDES[axes]
  whole = tuple(side + 4 for side in sides)
  channels = 1 if where == 'nowhere' else 3
  array = np.arange(np.prod(whole) * channels).reshape(*whole, channels)
  given = array if where == 'last' else np.moveaxis(array, -1, 0)
  given = given[0] if where == 'nowhere' else given
  cut = arrays.to_example(given, channels=channels, shape=sides)
  np.testing.assert_array_equal(cut, array[(slice(2, -2),) * axes])


def test_the_pages_of_a_tiff_are_the_depth_of_a_volume():
  volume = np.random.default_rng(0).integers(0, 99, (5, 7, 6)).astype(np.uint8)
  for axes in ('ZYX', 'QYX'):
    data = tiff(volume, photometric='minisblack', metadata={'axes': axes})
    example = arrays.decode_array(data, channels=1, shape=(5, 7, 6))
    np.testing.assert_array_equal(example[..., 0], volume)
    # And, where there are two axes of space, bands.
    example = arrays.decode_array(data, channels=5, shape=(7, 6))
    np.testing.assert_array_equal(example, np.moveaxis(volume, 0, -1))


@pytest.mark.parametrize(
  ('shape', 'channels', 'sides', 'told'),
  [
    ((8192,), 1, (64, 64), r'data\.shape="\(8192,\)"'),
    ((8192, 2), 2, (64, 64), r'data\.shape="\(8192,\)"'),
    ((8192, 2), 1, (8192,), r'data\.channels=2'),
    ((32, 32, 24), 1, (32, 32, 32), r'data\.shape="\(32, 32, 24\)"'),
    ((32, 32, 24), 1, (8192,), r'data\.shape="\(32, 32, 24\)"'),
    ((3, 32, 32, 24), 3, (32, 32), r'data\.shape="\(32, 32, 24\)"'),
  ],
)
def test_what_does_not_fit_says_what_would(shape, channels, sides, told):
  with pytest.raises(UserError, match=told):
    array_shapes.check_shape(shape, channels=channels, shape=sides)


@pytest.mark.parametrize(
  ('shapes', 'axis'),
  [
    ([(40, 9, 8)], 0),
    ([(9, 8, 40)], 2),
    ([(40, 9, 8, 3)], 0),
    ([(40, 9, 8, 3), (30, 9, 8, 3)], 0),
    ([(40, 9, 8, 3), (40, 9, 8, 3)], 0),
  ],
)
def test_files_of_many_examples_name_the_source_that_reads_them(
  shapes, axis, tmp_path
):
  (tmp_path / 'a').mkdir()
  for index, shape in enumerate(shapes):
    array = np.full(shape, index, np.uint8)
    np.save(tmp_path / 'a' / f'{index}.npy', array)
  channels = 3 if len(shapes[0]) == 4 else 1
  fields = {'path': tmp_path / 'a', 'shape': (9, 8), 'channels': channels}
  told = f'40 examples along axis {axis}, --config.data.name=array_file'
  if axis:
    told += f' --config.data.example_axis={axis}'
  with pytest.raises(UserError, match=told):
    dataset = open_dataset('array_folder', tmp_path / 'data', **fields)
    load(dataset, shape=(9, 8), channels=channels)
  if len(shapes) == 1:  # As the message says.
    dataset = open_dataset(
      'array_file', tmp_path / 'data', **fields, example_axis=axis
    )
    assert sum(dataset.counts.values()) == 40
