"""The command `compare`: finished runs side by side, on the same images."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections
from etils import epath

from vaegan_jax.errors import UserError
from vaegan_jax.evaluation.feature_metrics import FeatureMetrics
from vaegan_jax.evaluation.plots import comparison_figure
from vaegan_jax.evaluation.scores import Evaluation, is_main
from vaegan_jax.evaluation.tables import markdown_table
from vaegan_jax.names import REPORT_FILE
from vaegan_jax.report.page import ReportedRun, build_page
from vaegan_jax.runtime.files import check_writable, save_png, write_text
from vaegan_jax.setup.finished_run import (
  FinishedRun,
  open_run,
  read_feature_metrics,
)

# Fields of `config.data` that determine the held-out examples in [-1, 1].
_SAME_DATA = (
  *('name', 'path', 'group_by', 'feature', 'shape', 'image_size', 'channels'),
  *('sample_rate', 'center_crop', 'crop', 'axes', 'example_axis', 'nodata'),
  *('max_nodata', 'resample', 'mix_channels', 'mid_side', 'value_range'),
  'eval_split',
)
_OTHER_IMAGES = (
  'the held-out examples of {} are not those of {}, because their '
  'data.folder_rules differ: only runs on the same held-out examples can be '
  'compared'
)
_OTHER_JUDGE = (
  'evaluation.own_judge=True would judge {} and {} by two networks, because '
  'their held-out examples or data.value_range differ: evaluate each by '
  'itself, with --mode=evaluate'
)


def compare(
  configs: Mapping[str, ml_collections.ConfigDict], output_dir: str
) -> None:
  """Evaluates runs side by side, on the same held-out images.

  One critic measures the distance of all runs, because distances in different
  features cannot be compared: the critic of the first run that has one. The
  pretrained networks are those of the first run that names any. Writes
  `comparison.png`, `comparison.json`, `comparison.md` and `report.html`. The
  images of the runs {workdir: configuration} must be of the same dataset and
  shape.

  Raises:
    UserError: a run has no checkpoint, or the runs' data differ.
  """
  check_writable(output_dir)
  runs = open_runs(configs)
  evaluations = evaluate_runs(runs)
  results = {label: found.scores for label, found in evaluations.items()}
  rows = {}
  for label, (evaluator, variables, _) in runs.items():
    x, x_recon, _ = evaluator.reconstruct(
      variables, range(evaluator.num_columns)
    )
    rows['originals'] = evaluator.as_pictures(x)
    rows[label] = evaluator.as_pictures(x_recon)
  output = epath.Path(output_dir)
  figure = comparison_figure(rows, _without_samples(results))
  save_png(output / 'comparison.png', figure)
  table = markdown_table(results) + '\n' + join_protocols(runs)
  write_text(output / 'comparison.md', table)
  write_text(output / 'comparison.json', json.dumps(results) + '\n')
  page = page_of(configs, runs, evaluations)
  write_text(output / REPORT_FILE, page)
  print(
    table,
    f'Figure: {output / "comparison.png"}',
    f'Report: {output / REPORT_FILE}',
    sep='\n',
    flush=True,
  )


def open_runs(
  configs: Mapping[str, ml_collections.ConfigDict],
) -> dict[str, FinishedRun]:
  """Opens runs on the same held-out examples, by label.

  Raises:
    UserError: a run has no checkpoint, or the runs' data differ.
  """
  _check_same_data(configs)
  options = {
    'feature_metrics': _read_feature_metrics(configs.values()),
    'batch_size': next(iter(configs.values())).batch_size,
    'has_judge': any(c.evaluation.own_judge for c in configs.values()),
  }
  runs = {
    label: open_run(config, workdir, **options)
    for label, (workdir, config) in zip(
      _labels(list(configs)), configs.items(), strict=True
    )
  }
  if len({config.data.folder_rules for config in configs.values()}) > 1:
    _check_same(runs, 'fingerprint', _OTHER_IMAGES)
  if options['has_judge']:
    _check_same(runs, 'judge_key', _OTHER_JUDGE)
  return runs


def evaluate_runs(runs: Mapping[str, FinishedRun]) -> dict[str, Evaluation]:
  """Evaluates each run, with the distance of the first run's critic."""
  critics = [label for label, run in runs.items() if 'critic' in run.variables]
  first = runs[critics[0]] if critics else None
  distance = first and first.evaluator.distance_for(first.variables)
  evaluations = {}
  for label, (evaluator, variables, _) in runs.items():
    print(f'Evaluating {label} ...', flush=True)
    found = evaluator.evaluate(variables, distance=distance)
    value = found.scores.pop('distance')
    if critics:
      found.scores[f'distance ({critics[0]})'] = value
    evaluations[label] = found
  return evaluations


