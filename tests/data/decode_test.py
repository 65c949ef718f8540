"""Decoding: every mode of pixels, cropped and resized.

`malformed_images_test.py` has turned images and animations.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.data.contents import encode
from vaegan_jax.data import decode

_RED, _BLUE, _WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def _decode(image, channels=3, size=None, **options):
  data = image if isinstance(image, bytes) else encode(image)
  return decode.decode_image(
    data, channels=channels, image_size=size or 4, **options
  )


def _assert_all(pixels, value):
  assert pixels.dtype == np.uint8
  np.testing.assert_array_equal(pixels, np.broadcast_to(value, pixels.shape))


@pytest.mark.parametrize(
  ('channels', 'value'),
  [(1, (76,)), (2, (76, 255)), (3, _RED), (4, (*_RED, 255))],
)
@pytest.mark.parametrize('mode', ['RGB', 'RGBA', 'P'])
def test_red_in_any_mode_becomes_the_channels_asked_for(mode, channels, value):
  image = Image.new('RGB', (4, 4), _RED).convert(mode)
  _assert_all(_decode(image, channels), value)


@pytest.mark.parametrize(
  ('channels', 'value'),
  [(1, (90,)), (2, (90, 255)), (3, (90,) * 3), (4, (90, 90, 90, 255))],
)
def test_grey_is_repeated(channels, value):
  _assert_all(_decode(Image.new('L', (4, 4), 90), channels), value)


def test_one_bit_images_are_black_and_white():
  _assert_all(_decode(Image.new('1', (4, 4), 1), 1), 255)
  _assert_all(_decode(Image.new('1', (4, 4), 0), 1), 0)


@pytest.mark.parametrize('file_format', ['PNG', 'TIFF', 'PPM'])
@pytest.mark.parametrize(
  ('value', 'expected'),
  [(0, 0), (255, 0), (256, 1), (40000, 156), (65535, 255)],
)
def test_sixteen_bits_are_scaled_not_clipped(file_format, value, expected):
  image = Image.fromarray(np.full((4, 4), value, np.uint16))
  _assert_all(_decode(encode(image, file_format), 3), expected)


def test_that_half_of_16_bits_is_lost_is_told(monkeypatch):
  told = []
  monkeypatch.setattr(
    decode.logging, 'log_first_n', lambda *args: told.append(args[1])
  )
  _decode(Image.fromarray(np.full((4, 4), 200, np.uint8)), 1)
  assert not told
  _decode(Image.fromarray(np.full((4, 4), 4095, np.uint16)), 1)
  assert len(told) == 1 and "'array_folder' keeps them all" in told[0]


def test_cmyk():
  data = encode(Image.new('CMYK', (4, 4), (0, 255, 255, 0)), 'TIFF')
  _assert_all(_decode(data, 3), _RED)


@pytest.mark.parametrize('channels', [1, 2, 3, 4])
def test_white_in_lab(channels):
  data = encode(Image.new('LAB', (4, 4), (255, 128, 128)), 'TIFF')
  pixels = _decode(data, channels)
  assert pixels.shape == (4, 4, channels)
  assert pixels.min() >= 254  # Colour management rounds.


@pytest.mark.parametrize('mode', ['RGBA', 'LA', 'P'])
def test_transparent_pixels_show_white_without_an_alpha_channel(mode):
  image = Image.new('RGBA', (4, 4), (0, 0, 0, 0))
  if mode == 'P':
    image = Image.new('P', (4, 4), 7)
    image.putpalette(bytes(768))
    data = encode(image, transparency=7)
  else:
    data = encode(image.convert(mode))
  _assert_all(_decode(data, 3), 255)
  _assert_all(_decode(data, 1), 255)
  _assert_all(_decode(data, 4)[..., 3], 0)
  _assert_all(_decode(data, 2)[..., 1], 0)


def test_half_transparent_pixels_are_mixed_with_white():
  image = Image.new('RGBA', (4, 4), (255, 0, 0, 51))
  _assert_all(_decode(image, 3), (255, 204, 204))


def _rings():
  """A red square of 4, in a blue one of 8, in white: 12 by 20 pixels."""
  image = Image.new('RGB', (20, 12), _WHITE)
  image.paste(_BLUE, (6, 2, 14, 10))
  image.paste(_RED, (8, 4, 12, 8))
  return image


def test_the_crop_is_the_middle_of_the_file():
  _assert_all(_decode(_rings(), center_crop=4), _RED)
  pixels = _decode(_rings(), size=8, center_crop=8)
  _assert_all(pixels[0], _BLUE)
  _assert_all(pixels[2:6, 2:6], _RED)


def test_no_crop_and_too_large_a_crop_take_the_largest_square():
  whole = _decode(_rings(), size=12)
  _assert_all(whole[0], _WHITE)
  _assert_all(whole[2:4, 2:10], _BLUE)
  np.testing.assert_array_equal(
    whole, _decode(_rings(), size=12, center_crop=99)
  )


def test_shrinking_averages():
  checks = np.indices((64, 64)).sum(0) % 2 * 255
  pixels = _decode(Image.fromarray(checks.astype(np.uint8)), 1, 8)
  assert np.abs(pixels.astype(int) - 128).max() <= 8


def test_enlarging_interpolates_and_keeps_what_is_flat():
  _assert_all(_decode(Image.new('RGB', (1, 1), _RED), size=40), _RED)
  halves = np.repeat(np.array([[50, 200]], np.uint8), 4, axis=0).repeat(2, 1)
  row, *others = _decode(Image.fromarray(halves), 1, 16).astype(int)
  _assert_all(np.uint8(others), np.uint8(row))
  np.testing.assert_allclose(row[[0, -1], 0], [50, 200], atol=10)
  assert (np.diff(row[5:11, 0]) > 0).all()  # A ramp where the step was.


@settings(max_examples=50, deadline=None)
@given(
  width=st.integers(1, 40),
  height=st.integers(1, 40),
  size=st.integers(1, 40),
  crop=st.integers(0, 50),
  channels=st.integers(1, 4),
  mode=st.sampled_from(['1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'I;16']),
)
def test_any_image_decodes_to_the_size_asked_for(
  width, height, size, crop, channels, mode
):
  data = encode(Image.new(mode, (width, height), 1))
  pixels = _decode(data, channels, size, center_crop=crop)
  assert pixels.shape == (size, size, channels)
  assert pixels.dtype == np.uint8
