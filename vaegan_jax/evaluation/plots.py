"""Plots by matplotlib: comparisons of runs with a table, and rate curves.

No pyplot, which keeps figures alive; matplotlib is imported late, as it takes
half a second that few commands need.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vaegan_jax.evaluation.figures import image_grid
from vaegan_jax.evaluation.tables import Results, Spread, table_cells, title_of

Point = Mapping[str, int | Spread | None]  # {metric: its mean and deviation}.

_DPI = 100
_INK, _GREY, _RULE = '#1f2328', '#656d76', '#d1d9e0'
# Width of the comparison, in pixels.
_WIDTH = 1200  # Images are enlarged towards it, by a whole number.
_MARGIN = 24
_TILE_GAP = 4
_LINE = 38  # Height of a line of the table.
_COLUMN_GAP = 20
_FONT_SIZE = 18
_CHARACTER = 0.61 * _FONT_SIZE  # Width, rounded up to that of a digit.


def create_figure(size: tuple[float, float], **options: Any):
  """Returns a matplotlib figure of `size` inches, with a canvas."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure(figsize=size, dpi=_DPI, **options)
  FigureCanvasAgg(figure)
  return figure


def rasterize(figure) -> np.ndarray:
  """Draws a figure of `create_figure`, [H, W, 3] uint8."""
  figure.canvas.draw()
  return pixels_of(figure.canvas)


def pixels_of(canvas) -> np.ndarray:
  """Returns the pixels of a canvas, [H, W, 3] uint8."""
  return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def comparison_figure(
  rows: Mapping[str, np.ndarray], results: Results | None = None
) -> np.ndarray:
  """Plots labelled rows of images over a table of numbers.

  Images are enlarged by a whole number, towards a width of 1200 pixels or that
  of a wider table.

  Args:
    rows: label -> [N, H, W, C] float in [-1, 1], from top to bottom: the
      originals and each run's reconstructions of them.
    results: label -> {metric: value}, one line of the table each; see
      `tables.markdown_table`.

  Returns:
    [H', W', 3] uint8.
  """
  cells = table_cells(results) if results else []
  longest = max(len(label) for label in [*rows, *(results or {})])
  left = round(_MARGIN + longest * _CHARACTER + _COLUMN_GAP)
  columns = list(zip(*cells, strict=True))[1:]
  pitch = _COLUMN_GAP + _CHARACTER * max(
    (len(text) for column in columns for text in column), default=0
  )
  native = max(len(images) * np.shape(images)[2] for images in rows.values())
  room = max(_WIDTH - left - _MARGIN, pitch * len(columns))
  scale = max(1, round(room / native))
  grid = image_grid(list(rows.values()), padding=_TILE_GAP, scale=scale)
  shown = grid.shape[1] - 2 * _TILE_GAP
  pitch = max(pitch, shown / max(len(columns), 1))
  width = left + max(shown, round(pitch * len(columns))) + _MARGIN
  table_height = _LINE * len(cells) + (_MARGIN if cells else 0)
  height = len(grid) + table_height + 2 * _MARGIN
  figure = create_figure((width / _DPI, height / _DPI))
  figure.figimage(grid, left - _TILE_GAP, height - _MARGIN - len(grid))

  def write(x, y, text, **options):
    figure.text(
      x / width,
      1 - y / height,
      text,
      va='center_baseline',
      family='DejaVu Sans',  # Comes with matplotlib.
      size=_FONT_SIZE * 72 / _DPI,
      **{'color': _INK, **options},
    )

  row_height = (len(grid) - _TILE_GAP) / len(rows)
  for i, label in enumerate(rows):
    write(_MARGIN, _MARGIN + _TILE_GAP + (i + 0.5) * row_height, label)
  for i, (label, *numbers) in enumerate(cells):
    middle = 2 * _MARGIN + len(grid) + (i + 0.5) * _LINE
    color = _INK if i else _GREY
    write(_MARGIN, middle, label, color=color)
    for j, text in enumerate(numbers, start=1):
      write(left + j * pitch, middle, text, ha='right', color=color)
    if i:
      _add_rule(figure, 1 - (middle - _LINE / 2) / height, _MARGIN / width)
  return rasterize(figure)


def _add_rule(figure, y: float, margin: float) -> None:
  """Adds a horizontal line; lengths are fractions of the figure."""
  from matplotlib.lines import Line2D

  line = Line2D([margin, 1 - margin], [y, y], color=_RULE, linewidth=0.7)
  figure.add_artist(line)


def rate_figure(
  lines: Mapping[str, Sequence[Point]], names: Sequence[str]
) -> np.ndarray:
  """Plots metrics over the rate, a line a method, as [H, W, 3] uint8.

  Args:
    lines: label -> its points, sorted by `kl`.
    names: of the metrics, one panel each; those that no point has are skipped.
  """
  shown = [
    name
    for name in names
    if any(point.get(name) for points in lines.values() for point in points)
  ]
  number = max(len(shown), 1)
  figure = create_figure((4 * number, 3.6), layout='constrained')
  panels = figure.subplots(1, number, squeeze=False)[0]
  for panel, name in zip(panels, shown, strict=False):
    for label, points in lines.items():
      known = [(p['kl'], p[name]) for p in points if p.get(name)]
      x, y = ([point[i].mean for point in known] for i in (0, 1))
      errors = [[point[i].deviation or 0.0 for point in known] for i in (1, 0)]
      panel.errorbar(x, y, *errors, marker='o', capsize=2, label=label)
    panel.set(xscale='log', xlabel=title_of('kl'), title=title_of(name))
    panel.grid(alpha=0.3, which='both')
  panels[0].legend()
  return rasterize(figure)
