"""The command `report`: one page on finished runs, to look at and to mail."""

from collections.abc import Mapping

import ml_collections

from vaegan_jax.commands.compare import evaluate_runs, open_runs, page_of
from vaegan_jax.config.cli import PageOptions
from vaegan_jax.runtime.files import check_writable, write_text


def report(
  configs: Mapping[str, ml_collections.ConfigDict],
  folder: str,
  options: PageOptions,
) -> None:
  """Evaluates runs on the same held-out examples, and writes their page.

  `configs` are {workdir: configuration}; several runs are compared.

  Raises:
    UserError: a run has no checkpoint, the runs' data differ, or the file
      cannot be written.
  """
  check_writable(folder, flag='output')
  runs = open_runs(configs)
  page = page_of(
    configs,
    runs,
    evaluate_runs(runs),
    num_examples=options.num_examples,
    megabytes=options.megabytes,
  )
  write_text(options.path, page)
  print(f'Report: {options.path}', flush=True)
