"""Plots the measurements of `growth.py` in one figure."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

_TIME, _MEMORY = 'cpu_milliseconds_an_image', 'megabytes_an_image'
_BLUE, _ORANGE, _GREY = '#1f77b4', '#d95f02', '#777777'


def draw(result: Mapping[str, Any], path: str) -> None:
  """Plots the measured parts.

  Args:
    result: what `growth.py` prints; the input is optional.
    path: file to write.
  """
  figure = Figure(figsize=(9, 6.4), layout='constrained')
  panels = figure.subplots(2, 2)
  for axes, part, label in (
    (panels[0, 0], 'batch', 'images an update'),
    (panels[0, 1], 'side', 'side of the image, in pixels'),
    (panels[1, 0], 'devices', 'virtual devices, which share the cores'),
  ):
    field = {'batch': 'batch_size'}.get(part, part)
    _draw_costs(axes, result[part], field, label)
  _draw_compilation(panels[1, 1], result['compilation'])
  figure.savefig(path, dpi=110)


def _draw_costs(axes, rows, field: str, label: str) -> None:
  """Plots time on the left axis and memory on the right, both from 0."""
  steps = np.arange(len(rows))
  twin = axes.twinx()
  for side, name, color, marker, text in (
    (axes, _TIME, _BLUE, 'o', 'CPU ms an image'),
    (twin, _MEMORY, _ORANGE, 's', 'MB an image'),
  ):
    values = [row[name] for row in rows]
    side.plot(steps, values, color=color, marker=marker)
    side.set_ylim(0, 1.15 * max(values))
    side.set_ylabel(text, color=color)
    side.tick_params(axis='y', colors=color)
    side.spines['top'].set_visible(False)
  axes.set_xticks(steps, [row[field] for row in rows])
  axes.set_xlabel(label)


def _draw_compilation(axes, rows) -> None:
  """Plots CPU seconds to trace and compile, cold and warm."""
  names = [row['objective'] + ' + R1' * row['r1'] for row in rows]
  places = np.arange(len(rows))
  for shift, cache, color in ((-0.2, 'cold', _GREY), (0.2, 'warm', _BLUE)):
    seconds = [row[cache]['cpu_seconds'] for row in rows]
    label = f'{cache} cache'
    axes.barh(places + shift, seconds, 0.4, color=color, label=label)
  axes.set_yticks(places, [name.replace('_', ' ') for name in names])
  axes.invert_yaxis()
  axes.set_xlabel('CPU s to trace and compile an update')
  axes.spines[['top', 'right']].set_visible(False)
  axes.legend(frameon=False)
