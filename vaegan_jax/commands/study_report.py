"""The report of a study: tables, the figure and the curves, with the spread."""

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from vaegan_jax.evaluation import plots, tables
from vaegan_jax.evaluation.scores import optional_metrics, quality_metrics
from vaegan_jax.names import REPORT_FILE
from vaegan_jax.report.facts import rate_curves
from vaegan_jax.report.page import ReportedRun, build_page
from vaegan_jax.runtime.files import save_png, write_json, write_text

# label, objective, seed, status, step, and scores or message.
Outcome = dict[str, Any]
Summary = dict[str, dict[str, int | tables.Spread | None]]

FINISHED = 'finished'  # The status of a run that was trained and evaluated.
# Not the distance, which each critic measures in features of its own.
_OF_CODES = ('rate', 'perplexity', 'usage')
METRICS = (*quality_metrics(), 'frechet_floor', 'grid', 'kl', *_OF_CODES)
_PROTOCOL = """
- numbers: mean and sample standard deviation over the seeds of each objective
- pictures and curves of training: of the first seed that finished
- the distance is not reported: each critic has features of its own
"""
_NO_CURVES = ('ssim', 'energy', 'judge', 'judge_frechet')
_CURVES = [name for name in quality_metrics() if name not in _NO_CURVES]


def summarize(outcomes: list[Outcome]) -> Summary:
  """Sums up the outcomes of each label.

  Returns:
    label -> the numbers of `runs` and, among them, `failures`; and each of
    METRICS, those of sounds, judges and codes where there are any, as mean and
    sample standard deviation over the finished runs, None where one of them
    has no finite value, or there is none.
  """
  summary = {}
  known = set().union(*(outcome.get('scores', ()) for outcome in outcomes))
  for label in dict.fromkeys(outcome['label'] for outcome in outcomes):
    ended = [o for o in outcomes if o['label'] == label]
    finished = [o['scores'] for o in ended if o['status'] == FINISHED]
    summary[label] = {
      'runs': len(ended),
      'failures': len(ended) - len(finished),
    } | {
      metric: _spread([scores.get(metric) for scores in finished])
      for metric in METRICS
      if metric in known or metric not in optional_metrics()
    }
  return summary


def _spread(values: list[float | None]) -> tables.Spread | None:
  if not values or None in values:
    return None
  deviation = statistics.stdev(values) if len(values) > 1 else None
  return tables.Spread(statistics.fmean(values), deviation)


def write_tables(outcomes: list[Outcome], workdir: str) -> None:
  """Writes `study.md` and `study.json`."""
  summary = summarize(outcomes)
  failures = [
    f'- {outcome["label"]}, seed {outcome["seed"]}, {outcome["status"]} '
    f'after step {outcome["step"]:,}: {" ".join(outcome["message"].split())}\n'
    for outcome in outcomes
    if outcome['status'] != FINISHED
  ]
  text = tables.markdown_table(summary)
  if failures:
    text += '\n' + ''.join(failures)
  root = epath.Path(workdir)
  write_text(root / 'study.md', text)
  rows = {
    label: {
      name: value._asdict() if isinstance(value, tables.Spread) else value
      for name, value in row.items()
    }
    for label, row in summary.items()
  }
  content = {'objectives': rows, 'runs': outcomes}
  write_json(root / 'study.json', content, allow_nan=False)


def show(
  outcomes: list[Outcome],
  shown: Sequence[tuple[ReportedRun, np.ndarray, np.ndarray]],
  workdir: str,
) -> None:
  """Prints the table; writes `study.png`, the page and a sweep's curves.

  The first finished run of each label is shown, with originals and
  reconstructions [N, H, W, C] in [-1, 1].
  """
  root = epath.Path(workdir)
  print((root / 'study.md').read_bytes().decode(), end='', flush=True)
  if not shown:
    for name in ('study.png', REPORT_FILE):
      (root / name).unlink(missing_ok=True)
    print('No run finished, so there is no figure.', flush=True)
    return
  summary = summarize(outcomes)
  rows = {'originals': shown[0][1]}
  rows |= {run.label: x_recon for run, _, x_recon in shown}
  figure = plots.comparison_figure(rows, summary)
  save_png(root / 'study.png', figure)
  print(f'Figure: {root / "study.png"}', flush=True)
  lines = _lines(summary)
  if lines:
    picture = plots.rate_figure(lines, _CURVES)
    save_png(root / 'study_curves.png', picture)
    print(f'Curves: {root / "study_curves.png"}', flush=True)
  runs = [
    dataclasses.replace(run, results=summary[run.label.rpartition(', ')[0]])
    for run, *_ in shown
  ]
  page = build_page(
    runs,
    title=root.name,
    protocol=_PROTOCOL,
    charts=rate_curves(summary, outcomes, _CURVES),
  )
  write_text(root / REPORT_FILE, page)
  print(f'Report: {root / REPORT_FILE}', flush=True)


def _lines(summary: Summary) -> dict[str, list[plots.Point]]:
  """Returns {objective: points by rate} of a sweep; {} without one."""
  lines = {}
  for label, row in summary.items():
    objective, _, value = label.partition(', ')
    if value and row['kl'] is not None:
      lines.setdefault(objective, []).append(row)
  return {
    objective: sorted(points, key=lambda row: row['kl'].mean)
    for objective, points in lines.items()
  }
