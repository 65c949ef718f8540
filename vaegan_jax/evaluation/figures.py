"""Images for people: grids, comparisons with a table of numbers, PNG files.

Owns the way from float images in [-1, 1] to uint8 pictures, and how a metric is
named and rounded wherever results are shown. NumPy and Pillow only.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont


class Spread(NamedTuple):
  """A metric over several runs; no deviation of one alone."""

  mean: float
  deviation: float | None


# A set of results: label -> {metric: value}.
Results = Mapping[str, Mapping[str, float | Spread | None]]

# Metric -> how it is called and its decimals; others: own name and '.3g'.
_METRICS = {
  'runs': ('Runs', 0),
  'failures': ('Failures', 0),
  'psnr': ('PSNR (dB)', 1),
  'ssim': ('SSIM', 3),
  'low_frequency_psnr': ('8x8 means (dB)', 1),
  'log_spectral_distance': ('Log spectra (dB)', 2),
  'detail': ('Detail', 3),
  'energy': ('Energy', 2),
  'lpips': ('LPIPS', 3),
  'frechet': ('Frechet', 1),
  'frechet_floor': ('its floor', 1),
  'kl': ('KL (nats)', 1),
  'rate': ('Rate (bits)', 1),
  'perplexity': ('Perplexity', 1),
  'usage': ('Codes used', 3),
  'largest_share': ('Largest share', 3),
}
_SAMPLED = '_sampled'  # What ends the name of a metric of samples.
_MISSING = '—'

_PAPER = (255, 255, 255)
_INK = (31, 35, 40)
_GREY = (101, 109, 118)
_RULE = (208, 215, 222)

# Of the comparison, in pixels.
_WIDTH = 1200  # What the images are enlarged towards, by a whole number.
_MARGIN = 24
_LABEL_GAP = 20  # Between the labels and the images.
_TILE_GAP = 4
_FONT_SIZE = 20
_LINE = 38  # Height of a line of the table.
_COLUMN_GAP = 32  # Between two columns of the table, at least.
_DASH = 14  # Length of the dash for a missing value.


def to_uint8(images: np.ndarray) -> np.ndarray:
  """Converts images to what a screen shows.

  Values outside [-1, 1] are clipped, NaN is black, alpha is laid over white.

  Args:
    images: [..., H, W, C] float in [-1, 1]: 1 grey, 2 grey and alpha, 3 RGB,
      4 RGBA. With more channels the first is shown, as grey.

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
  """Leaves the channels that are to be shown.

  Args:
    images: [..., C].
    bands: of C, three for red, green and blue or one for grey; (): all.
  """
  return images[..., list(bands)] if bands else images


