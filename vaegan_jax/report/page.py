"""One HTML file with everything in it: no server, no request, no framework.

The names of runs and metrics are data of the page: they are read as JSON and
shown as text. A policy forbids every request and every script but the page's
own.
"""

import base64
import dataclasses
import functools
import hashlib
import html
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vaegan_jax.config.cli_flags import MEGABYTES, NUM_EXAMPLES
from vaegan_jax.evaluation import tables
from vaegan_jax.evaluation.evaluator import Evaluator
from vaegan_jax.evaluation.reconstructor import Variables
from vaegan_jax.evaluation.scores import Evaluation
from vaegan_jax.report import examples, facts
from vaegan_jax.report.examples import Shown

_ASSETS = Path(__file__).parent / 'assets'
_SCRIPTS = ('common', 'pictures', 'viewer', 'sounds', 'charts', 'report')


@dataclasses.dataclass(frozen=True)
class ReportedRun:
  """A run on the page."""

  label: str  # Name on the page.
  step: int  # Step of the weights.
  config: Mapping[str, Any]  # With sections.
  evaluation: Evaluation  # Evaluation of the held-out examples.
  # `examples.collect`, without its first two arguments.
  collect: Callable[[Sequence[int], float, bool], Shown]
  workdir: str  # Folder with its `metrics.jsonl`; '': there are no curves.
  # {metric: value or spread} in place of the evaluation's scores.
  results: Mapping[str, Any] | None = None

  @classmethod
  def of(
    cls,
    label: str,
    workdir: str,
    config: Mapping[str, Any],
    step: int,
    evaluator: Evaluator,
    variables: Variables,
    evaluation: Evaluation,
  ) -> 'ReportedRun':
    """Creates one whose pictures are made when the page is built."""
    collect = functools.partial(examples.collect, evaluator, variables)
    return cls(label, step, config, evaluation, collect, workdir)


def build_page(
  runs: Sequence[ReportedRun],
  *,
  title: str,
  protocol: str,
  num_examples: int = NUM_EXAMPLES,
  megabytes: float = MEGABYTES,
  charts: Sequence[facts.Facts] = (),
  training: Mapping[str, Any] | None = None,
) -> str:
  """Builds the page of runs on the same held-out examples.

  Args:
    runs: at least one; the first one's examples are shown.
    title: at the top.
    protocol: a Markdown list that explains how the scores are computed.
    num_examples: examples to show, if they fit.
    megabytes: the most that the page may have.
    charts: those of `facts.rate_curves`.
    training: 'step', 'total' and 'reload' seconds of a run that is trained.

  Returns:
    HTML, in UTF-8.
  """
  orders = _mean_orders(runs)
  number = max(map(len, runs[0].evaluation.examples.values()), default=0)
  chosen = examples.choose(orders, number, num_examples)
  described = [_describe(run) for run in runs]
  data = {
    'title': title,
    'written': round(time.time()),
    'training': training,
    'charts': charts,
    'runs': described,
    'titles': _titles(described),
    'orders': [{'name': n, 'title': tables.title_of(n)} for n in orders],
    'protocol': [
      line.removeprefix('- ') for line in protocol.splitlines() if line
    ],
  } | _facts_of(runs)
  room = megabytes * 1e6 - len(_fill(data, title))
  share = max_bytes(room, len(runs))
  shown = [
    run.collect(chosen, share * (1 if i else 2), not i)
    for i, run in enumerate(runs)
  ]
  kept = [i for i in chosen if all(i in each.recons for each in shown)]
  for about_run, each in zip(described, shown, strict=True):
    about_run['galleries'] = each.galleries
  data |= {
    'media': shown[0].media.describe(),
    'note': _note(len(kept), number, min(num_examples, number), megabytes),
    'examples': [_example(runs, shown, orders, index) for index in kept],
  }
  return _fill(data, title)


