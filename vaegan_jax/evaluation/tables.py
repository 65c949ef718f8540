"""Tables of results in Markdown: titles, rounding, spread over runs."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from vaegan_jax.evaluation import metrics

MISSING = '—'
_SAMPLED = '_sampled'  # Ends the names of metrics of samples.


class Spread(NamedTuple):
  """A metric over several runs; one run alone has no deviation."""

  mean: float
  deviation: float | None


# Rows of results: label -> {metric: value}.
Results = Mapping[str, Mapping[str, float | Spread | None]]


def markdown_table(results: Results) -> str:
  """Formats results as a Markdown table, one label a line.

  A missing value, `None` or NaN becomes a dash, a `Spread` mean ± deviation
  with one more decimal.
  """
  header, *body = table_cells(results)
  rule = ['---', *['---:'] * (len(header) - 1)]
  lines = ('| ' + ' | '.join(cells) + ' |' for cells in [header, rule, *body])
  return '\n'.join(lines) + '\n'


def table_cells(results: Results) -> list[list[str]]:
  """Returns the text of a table: a header, then a line for each label."""
  names = list(dict.fromkeys(m for row in results.values() for m in row))
  return [
    ['', *map(title_of, names)],
    *(
      [label, *(_format(name, row.get(name)) for name in names)]
      for label, row in results.items()
    ),
  ]


def title_of(metric: str) -> str:
  """Returns the title of a metric; its name if it has no row."""
  row = _row_of(metric)
  title = row.title if row else metric.removesuffix(_SAMPLED)
  return f'{title}, sampled' if metric.endswith(_SAMPLED) else title


def _row_of(metric: str) -> metrics.Metric | None:
  name = metric.removesuffix(_SAMPLED)
  return next((row for row in metrics.TABLE if row.name == name), None)


def _format(metric: str, value: float | Spread | None) -> str:
  if isinstance(value, Spread):  # A decimal more: deviations are small.
    parts = (part for part in value if part is not None)
    return ' ± '.join(_round(metric, part, more=1) for part in parts)
  if value is None or math.isnan(value):
    return MISSING
  return _round(metric, value)


def _round(metric: str, value: float, more: int = 0) -> str:
  row = _row_of(metric)
  return format(float(value), f'.{row.decimals + more}f' if row else '.3g')
