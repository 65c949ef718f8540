"""The paths that a command line names, as every mode takes them."""

import os

import ml_collections

# Fields that are paths, of which the last has two with a comma between them.
# Every machine may have its own.
_TWO = 'evaluation.lpips_weights'
PATHS = (
  *('data.path', 'data.data_dir', 'data.copy_dir', 'critic.weights'),
  *('evaluation.features_weights', _TWO),
)
_SHARED = 'init_from'  # It is of all machines, as the workdir is.


def absolute(path: str) -> str:
  """Makes a local path absolute, `~` expanded; '' and `gs://...` stay."""
  if not path or '://' in path:
    return path
  return os.path.abspath(os.path.expanduser(os.path.expandvars(path)))


def make_paths_absolute(config: ml_collections.ConfigDict) -> None:
  """Makes the paths of a run's configuration absolute, in place."""
  for name in (*PATHS, _SHARED):
    section, _, field = name.rpartition('.')
    fields = config[section] if section else config
    paths = fields[field].split(',') if name == _TWO else [fields[field]]
    fields[field] = ','.join(map(absolute, paths))
