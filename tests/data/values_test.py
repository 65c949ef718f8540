"""Values on the device: their range is found, mapped and undone."""

import jax
import numpy as np
import pytest

from configs import default
from tests.data.opening import Examples
from vaegan_jax.data import pixels, values
from vaegan_jax.errors import UserError
from vaegan_jax.setup.data import settle_range


def find(array, value_range, **options):
  return values.find_range(value_range, Examples(np.asarray(array)), **options)


def ramp(dtype=np.uint16, low=0, high=65535):
  return np.linspace(low, high, 10_000).astype(dtype).reshape(100, 10, 10, 1)


def test_photographs_are_mapped_as_ever():
  config = default.get_config()
  assert settle_range(config, Examples(ramp(np.uint8, 0, 255))) is config
  every = np.arange(256, dtype=np.uint8)
  want = np.asarray(jax.jit(lambda x: x.astype(np.float32) / 127.5 - 1)(every))
  np.testing.assert_array_equal(jax.jit(pixels.to_float)(every), want)
  for value_range in ('dtype', (0.0, 255.0)):
    x = jax.jit(lambda x, r=value_range: pixels.to_float(x, r))(every)
    np.testing.assert_allclose(x, want, atol=2e-7)
    np.testing.assert_allclose(
      pixels.to_values(x, value_range), every, atol=2e-5
    )


@pytest.mark.parametrize(
  ('dtype', 'limits'),
  [
    (np.uint8, (0, 255)),
    (np.uint16, (0, 65535)),
    (np.int16, (-32768, 32767)),
    (np.int8, (-128, 127)),
  ],
)
def test_a_dtype_has_its_limits(dtype, limits):
  array = ramp(dtype, *limits)
  found, told = find(array, 'dtype')
  assert found == limits
  assert '0.00% are outside' in told and 'they fill' not in told
  x = pixels.to_float(array, found)
  assert float(x.min()) == -1 and float(x.max()) == 1
  np.testing.assert_allclose(pixels.to_values(x, found), array, atol=0.01)


def test_12_bits_in_16_are_told():
  found, told = find(ramp(high=4095), 'dtype')
  assert found == (0, 65535)
  assert '6.2% of the range' in told
  assert '--config.data.value_range="(0, 4095)"' in told
  found, told = find(ramp(high=4095), (0, 4095))
  assert found == (0, 4095) and 'they fill' not in told
  _, told = find(ramp(high=0), 'dtype')  # Silence has no range of its own.
  assert 'value_range=' not in told


def test_percentiles_leave_out_what_is_rare():
  array = ramp(np.float32, 1e-6, 2e-6)
  array[3, 2, 1] = 1.0  # One hot pixel.
  (low, high), told = find(array, 'percentiles')
  assert low == pytest.approx(1.001e-6, rel=1e-3)
  assert high == pytest.approx(1.999e-6, rel=1e-3)
  assert '0.20% are outside and clipped' in told
  x = np.asarray(pixels.to_float(array, (low, high)))
  assert x.min() == -1 and x.max() == 1
  inside = (array > low) & (array < high)
  undone = pixels.to_values(x, (low, high))
  np.testing.assert_allclose(undone[inside], array[inside], rtol=1e-6)


def test_values_that_are_nearly_all_the_same_keep_the_others():
  array = np.zeros((100, 10, 10, 1), np.float32)
  array[5, 5, 5] = 3.0
  assert find(array, 'percentiles')[0] == (0, 3)


@pytest.mark.parametrize(
  ('array', 'value_range', 'told'),
  [
    (ramp(), (0, 4095), r'\(0, 4095\).*93\.\d% of the values'),
    (ramp(np.float32), 'dtype', "'dtype' is for integers, .* float32"),
    (np.ones((9, 2, 2, 1)), 'percentiles', 'training split are 1: name other'),
    (ramp(np.float32, 1e6, 1e6 + 1), (1e6, 1e6 + 1), 'too narrow'),
    (ramp(np.float32, 0, 1e-35), (0, 1e-35), 'too narrow, small'),
  ],
)
def test_a_range_that_does_not_suit_is_one_sentence(array, value_range, told):
  with pytest.raises(UserError, match=told) as caught:
    find(array, value_range)
  assert 'for example' in str(caught.value) or 'such as' in str(caught.value)


def test_a_window_is_clipped_on_purpose():
  scan = ramp(np.int16, -1024, 3071)  # In Hounsfield units.
  window = (-175, 250)
  with pytest.raises(UserError, match=r'89\.\d% .*--config\.data\.clip=true'):
    find(scan, window)
  found, told = find(scan, window, clip=True)
  assert found == window and '89.57%' in told and 'Warning' not in told
  x = pixels.to_float(np.array([-1024, 37.5, 3071]), found)
  np.testing.assert_allclose(x, [-1, 0, 1], atol=1e-6)
  with pytest.raises(UserError, match='contains none of the values'):
    find(scan, (4000, 5000), clip=True)
  config = default.get_config()
  config.data.update({'name': 'array_folder', 'path': '/a', 'clip': True})
  with config.ignore_type():
    config.data.value_range = window
  assert settle_range(config, Examples(scan)).data.value_range == window


