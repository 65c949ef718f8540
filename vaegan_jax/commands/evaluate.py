"""The command `evaluate`: scores and figures of one finished run.

`evaluation/evaluator.py` computes them.
"""

import json

import ml_collections
from etils import epath

from vaegan_jax.evaluation.reconstructor import Poll, never_stop
from vaegan_jax.evaluation.tables import markdown_table
from vaegan_jax.names import REPORT_FILE
from vaegan_jax.report.live import write_page
from vaegan_jax.runtime import distributed
from vaegan_jax.runtime.files import check_writable, save_png, write_text
from vaegan_jax.setup.finished_run import open_run


def evaluate(
  config: ml_collections.ConfigDict, workdir: str, poll: Poll = never_stop
) -> None:
  """Evaluates a run on the whole held-out split, and plots figures.

  Writes `evaluation.json` (one line), `evaluation.md`, `report.html` and
  `figures/evaluation_*.png` into the workdir, and prints the first two. With
  several processes all compute, and the first one writes.

  Raises:
    UserError: there is no whole checkpoint, or it is of another network.
  """
  check_writable(workdir, 'figures')
  evaluator, variables, step = open_run(config, workdir)
  found = evaluator.evaluate(variables, poll=poll)
  plotted = evaluator.plot(variables, poll=poll)
  if not distributed.is_first():
    return
  line = json.dumps({'step': step, **found.scores}, allow_nan=False)
  table = markdown_table({epath.Path(workdir).name: found.scores})
  table += '\n' + evaluator.protocol
  root = epath.Path(workdir)
  write_text(root / 'evaluation.json', line + '\n')
  write_text(root / 'evaluation.md', table)
  for name, image in plotted.items():
    save_png(root / 'figures' / f'evaluation_{name}.png', image)
  write_page(root, config.to_dict(), evaluator, step, variables, found)
  where = f'Figures: {root / "figures"}', f'Report: {root / REPORT_FILE}'
  print(line, table, *where, sep='\n', flush=True)
