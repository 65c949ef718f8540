"""Grids of images, pixel by pixel.

Axes: N images, H height, W width, C channels.
"""

import math
from collections.abc import Sequence

import numpy as np

_WHITE = (255, 255, 255)


def to_uint8(images: np.ndarray) -> np.ndarray:
  """Converts images to RGB.

  Values outside [-1, 1] are clipped, NaN is black, alpha is over white.

  Args:
    images: [..., H, W, C] float in [-1, 1]: 1 grey, 2 grey and alpha, 3 RGB,
      4 RGBA. Images with more channels are shown by their first, as grey.

  Returns:
    [..., H, W, 3] uint8.
  """
  images = np.nan_to_num(np.asarray(images, np.float32), nan=-1.0)
  unit = (np.clip(images, -1, 1) + 1) / 2
  channels = unit.shape[-1]
  color = unit[..., :3] if channels in (3, 4) else unit[..., :1]
  if channels in (2, 4):
    alpha = unit[..., -1:]
    color = color * alpha + (1 - alpha)
  pixels = np.round(color * 255).astype(np.uint8)
  return np.broadcast_to(pixels, (*pixels.shape[:-1], 3))


def choose_bands(images: np.ndarray, bands: Sequence[int]) -> np.ndarray:
  """Selects the shown bands of images [..., C]; (): all of them."""
  return images[..., list(bands)] if bands else images


def image_grid(
  rows: Sequence[np.ndarray], *, padding: int = 2, scale: int = 1
) -> np.ndarray:
  """Arranges images in rows, on white.

  Args:
    rows: a list of [N, H, W, C] float in [-1, 1]. N and C may differ between
      rows, H and W may not.
    padding: pixels between images and around them.
    scale: enlargement of each image, without smoothing.

  Returns:
    [H', W', 3] uint8.

  Raises:
    ValueError: there is no row, or the images differ in size.
  """
  rows = [to_uint8(row) for row in rows]
  sizes = {row.shape[1:3] for row in rows}
  if len(sizes) != 1 or any(row.ndim != 4 for row in rows):
    shapes = [row.shape for row in rows]
    raise ValueError(
      f'a grid needs rows [N, H, W, C] of one image size, got {shapes}'
    )
  height, width = (side * scale + padding for side in sizes.pop())
  columns = max(len(row) for row in rows)
  grid = np.full(
    (len(rows) * height + padding, columns * width + padding, 3),
    _WHITE,
    np.uint8,
  )
  for i, row in enumerate(rows):
    for j, image in enumerate(row):
      tile = image.repeat(scale, axis=0).repeat(scale, axis=1)
      top, left = i * height + padding, j * width + padding
      grid[top : top + len(tile), left : left + tile.shape[1]] = tile
  return grid


def reconstruction_figure(
  x: np.ndarray, x_recon: np.ndarray, *, columns: int = 8, scale: int = 1
) -> np.ndarray:
  """Arranges originals [N, H, W, C], and under each its reconstruction.

  There are `columns` images in a row, each enlarged by `scale`; see
  `image_grid`.
  """
  rows = []
  for start in range(0, len(x), columns):
    shown = slice(start, start + columns)
    rows += [x[shown], x_recon[shown]]
  return image_grid(rows, scale=scale)


def sample_figure(samples: np.ndarray, *, scale: int = 1) -> np.ndarray:
  """Arranges samples [N, H, W, C] in a grid that is nearly square."""
  columns = math.ceil(math.sqrt(len(samples)))
  rows = [
    samples[start : start + columns]
    for start in range(0, len(samples), max(columns, 1))
  ]
  return image_grid(rows, scale=scale)