def image_grid(
  rows: Sequence[np.ndarray], *, padding: int = 2, scale: int = 1
) -> np.ndarray:
  """Lays images out in rows on white.

  Args:
    rows: a list of [N, H, W, C] float in [-1, 1]. N and C may differ between
      rows, H and W may not.
    padding: pixels between images and around them.
    scale: how many times each image is enlarged; pixels stay crisp squares.

  Returns:
    [H', W', 3] uint8.

  Raises:
    ValueError: there is no row, or an image has another size than the first.
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
    _PAPER,
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
  """Originals, and under each its reconstruction.

  Args:
    x: [N, H, W, C] float in [-1, 1].
    x_recon: [N, H, W, C] the reconstructions of `x`.
    columns: images in a row; more than that continue in the next two rows.
    scale: how many times each image is enlarged.

  Returns:
    [H', W', 3] uint8.
  """
  rows = []
  for start in range(0, len(x), columns):
    shown = slice(start, start + columns)
    rows += [x[shown], x_recon[shown]]
  return image_grid(rows, scale=scale)


def sample_figure(samples: np.ndarray, *, scale: int = 1) -> np.ndarray:
  """A grid as square as it gets.

  Args:
    samples: [N, H, W, C] float in [-1, 1].
    scale: how many times each image is enlarged.

  Returns:
    [H', W', 3] uint8.
  """
  columns = math.ceil(math.sqrt(len(samples)))
  rows = [
    samples[start : start + columns]
    for start in range(0, len(samples), max(columns, 1))
  ]
  return image_grid(rows, scale=scale)


def interpolation_figure(images: np.ndarray, *, scale: int = 1) -> np.ndarray:
  """One path through the latent space a row.

  Args:
    images: [R, K, H, W, C] float in [-1, 1], K steps of each of R paths.
    scale: how many times each image is enlarged.

  Returns:
    [H', W', 3] uint8.
  """
  return image_grid(list(images), scale=scale)


def comparison_figure(
  rows: Mapping[str, np.ndarray], results: Results | None = None
) -> np.ndarray:
  """Labelled rows of images over a table of numbers.

  Images are enlarged by a whole number, towards a width of 1200 pixels, or that
  of a wider table.

  Args:
    rows: label -> [N, H, W, C] float in [-1, 1], from top to bottom: the
      originals and each run's reconstructions of them.
    results: label -> {metric: value}, one line of the table each. A missing
      value, `None` or NaN is shown as a dash.

  Returns:
    [H', W', 3] uint8.
  """
  font = ImageFont.load_default(size=_FONT_SIZE)
  labels = max(font.getlength(label) for label in [*rows, *(results or {})])
  left = math.ceil(_MARGIN + labels + _LABEL_GAP)
  shapes = [np.shape(images) for images in rows.values()]
  native = max(shape[0] * shape[2] for shape in shapes)
  # A wide table leaves them more room.
  wanted = _table_image(results, font, left, _WIDTH).width if results else 0
  scale = max(1, round((max(_WIDTH, wanted) - left - _MARGIN) / native))
  grid = image_grid(list(rows.values()), padding=_TILE_GAP, scale=scale)
  grid_height, grid_width = grid.shape[:2]
  width = left + grid_width - 2 * _TILE_GAP + _MARGIN
  table = _table_image(results, font, left, width) if results else None

  width = max(width, table.width if table else 0)
  height = grid_height + (table.height if table else 0) + 2 * _MARGIN
  picture = Image.new('RGB', (width, height), _PAPER)
  picture.paste(Image.fromarray(grid), (left - _TILE_GAP, _MARGIN))
  draw = ImageDraw.Draw(picture)
  row_height = (grid_height - _TILE_GAP) / len(rows)
  for i, label in enumerate(rows):
    middle = _MARGIN + (_TILE_GAP + (2 * i + 1) * row_height) / 2
    draw.text((_MARGIN, middle), label, _INK, font, anchor='lm')
  if table:
    picture.paste(table, (0, _MARGIN + grid_height))
  return np.asarray(picture)


def markdown_table(results: Results) -> str:
  """Results as a Markdown table, one label a line, numbers right-aligned.

  Args:
    results: label -> {metric: value}. A missing value, `None` or NaN is shown
      as a dash, a `Spread` as mean ± deviation with a decimal more.

  Returns:
    The table, with a newline at its end.
  """
  header, *body = _cells(results)
  rule = ['---', *['---:'] * (len(header) - 1)]
  lines = ('| ' + ' | '.join(cells) + ' |' for cells in [header, rule, *body])
  return '\n'.join(lines) + '\n'


def _cells(results: Results) -> list[list[str]]:
  """The table's text: a header, then a line for each label."""
  metrics = list(dict.fromkeys(m for row in results.values() for m in row))
  header = ['', *map(title_of, metrics)]
  body = [
    [label, *(_format(m, row.get(m)) for m in metrics)]
    for label, row in results.items()
  ]
  return [header, *body]


def title_of(metric: str) -> str:
  """How a metric is called in tables and figures."""
  name = metric.removesuffix(_SAMPLED)
  title, *_ = _METRICS.get(name, (name,))
  return title if name == metric else f'{title}, sampled'


def _format(metric: str, value: float | Spread | None) -> str:
  if isinstance(value, Spread):  # A decimal more: deviations are small.
    parts = (part for part in value if part is not None)
    return ' ± '.join(_round(metric, part, more=1) for part in parts)
  if value is None or math.isnan(value):
    return _MISSING
  return _round(metric, value)


def _round(metric: str, value: float, more: int = 0) -> str:
  name = metric.removesuffix(_SAMPLED)
  _, decimals = _METRICS.get(name, (name, None))
  precision = '.3g' if decimals is None else f'.{decimals + more}f'
  return format(float(value), precision)


def _table_image(
  results: Results, font: ImageFont.FreeTypeFont, left: int, width: int
) -> Image.Image:
  """The table, its numbers spread from `left` to the margin at `width`."""
  cells = _cells(results)
  columns = max(len(cells[0]) - 1, 1)
  widest = max(font.getlength(t) for line in cells for t in line[1:] or [''])
  pitch = max((width - _MARGIN - left) / columns, widest + _COLUMN_GAP)
  right = math.ceil(left + columns * pitch)
  table = Image.new(
    'RGB', (right + _MARGIN, _LINE * len(cells) + _MARGIN), _PAPER
  )
  draw = ImageDraw.Draw(table)
  for i, (label, *numbers) in enumerate(cells):
    top = _MARGIN + i * _LINE
    middle = top + _LINE // 2
    color = _INK if i else _GREY
    draw.text((_MARGIN, middle), label, color, font, anchor='lm')
    for j, text in enumerate(numbers, start=1):
      end = left + j * pitch
      if text == _MISSING:  # Pillow's own font has no dash but the hyphen.
        draw.line([(end - _DASH, middle), (end, middle)], color, width=2)
      else:
        draw.text((end, middle), text, color, font, anchor='rm')
    if i:
      draw.line([(_MARGIN, top), (right, top)], _RULE)
  return table
