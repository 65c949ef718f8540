"""The modes `evaluate` and `compare` of `main.py`: finished runs, judged.

What is measured and drawn of one run is in `evaluator.py`.
"""

import json

import jax
import ml_collections
from etils import epath

from configs.serialization import load_config
from vaegan_jax import adversarial, figures, input_pipeline, models
from vaegan_jax.checkpoints import Checkpoints
from vaegan_jax.errors import UserError
from vaegan_jax.evaluator import NUM_COLUMNS, Evaluator
from vaegan_jax.optimizers import create_optimizers
from vaegan_jax.train_state import TrainState, create_train_state
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


def evaluate(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Measures a run on the whole held-out split, and draws it.

  Writes `evaluation.json` (one line), `evaluation.md` and
  `figures/evaluation_*.png` into the workdir, and prints the first two.

  Args:
    config: of the run; its data may be other images of the same shape.
    workdir: of the run.

  Raises:
    UserError: there is no whole checkpoint, or it is of another network.
  """
  check_writable(workdir)
  evaluator, state, step = _open(config, workdir)
  scores = evaluator.score(state)
  line = json.dumps({'step': step, **scores}, allow_nan=False)
  table = figures.markdown_table({epath.Path(workdir).name: scores})
  root = epath.Path(workdir)
  (root / 'evaluation.json').write_text(line + '\n')
  (root / 'evaluation.md').write_text(table)
  for name, image in evaluator.draw(state).items():
    figures.save_png(root / 'figures' / f'evaluation_{name}.png', image)
  print(line, table, f'Figures: {root / "figures"}', sep='\n', flush=True)


def compare(workdirs: list[str], output_dir: str) -> None:
  """Puts runs side by side, on the same held-out images.

  Every run's distance is measured by one critic, that of the first run that
  has one, as distances in different features cannot be compared. Writes
  `comparison.png`, `comparison.json` and `comparison.md`.

  Args:
    workdirs: of the runs; their images must be of the same dataset and shape.
    output_dir: where the three files go.

  Raises:
    UserError: a run has no checkpoint, or the runs' data differ.
  """
  check_writable(output_dir)
  configs = [load_config(epath.Path(w) / 'config.json') for w in workdirs]
  _check_same_data(configs, workdirs)
  runs = {
    label: _open(config, workdir)
    for label, config, workdir in zip(
      _labels(workdirs), configs, workdirs, strict=True
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


def _open(config, workdir) -> tuple[Evaluator, TrainState, int]:
  """A run's evaluator, and its newest whole checkpoint with its step."""
  modules = models.create_modules(
    with_critic=config.objective in adversarial.OBJECTIVES,
    data=config.data,
    model=config.model,
    critic=config.critic,
  )
  shape = (*[config.data.image_size] * 2, config.data.channels)
  template = jax.eval_shape(
    lambda: create_train_state(
      modules,
      create_optimizers(modules, **config.optimizer),
      seed=config.seed,
      image_shape=shape,
    )
  )
  restored = Checkpoints(workdir).restore(
    template,
    config=config.to_dict(),
    # Only the networks must be those of the checkpoint.
    free_fields=tuple(set(config) - {'model', 'critic'}),
    quarantine=False,
  )
  if restored is None:
    raise UserError(
      f'--workdir={workdir} has no checkpoint: train it first, with '
      f'--mode=train --workdir={workdir}'
    )
  (images,) = input_pipeline.load_splits(config.data, ['eval_split'])
  evaluator = Evaluator(
    modules,
    images,
    loss=config.loss,
    batch_size=config.batch_size,
    seed=config.seed,
  )
  return evaluator, *restored


def _check_same_data(configs, workdirs) -> None:
  first = configs[0].data
  for config, workdir in zip(configs, workdirs, strict=True):
    for field in _SAME_DATA:
      if config.data[field] != first[field]:
        raise UserError(
          f'data.{field} is {config.data[field]!r} in {workdir} and '
          f'{first[field]!r} in {workdirs[0]}: only runs on the same held-out '
          'images can be compared'
        )


def _labels(workdirs: list[str]) -> list[str]:
  """Short names of runs: their folders' names, or paths if those repeat."""
  names = [epath.Path(workdir).name for workdir in workdirs]
  return names if len(set(names)) == len(names) else list(workdirs)