def test_what_percentiles_cut_far_beyond_the_range_is_told():
  sky = np.random.default_rng(0).normal(100, 5, (50, 40, 40, 1))
  sky = sky.astype(np.float32)
  assert 'Warning' not in find(sky, 'percentiles')[1]
  sky[7, 3, 4] = sky[7, 3, 5] = sky[9, 1, 1] = 30_000  # Stars.
  (low, high), told = find(sky, 'percentiles')
  assert high < 120
  reach = (30_000 - high) / (high - low)
  assert f'up to {reach:,.3g} times the width of the range beyond it' in told
  number = int(((sky < low) | (sky > high)).any((1, 2, 3)).sum())
  assert f'Warning: {number} of 50 sampled examples' in told
  wide = (float(sky.min()), 30_000.0)
  assert f'value_range="({wide[0]:.9g}, 30000)" keeps them' in told
  assert 'Warning' not in find(sky, wide)[1]
  assert 'Warning' not in find(sky, 'percentiles', clip=True)[1]
  assert 'Warning' in find(sky, (low, high))[1]  # As on resuming.


def test_a_symmetric_range_is_advised_for_sounds():
  time = np.arange(4000) / 4000
  hits = np.exp(-30 * time) * np.sin(300 * time)
  hits = np.stack([hits * loud for loud in np.linspace(0.2, 0.9, 20)])
  hits = hits[..., None].astype(np.float32)
  (low, high), told = find(hits, 'percentiles')
  number = int(((hits < low) | (hits > high)).any((1, 2)).sum())
  assert f'Warning: {number} of 20 sampled examples' in told
  zero = float(pixels.to_float(np.zeros(1), (low, high))[0])
  assert abs(zero) > 0.01 and f'becomes {zero:.3g}' in told
  assert '--config.data.value_range="(-1, 1)" keeps both' in told
  assert 'Warning' not in find(hits, (-1.0, 1.0))[1]
  assert (
    'value_range="(-1.5, 1.5)"'
    in find(hits / np.abs(hits).max() * np.float32(1.5), 'percentiles')[1]
  )
  shorts = (hits * 32_000).astype(np.int16)
  assert 'value_range=dtype keeps both' in find(shorts, 'percentiles')[1]


def test_a_few_evenly_chosen_examples_are_looked_at(monkeypatch):
  monkeypatch.setattr(values, '_NUM_VALUES', 1000)
  (low, high), told = find(ramp(), 'percentiles')
  assert 'of 1,000 sampled values' in told
  assert low < 1000 and high > 55_000


def test_to_float_maps_black_to_minus_one_and_white_to_one():
  floats = jax.jit(pixels.to_float)(np.array([0, 51, 255], np.uint8))
  assert floats.dtype == np.float32
  np.testing.assert_allclose(floats, [-1, -0.6, 1], atol=1e-6)


def test_random_flip_mirrors_the_chosen_images_only():
  images = np.arange(2 * 2 * 3 * 1, dtype=np.float32).reshape(2, 2, 3, 1)
  flip = np.array([False, True])
  flipped = jax.jit(pixels.random_flip)(images, flip)
  np.testing.assert_array_equal(flipped[0], images[0])
  np.testing.assert_array_equal(flipped[1], images[1, :, ::-1])
  flipped = pixels.random_flip(images, flip, 0)  # Up and down.
  np.testing.assert_array_equal(flipped[0], images[0])
  np.testing.assert_array_equal(flipped[1], images[1, ::-1])


def test_left_and_right_return_exactly_from_mid_and_side():
  rng, ends = np.random.default_rng(0), (-(2**15), 2**15 - 1)
  stereo = rng.integers(*ends, (4000, 2), np.int16, endpoint=True)
  stereo[:4] = [(a, b) for a in ends for b in ends]

  def there_and_back(stereo):
    x = pixels.to_float(stereo, ends, True)
    return x, pixels.to_values(x, ends, True)

  x, back = jax.jit(there_and_back)(stereo)
  left, right = 2 * (stereo.T.astype(np.float64) - ends[0]) / (2**16 - 1) - 1
  np.testing.assert_allclose(x[:, 0], (left + right) / 2, atol=2e-7)
  np.testing.assert_allclose(x[:, 1], (left - right) / 2, atol=2e-7)
  np.testing.assert_array_equal(np.rint(back), stereo)
