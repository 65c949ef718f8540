"""The modes of `main.py` after training: finished runs, judged and used.

What is measured and drawn of one run is in `evaluator.py`.
"""

import json
from collections.abc import Mapping

import flax.linen as nn
import jax
import ml_collections
from etils import epath

from vaegan_jax import distributed, figures, input_pipeline, style_transfer
from vaegan_jax.checkpoints import Checkpoints
from vaegan_jax.errors import UserError
from vaegan_jax.evaluator import NUM_COLUMNS, Evaluator, Poll, go_on
from vaegan_jax.train import create_evaluator, create_networks
from vaegan_jax.train_state import TrainState
from vaegan_jax.writers import check_writable

# Fields of `config.data` that decide what the held-out images are.
_SAME_DATA = (
  'name',
  'path',
  'image_size',
  'channels',
  'center_crop',
  'eval_split',
)


def evaluate(
  config: ml_collections.ConfigDict, workdir: str, poll: Poll = go_on
) -> None:
  """Measures a run on the whole held-out split, and draws it.

  Writes `evaluation.json` (one line), `evaluation.md` and
  `figures/evaluation_*.png` into the workdir, and prints the first two. Of
  several processes all compute, and the first writes.

  Args:
    config: of the run; its data may be other images of the same shape.
    workdir: of the run.
    poll: called often; it may raise what is to end the evaluation.

  Raises:
    UserError: there is no whole checkpoint, or it is of another network.
  """
  check_writable(workdir)
  evaluator, state, step = _open(config, workdir)
  scores = evaluator.score(state, poll=poll)
  drawn = evaluator.draw(state, poll=poll)
  if not distributed.is_first():
    return
  line = json.dumps({'step': step, **scores}, allow_nan=False)
  table = figures.markdown_table({epath.Path(workdir).name: scores})
  root = epath.Path(workdir)
  (root / 'evaluation.json').write_text(line + '\n')
  (root / 'evaluation.md').write_text(table)
  for name, image in drawn.items():
    figures.save_png(root / 'figures' / f'evaluation_{name}.png', image)
  print(line, table, f'Figures: {root / "figures"}', sep='\n', flush=True)


def compare(
  configs: Mapping[str, ml_collections.ConfigDict], output_dir: str
) -> None:
  """Puts runs side by side, on the same held-out images.

  Every run's distance is measured by one critic, that of the first run that
  has one, as distances in different features cannot be compared. Writes
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
  runs = {
    label: _open(config, workdir)
    for label, (workdir, config) in zip(
      _labels(list(configs)), configs.items(), strict=True
    )
  }
  judge = next(
    (
      (label, evaluator.distance_for(state))
      for label, (evaluator, state, _) in runs.items()
      if 'critic' in state.networks
    ),
    None,
  )
  rows, results = {}, {}
  for label, (evaluator, state, _) in runs.items():
    print(f'Evaluating {label} ...', flush=True)
    x, rows[label] = evaluator.reconstruct_first(state, NUM_COLUMNS)
    results[label] = evaluator.score(state, distance=judge and judge[1])
    distance = results[label].pop('distance')
    if judge:
      results[label][f'distance ({judge[0]})'] = distance
  rows = {'originals': x} | rows
  output = epath.Path(output_dir)
  figures.save_png(
    output / 'comparison.png', figures.comparison_figure(rows, results)
  )
  table = figures.markdown_table(results)
  (output / 'comparison.md').write_text(table)
  (output / 'comparison.json').write_text(json.dumps(results) + '\n')
  print(table, f'Figure: {output / "comparison.png"}', sep='\n', flush=True)


def transfer_style(
  config: ml_collections.ConfigDict,
  workdir: str,
  runs: Mapping[str, ml_collections.ConfigDict],
) -> None:
  """Transfers the style of a picture to another; see `style_transfer.run`.

  Args:
    config: with the fields of `configs/style.py`.
    workdir: where the pictures are written.
    runs: {workdir: configuration} of the run whose critic is the network; {}
      for VGG.

  Raises:
    UserError: a file or a value is wrong, or the run has no critic.
  """
  network = None
  for run, run_config in runs.items():
    modules, state, _ = load_networks(run_config, run)
    if 'critic' not in modules:
      raise UserError(
        f'critic={run!r} has none, because its objective is '
        f'{run_config.objective!r}: name another run, such as '
        '--config.critic=runs/celeba'
      )
    variables = state.networks['critic'].variables
    network = modules['critic'], variables, run_config.data.channels
  style_transfer.run(config, workdir, network)


def load_networks(
  config: ml_collections.ConfigDict, workdir: str
) -> tuple[dict[str, nn.Module], TrainState, int]:
  """Restores a run's newest whole checkpoint.

  Args:
    config: of the run.
    workdir: of the run.

  Returns:
    Its modules by name, their state, and the step.

  Raises:
    UserError: there is no whole checkpoint, or it is of another network.
  """
  modules, _, create_state = create_networks(config)
  restored = Checkpoints(workdir).restore(
    jax.eval_shape(create_state),
    config=config.to_dict(),
    # Only the networks must be those of the checkpoint.
    free_fields=(*set(config) - {'model', 'critic'}, 'critic.weights'),
    quarantine=False,
  )
  if restored is None:
    raise UserError(
      f'--workdir={workdir} has no checkpoint: train it first, with '
      f'--mode=train --workdir={workdir}'
    )
  return modules, *restored


def _open(config, workdir) -> tuple[Evaluator, TrainState, int]:
  """A run's evaluator, and its newest whole checkpoint with its step."""
  modules, state, step = load_networks(config, workdir)
  (images,) = input_pipeline.load_splits(config.data, ['eval_split'])
  return create_evaluator(config, modules, images), state, step


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


def _labels(workdirs: list[str]) -> list[str]:
  """Short names of runs: their folders' names, or paths if those repeat."""
  names = [epath.Path(workdir).name for workdir in workdirs]
  return names if len(set(names)) == len(names) else list(workdirs)
