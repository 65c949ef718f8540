"""What the device does to pixels."""

import jax
import numpy as np

from vaegan_jax.data import pixels


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
