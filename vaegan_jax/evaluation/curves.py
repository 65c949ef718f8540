"""Curves: what is gained for the rate that is paid, over seeds."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from vaegan_jax.evaluation.figures import Spread, title_of

Point = Mapping[str, int | Spread | None]  # {metric: its mean and deviation}.


def rate_figure(
  lines: Mapping[str, Sequence[Point]], metrics: Sequence[str]
) -> np.ndarray:
  """Draws each metric over the rate, a line a method, with its spread.

  Args:
    lines: label -> its points in the order of their rates, each with `kl` and
      metrics.
    metrics: one panel each, of those that any point has.

  Returns:
    [H, W, 3] uint8.
  """
  # Half a second to import, which few modes need.
  from matplotlib.figure import Figure

  shown = [
    metric
    for metric in metrics
    if any(p.get(metric) for points in lines.values() for p in points)
  ]
  figure = Figure(figsize=(4 * max(len(shown), 1), 3.6), layout='constrained')
  panels = figure.subplots(1, max(len(shown), 1), squeeze=False)[0]
  for panel, metric in zip(panels, shown, strict=False):
    for label, points in lines.items():
      known = [p for p in points if p.get(metric)]
      panel.errorbar(
        [p['kl'].mean for p in known],
        [p[metric].mean for p in known],
        xerr=[p['kl'].deviation or 0.0 for p in known],
        yerr=[p[metric].deviation or 0.0 for p in known],
        marker='o',
        capsize=2,
        label=label,
      )
    panel.set(xscale='log', xlabel=title_of('kl'), title=title_of(metric))
    panel.grid(alpha=0.3, which='both')
  panels[0].legend()
  buffer = io.BytesIO()
  figure.savefig(buffer, format='png', dpi=120)
  with Image.open(buffer) as picture:
    return np.asarray(picture.convert('RGB'))
