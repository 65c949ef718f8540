"""The mode `compare`: finished runs side by side, on the same images."""

import json
from collections.abc import Mapping

import ml_collections
from etils import epath

from vaegan_jax.errors import UserError
from vaegan_jax.evaluation.feature_metrics import (
  FeatureMetrics,
  load_feature_metrics,
)
from vaegan_jax.evaluation.plots import comparison_figure
from vaegan_jax.evaluation.scores import is_main
from vaegan_jax.evaluation.tables import markdown_table
from vaegan_jax.runtime.files import check_writable, save_png, write_text
from vaegan_jax.setup.runs import open_run

# Fields of `config.data` that decide what the held-out images are.
_SAME_DATA = (
  'name',
  'path',
  'feature',
  'shape',
  'image_size',
  'channels',
  'center_crop',
  'eval_split',
)


def compare(
  configs: Mapping[str, ml_collections.ConfigDict], output_dir: str
) -> None:
  """Puts runs side by side, on the same held-out images.

  Every run's distance is measured by one critic, that of the first run that
  has one, as distances in different features cannot be compared, and all are
  looked at by the judges of the first run that names any. Writes
  `comparison.png`, `comparison.json` and `comparison.md`.

  Args:
    configs: {workdir: its configuration}; the images of the runs must be of
      the same dataset and shape.
    output_dir: where the three files go.

  Raises:
    UserError: a run has no checkpoint, or the runs' data differ.
  """
  check_writable(output_dir)
  _check_same_data(configs)
  options = {
    'feature_metrics': _create_feature_metrics(configs.values()),
    'batch_size': next(iter(configs.values())).batch_size,
  }
  runs = {
    label: open_run(config, workdir, **options)
    for label, (workdir, config) in zip(
      _labels(list(configs)), configs.items(), strict=True
    )
  }
  _check_same_images(configs, runs)
  judge = next(
    (
      (label, evaluator.distance_for(variables))
      for label, (evaluator, variables, _) in runs.items()
      if 'critic' in variables
    ),
    None,
  )
  rows, results = {}, {}
  for label, (evaluator, variables, _) in runs.items():
    print(f'Evaluating {label} ...', flush=True)
    x, x_recon = evaluator.reconstruct_first(variables, evaluator.num_columns)
    x, rows[label] = evaluator.as_pictures(x), evaluator.as_pictures(x_recon)
    results[label] = evaluator.score(variables, distance=judge and judge[1])
    distance = results[label].pop('distance')
    if judge:
      results[label][f'distance ({judge[0]})'] = distance
  rows = {'originals': x} | rows
  output = epath.Path(output_dir)
  figure = comparison_figure(rows, _without_samples(results))
  save_png(output / 'comparison.png', figure)
  table = markdown_table(results) + '\n' + evaluator.protocol
  write_text(output / 'comparison.md', table)
  write_text(output / 'comparison.json', json.dumps(results) + '\n')
  print(table, f'Figure: {output / "comparison.png"}', sep='\n', flush=True)


def _check_same_data(configs) -> None:
  (first_workdir, first), *others = configs.items()
  for workdir, config in others:
    for field in _SAME_DATA:
      if config.data[field] != first.data[field]:
        raise UserError(
          f'data.{field} is {config.data[field]!r} in {workdir} and '
          f'{first.data[field]!r} in {first_workdir}: only runs on the same '
          'held-out images can be compared'
        )


def _check_same_images(configs, runs) -> None:
  """Of a folder, which runs of two versions may split otherwise."""
  (first_label, first), *others = runs.items()
  if len({config.data.folder_rules for config in configs.values()}) == 1:
    return
  for label, run in others:
    if run[0].fingerprint != first[0].fingerprint:
      raise UserError(
        f'the held-out images of {label} are not those of {first_label}, '
        'because their data.folder_rules differ: only runs on the same '
        'held-out images can be compared'
      )


def _create_feature_metrics(configs) -> FeatureMetrics:
  sections = [config.evaluation for config in configs]
  named = (section for section in sections if any(section.values()))
  return load_feature_metrics(**next(named, sections[0]))


def _without_samples(results):
  """The reconstructions that are drawn are those from the mean.

  A rate that all have in nats is not told in bits again.
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
  """Short names of runs: their folders' names, or paths if those repeat."""
  names = [epath.Path(workdir).name for workdir in workdirs]
  return names if len(set(names)) == len(names) else list(workdirs)
