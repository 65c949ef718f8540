"""The range of values: found, mapped and undone."""

import jax
import numpy as np
import pytest

from configs import default
from vaegan_jax.data import pixels, values
from vaegan_jax.errors import UserError
from vaegan_jax.setup.data import settle_range


class Examples:
  def __init__(self, array):
    self.array, self.dtype = array, array.dtype

  def __len__(self):
    return len(self.array)

  def __getitem__(self, indices):
    return self.array[indices]


def find(array, value_range):
  return values.find_range(value_range, Examples(np.asarray(array)))


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


def test_a_few_evenly_chosen_examples_are_looked_at(monkeypatch):
  monkeypatch.setattr(values, '_NUM_VALUES', 1000)
  (low, high), told = find(ramp(), 'percentiles')
  assert 'of 1,000 sampled values' in told
  assert low < 1000 and high > 55_000
