"""The command `evaluate`: scores and figures of one finished run.

`evaluation/evaluator.py` computes them.
"""

import json

import ml_collections
from etils import epath

from vaegan_jax.evaluation.evaluator import Poll, never_stop
from vaegan_jax.evaluation.tables import markdown_table
from vaegan_jax.runtime import distributed
from vaegan_jax.runtime.files import check_writable, save_png, write_text
from vaegan_jax.setup.finished_run import open_run


def evaluate(
  config: ml_collections.ConfigDict, workdir: str, poll: Poll = never_stop
) -> None:
  """Evaluates a run on the whole held-out split, and plots figures.

  Writes `evaluation.json` (one line), `evaluation.md` and
  `figures/evaluation_*.png` into the workdir, and prints the first two. With
  several processes all compute, and the first one writes.

  Raises:
    UserError: there is no whole checkpoint, or it is of another network.
  """
  check_writable(workdir, 'figures')
  evaluator, variables, step = open_run(config, workdir)
  scores = evaluator.score(variables, poll=poll)
  plotted = evaluator.plot(variables, poll=poll)
  if not distributed.is_first():
    return
  line = json.dumps({'step': step, **scores}, allow_nan=False)
  table = markdown_table({epath.Path(workdir).name: scores})
  table += '\n' + evaluator.protocol
  root = epath.Path(workdir)
  write_text(root / 'evaluation.json', line + '\n')
  write_text(root / 'evaluation.md', table)
  for name, image in plotted.items():
    save_png(root / 'figures' / f'evaluation_{name}.png', image)
  print(line, table, f'Figures: {root / "figures"}', sep='\n', flush=True)
