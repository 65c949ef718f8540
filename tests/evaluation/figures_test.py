"""Figures: pixels where they belong, for any sizes, and tables that read."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from vaegan_jax.evaluation import figures, plots, tables

_SMALL = st.integers(1, 4)


def _grey(value: float, *shape: int) -> np.ndarray:
  return np.full(shape, value, np.float32)


def test_to_uint8_covers_the_range_and_survives_what_is_outside():
  values = np.array([-1, 0, 1, -9, 9, np.nan, np.inf, -np.inf], np.float32)
  pixels = figures.to_uint8(values.reshape(1, 8, 1))
  assert pixels.shape == (1, 8, 3) and pixels.dtype == np.uint8
  expected = [0, 128, 255, 0, 255, 0, 255, 0]
  np.testing.assert_array_equal(pixels[0].T, [expected] * 3)


def test_chosen_bands_are_red_green_and_blue_or_grey():
  images = np.arange(2 * 3 * 13).reshape(2, 3, 13)
  shown = figures.choose_bands(images, (12, 0, 3))
  np.testing.assert_array_equal(shown[0, 0], [12, 0, 3])
  assert figures.choose_bands(images, (7,)).shape == (2, 3, 1)
  assert figures.choose_bands(images, ()) is images


def test_every_byte_comes_back():
  levels = np.arange(256, dtype=np.uint8)
  images = (levels / np.float32(127.5) - 1).reshape(16, 16, 1)
  np.testing.assert_array_equal(
    figures.to_uint8(images)[..., 0].ravel(), levels
  )


def test_alpha_is_laid_over_white():
  clear, solid = [0.5, -1, -0.5, -1], [1, -1, -1, 1]
  rgba = figures.to_uint8(np.array([[clear, solid]], np.float32))
  np.testing.assert_array_equal(rgba, [[[255, 255, 255], [255, 0, 0]]])
  grey_alpha = np.array([[[-1, -1], [-1, 1]]], np.float32)
  np.testing.assert_array_equal(
    figures.to_uint8(grey_alpha), [[[255] * 3, [0] * 3]]
  )


def test_many_channels_show_the_first_as_grey():
  images = np.stack([_grey(-1, 2, 2), *[_grey(1, 2, 2)] * 5], axis=-1)
  assert not figures.to_uint8(images).any()


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(
  counts=st.lists(st.integers(0, 4), min_size=1, max_size=3),
  height=_SMALL,
  width=_SMALL,
  channels=st.integers(1, 6),
  padding=st.integers(0, 3),
  scale=st.integers(1, 3),
)
def test_grid_holds_every_image_in_its_place(
  counts, height, width, channels, padding, scale
):
  rng = np.random.default_rng(0)
  rows = [rng.uniform(-1, 1, (n, height, width, channels)) for n in counts]
  grid = figures.image_grid(rows, padding=padding, scale=scale)
  pitch_y, pitch_x = height * scale + padding, width * scale + padding
  assert grid.dtype == np.uint8
  assert grid.shape == (
    len(rows) * pitch_y + padding,
    max(counts) * pitch_x + padding,
    3,
  )
  covered = np.zeros(grid.shape[:2], bool)
  for i, row in enumerate(rows):
    for j, image in enumerate(row):
      top, left = padding + i * pitch_y, padding + j * pitch_x
      place = np.s_[top : top + height * scale, left : left + width * scale]
      for dy in range(scale):
        for dx in range(scale):
          np.testing.assert_array_equal(
            grid[place][dy::scale, dx::scale], figures.to_uint8(image)
          )
      covered[place] = True
  assert (grid[~covered] == 255).all()


@pytest.mark.parametrize(
  'rows',
  [[], [np.zeros((2, 4, 4, 3)), np.zeros((2, 4, 5, 3))], [np.zeros((4, 4, 3))]],
)
def test_grid_refuses_rows_that_do_not_fit(rows):
  with pytest.raises(ValueError, match='rows'):
    figures.image_grid(rows)


def test_reconstructions_stand_under_their_originals():
  x, x_recon = _grey(-1, 5, 4, 4, 1), _grey(0, 5, 4, 4, 1)
  figure = figures.reconstruction_figure(x, x_recon, columns=3)
  assert figure.shape == (4 * 6 + 2, 3 * 6 + 2, 3)
  np.testing.assert_array_equal(figure[4::6, 4, 0], [0, 128, 0, 128])
  np.testing.assert_array_equal(figure[4::6, 16, 0], [0, 128, 255, 255])


@pytest.mark.parametrize(
  ('count', 'rows', 'columns'), [(1, 1, 1), (5, 2, 3), (16, 4, 4)]
)
def test_samples_make_a_square(count, rows, columns):
  figure = figures.sample_figure(_grey(0, count, 4, 4, 3))
  assert figure.shape == (rows * 6 + 2, columns * 6 + 2, 3)


def _comparison(count=8, side=64, results=None):
  rng = np.random.default_rng(0)
  rows = {
    label: rng.uniform(-1, 1, (count, side, side, 1))
    for label in ('originals', 'mse', 'geometric')
  }
  return rows, plots.comparison_figure(rows, results)


def test_comparison_shows_every_image_enlarged_beside_its_label():
  rows, figure = _comparison()
  assert 1000 <= figure.shape[1] <= 1400
  # 64 pixels fit twice, with 4 between two images and 24 around.
  tiles = figure[24 + 4 :, -24 - (8 * 132 - 4) : -24]
  for i, images in enumerate(rows.values()):
    for j, image in enumerate(images):
      tile = tiles[i * 132 : i * 132 + 128, j * 132 : j * 132 + 128]
      np.testing.assert_array_equal(tile[::2, ::2], figures.to_uint8(image))
    labels = figure[28 + i * 132 : 156 + i * 132, 24:120]
    assert (labels < 128).any()


def test_comparison_appends_the_table_beneath():
  results = {'mse': {'psnr': 21.4}, 'geometric': {'psnr': None, 'x': 1.0}}
  _, plain = _comparison()
  _, figure = _comparison(results=results)
  np.testing.assert_array_equal(
    plain[:-24], figure[: len(plain) - 24, : plain.shape[1]]
  )
  beneath = figure[len(plain) :]
  assert len(beneath) > 3 * 30 and (beneath < 128).any()


@pytest.mark.parametrize(('count', 'side'), [(4, 1), (1, 300), (40, 64)])
def test_comparison_of_any_size(count, side):
  many = {f'metric {i}': 0.1234 for i in range(9)}
  rows, figure = _comparison(count, side, {'a rather long label': many})
  assert figure.shape[1] > count * side
  assert (figure[:, -20:] == 255).all()
  assert len(rows) == 3


def test_markdown_table_rounds_and_marks_what_is_missing():
  table = tables.markdown_table(
    {
      'mse': {'psnr': 21.447, 'ssim': 0.68812, 'detail': 0.071},
      'geometric': {'psnr': None, 'ssim': float('nan'), 'fid': 12.345},
    }
  )
  assert table.splitlines() == [
    '|  | PSNR (dB) | SSIM | Detail | fid |',
    '| --- | ---: | ---: | ---: | ---: |',
    '| mse | 21.4 | 0.688 | 0.071 | — |',
    '| geometric | — | — | — | 12.3 |',
  ]


def test_a_spread_has_a_decimal_more_and_no_deviation_of_one_run():
  table = tables.markdown_table(
    {
      'mse': {'runs': 3, 'psnr': tables.Spread(21.449, 0.051)},
      'geometric': {'runs': 1, 'psnr': tables.Spread(20.0, None)},
    }
  )
  assert table.splitlines()[2:] == [
    '| mse | 3 | 21.45 ± 0.05 |',
    '| geometric | 1 | 20.00 |',
  ]