def _example(runs, shown: Sequence[Shown], orders, index: int) -> facts.Facts:
  """Returns the pictures and the numbers of an example."""
  return {
    'index': index,
    'original': shown[0].originals[index],
    'recons': [each.recons[index] for each in shown],
    'values': [
      {
        name: facts.shorten(value[index])
        for name, value in run.evaluation.examples.items()
      }
      for run in runs
    ],
    'ranks': _ranks(orders, index),
  }


def _facts_of(runs: Sequence[ReportedRun]) -> facts.Facts:
  """Returns the name of the data, the numbers and the configuration."""
  steps = [f'step {run.step:,}' for run in runs]
  if len(set(steps)) > 1:
    steps = [f'{run.label} after step {run.step:,}' for run in runs]
  results = {run.label: run.results or run.evaluation.scores for run in runs}
  return {
    'subtitle': ', '.join(
      [runs[0].config['data']['name'], *dict.fromkeys(steps)]
    ),
    'numbers': facts.numbers(results),
    'configuration': facts.configuration([run.config for run in runs]),
  }


def max_bytes(room: float, num_runs: int) -> float:
  """Returns the share of a run; the originals have one, too."""
  return 0.98 * max(room, 0) / (num_runs + 1)  # The rest are indices.


def _mean_orders(runs) -> dict[str, np.ndarray]:
  """Ranks the examples by the mean of each metric that all runs have."""
  values = [run.evaluation.examples for run in runs]
  shared = [name for name in values[0] if all(name in v for v in values)]
  return examples.rank(
    {name: np.mean([v[name] for v in values], axis=0) for name in shared}
  )


def _ranks(orders, index: int) -> dict[str, list[int]]:
  """Returns {metric: [rank from 1, the worst, and number of examples]}."""
  ranks = {}
  for name, order in orders.items():
    found = np.flatnonzero(order == index)
    if len(found):
      ranks[name] = [int(found[0]) + 1, len(order)]
  return ranks


def _describe(run: ReportedRun) -> dict[str, Any]:
  curves = facts.read_curves(run.workdir) if run.workdir else {}
  codes = facts.code_shares(run.evaluation.code_counts)
  return {'label': run.label, 'curves': curves, 'codes': codes}


def _titles(described) -> dict[str, str]:
  """Returns {name of a curve: its title on the page}."""
  names = {name for run in described for name in run['curves']}
  titles = {}
  for name in sorted(names):
    kind, _, metric = name.partition('/')
    titles[name] = metric if kind == 'train' else tables.title_of(metric)
  return titles


def _note(kept: int, number: int, asked: int, megabytes: float) -> str:
  if kept == number:
    return f'All of the {number:,} evaluated examples.'
  text = f'{kept:,} of {number:,} evaluated examples: '
  text += 'some of the first, and the worst, median and best by each metric.'
  if kept < asked:
    text += f' The {asked:,} asked for would exceed {megabytes:g} MB.'
  return text


def _fill(data: Mapping[str, Any], title: str) -> str:
  """Fills the page's frame; nothing of `data` can end its element."""
  text = json.dumps(data, allow_nan=False).replace('<', '\\u003c')
  script = '\n'.join(_read(f'{name}.js') for name in _SCRIPTS)
  script, style = f"'use strict';\n{script}", _read('page.css')
  parts = {
    # A name that is not UTF-8 has letters that cannot be written.
    'title': html.escape(title).encode('ascii', 'xmlcharrefreplace').decode(),
    'style': style,
    'script': script,
    'style_hash': _hash(style),
    'script_hash': _hash(script),
    'data': text,
  }
  return re.sub(r'{{(\w+)}}', lambda found: parts[found[1]], _read('page.html'))


def _read(name: str) -> str:
  return (_ASSETS / name).read_text(encoding='utf-8')


def _hash(text: str) -> str:
  digest = hashlib.sha256(text.encode()).digest()
  return f'sha256-{base64.b64encode(digest).decode()}'
