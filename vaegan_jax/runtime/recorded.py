"""What a checkpoint says of the run that it is of, read without its state.

The leaves are not proved whole: that is `Checkpoints.restore`'s to do.
"""

from typing import Any

from etils import epath

from vaegan_jax.runtime.checkpoints import Checkpoints, read_meta


def read_identity(
  workdir: epath.PathLike, step: int | None = None
) -> dict[str, Any] | None:
  """Reads the configuration and the dataset that a checkpoint is of.

  Args:
    workdir: of the run, local or `gs://...`.
    step: of the checkpoint; None: the newest that can be read.

  Returns:
    'config', as saved by its version, 'data' and 'step'; None if there is none.
  """
  steps = Checkpoints(workdir).steps() if step is None else [step]
  for step in reversed(steps):
    path = epath.Path(workdir) / 'checkpoints' / str(step)
    try:
      meta = read_meta(path)
      return {key: meta[key] for key in ('step', 'config', 'data')}
    except Exception:  # Of damage, or of a bucket: there is no common class.
      continue
  return None
