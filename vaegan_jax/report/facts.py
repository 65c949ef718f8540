"""The texts and numbers of a page: scores, curves, codes, configuration."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from vaegan_jax.config.rules import flatten
from vaegan_jax.config.schema import FIELDS
from vaegan_jax.evaluation import tables
from vaegan_jax.evaluation.meanings import MEANINGS, Meaning

_MAX_POINTS = 400  # Of a curve.
_MAX_BARS = 512
_DIGITS = 6  # Significant ones, of what is plotted.
_SAMPLED = '_sampled'

Facts = dict[str, Any]


def numbers(results: tables.Results) -> list[Facts]:
  """Returns a row for each metric, with a cell for each run.

  Args:
    results: {run: {metric: value}}; a value may be a mean with a deviation.
  """
  _, *lines = tables.table_cells(results)
  names = list(dict.fromkeys(name for row in results.values() for name in row))
  rows = []
  for i, name in enumerate(names, start=1):
    cells = [line[i] for line in lines]
    values = [_number(row.get(name)) for row in results.values()]
    meaning = meaning_of(name)
    known = {meaning.sign * v for v in values if v is not None}
    best = max(known) if meaning.sign and len(known) > 1 else None
    rows.append(
      {
        'name': name,
        'title': tables.title_of(name),
        'text': meaning.text,
        'sign': meaning.sign,
        'cells': cells,
        'best': [v is not None and meaning.sign * v == best for v in values],
        'sampled': name.endswith(_SAMPLED),
      }
    )
  return [row for row in rows if set(row['cells']) != {tables.MISSING}]


def meaning_of(name: str) -> Meaning:
  """Returns the meaning of a metric, by the name in the scores."""
  name = name.removesuffix(_SAMPLED)
  if name.startswith('psnr_band_'):
    return Meaning(f'PSNR of channel {name.removeprefix("psnr_band_")}.', 1)
  return MEANINGS.get(name.partition(' ')[0], Meaning(''))


def _number(value: Any) -> float | None:
  value = value.mean if isinstance(value, tables.Spread) else value
  return None if value is None or math.isnan(value) else float(value)


def read_curves(workdir: epath.PathLike) -> dict[str, list[list[float]]]:
  """Reads the curves of a run from its `metrics.jsonl`.

  Returns:
    {metric: [[step, value], ...]}, at most about 400 points each; {} without
    the file. Values that are not finite are omitted.
  """
  path = epath.Path(workdir) / 'metrics.jsonl'
  curves = {}
  for line in path.read_bytes().splitlines() if path.exists() else []:
    try:
      row = json.loads(line)
      step = int(row.pop('step'))
      known = {name: shorten(v) for name, v in row.items() if v is not None}
    except (ValueError, TypeError, AttributeError, KeyError):
      continue  # Incomplete, as it is being written, or no line of a run.
    for name, value in known.items():
      if value is not None:
        curves.setdefault(name, []).append([step, value])
  return {name: _thin(points) for name, points in curves.items()}


def _thin(points: list) -> list:
  """Keeps evenly spaced points, the first and the last among them."""
  if len(points) <= _MAX_POINTS:
    return points
  kept = np.linspace(0, len(points) - 1, _MAX_POINTS).round().astype(int)
  return [points[i] for i in kept]


def shorten(value: float) -> float | None:
  """Rounds to six digits; None if not finite, as JSON has no NaN."""
  value = float(value)
  return float(f'{value:.{_DIGITS}g}') if math.isfinite(value) else None


def code_shares(counts: np.ndarray) -> list[float]:
  """Returns the shares of codes, the most frequent first, in at most 512 bars.

  A bar of a larger codebook is the mean of as many codes.
  """
  total = counts.sum()
  if not total:
    return []
  shares = np.sort(counts / total)[::-1]
  bars = np.array_split(shares, min(len(shares), _MAX_BARS))
  return [shorten(bar.mean()) for bar in bars]


def configuration(configs: Sequence[Mapping[str, Any]]) -> list[Facts]:
  """Returns a row for each field, with its value in each run.

  Args:
    configs: of the runs, with sections.
  """
  values = [flatten(config) for config in configs]
  rows = []
  for field in FIELDS:
    cells = [_to_text(v.get(field.name, field.default)) for v in values]
    default = _to_text(field.default)
    rows.append(
      {
        'name': field.name,
        'help': field.help,
        'default': default,
        'cells': cells,
        'own': any(cell != default for cell in cells),
        'differs': len(set(cells)) > 1,
      }
    )
  return rows


def _to_text(value: Any) -> str:
  if isinstance(value, tuple | list):
    return ', '.join(map(_to_text, value)) or 'empty'
  if isinstance(value, float):
    return f'{value:g}'
  return str(value) if value != '' else 'empty'


def rate_curves(
  summary: Mapping[str, Mapping[str, Any]],
  outcomes: Iterable[Mapping[str, Any]],
  names: Iterable[str],
) -> list[Facts]:
  """Returns a chart over the rate for each metric that a study has.

  Args:
    summary: {label: {metric: mean and deviation}}; the objective comes before
      a comma in the label.
    outcomes: of the single runs, with `label`, `seed` and `scores`.
    names: of the metrics.

  Returns:
    [{title, text, lines: [{label, points: [[x, y, dx, dy]], seeds: [[x, y]]}]}]
  """
  charts = []
  for name in names:
    lines = {}
    for label, row in summary.items():
      x, y = row.get('kl'), row.get(name)
      if x and y:
        line = lines.setdefault(_objective(label), {'points': [], 'seeds': []})
        spreads = [i.deviation or 0.0 for i in (x, y)]
        line['points'].append(list(map(shorten, (x.mean, y.mean, *spreads))))
    for outcome in outcomes:
      scores = outcome.get('scores', {})
      pair = scores.get('kl'), scores.get(name)
      if None not in pair and _objective(outcome['label']) in lines:
        lines[_objective(outcome['label'])]['seeds'].append(
          list(map(shorten, pair))
        )
    if lines:
      for line in lines.values():
        line['points'].sort()
      charts.append(
        {
          'title': tables.title_of(name),
          'text': meaning_of(name).text,
          'lines': [{'label': k, **v} for k, v in lines.items()],
        }
      )
  return charts


def _objective(label: str) -> str:
  return label.partition(', ')[0]