def page_of(
  configs: Mapping[str, ml_collections.ConfigDict],
  runs: Mapping[str, FinishedRun],
  evaluations: Mapping[str, Evaluation],
  **options: Any,
) -> str:
  """Builds the page of runs; `options` are those of `build_page`."""
  reported = [
    ReportedRun.of(
      label,
      workdir,
      config.to_dict(),
      run.step,
      run.evaluator,
      run.variables,
      evaluations[label],
    )
    for (workdir, config), (label, run) in zip(
      configs.items(), runs.items(), strict=True
    )
  ]
  title, protocol = ', '.join(runs), join_protocols(runs)
  return build_page(reported, title=title, protocol=protocol, **options)


def join_protocols(runs: Mapping[str, FinishedRun]) -> str:
  """Joins the runs' protocols; a line that differs names its run."""
  lines = {
    label: run.evaluator.protocol.splitlines() for label, run in runs.items()
  }
  shared = set.intersection(*map(set, lines.values()))
  joined = [line for line in next(iter(lines.values())) if line in shared]
  joined += [
    f'- {label}: {line.removeprefix("- ")}'
    for label, own in lines.items()
    for line in own
    if line not in shared
  ]
  return ''.join(f'{line}\n' for line in joined)


def _check_same_data(configs) -> None:
  (first_workdir, first), *others = configs.items()
  for workdir, config in others:
    for field in _SAME_DATA:
      if config.data[field] != first.data[field]:
        raise UserError(
          f'data.{field} is {config.data[field]!r} in {workdir} and '
          f'{first.data[field]!r} in {first_workdir}: only runs on the same '
          'held-out examples can be compared'
        )


def _check_same(runs, attribute: str, told: str) -> None:
  """Refuses runs of whose evaluators an attribute differs from the first's."""
  (first_label, first), *others = runs.items()
  for label, run in others:
    if getattr(run.evaluator, attribute) != getattr(first.evaluator, attribute):
      raise UserError(told.format(label, first_label))


def _read_feature_metrics(
  configs: Iterable[ml_collections.ConfigDict],
) -> FeatureMetrics:
  """Reads those of the first run that names any; all have the same data."""
  configs = list(configs)
  fields = ('lpips_weights', 'features_weights')
  named = (c for c in configs if any(c.evaluation[f] for f in fields))
  return read_feature_metrics(next(named, configs[0]))


def _without_samples(results):
  """Keeps the scores of the figure's reconstructions, from the mean.

  The rate in bits is dropped if all runs have it in nats.
  """
  in_nats = all(row.get('kl') is not None for row in results.values())
  return {
    label: {
      k: v
      for k, v in row.items()
      if is_main(k) and not (in_nats and k == 'rate')
    }
    for label, row in results.items()
  }


def _labels(workdirs: list[str]) -> list[str]:
  """Returns the runs' folder names, or their paths if names repeat."""
  names = [epath.Path(workdir).name for workdir in workdirs]
  return names if len(set(names)) == len(names) else list(workdirs)
