"""The paths that a command line names, as every mode takes them."""

import os

import ml_collections

# Fields that are paths. Every machine may have its own.
PATHS = (
  *('data.path', 'data.data_dir', 'critic.weights'),
  *('evaluation.features_weights', 'evaluation.lpips_weights'),
)


def absolute(path: str) -> str:
  """Makes a local path absolute, `~` expanded; '' and `gs://...` stay."""
  if not path or '://' in path:
    return path
  return os.path.abspath(os.path.expanduser(os.path.expandvars(path)))


def make_paths_absolute(config: ml_collections.ConfigDict) -> None:
  """Makes the paths of a run's configuration absolute, in place."""
  pairs = ['evaluation.lpips_weights']  # Two, with a comma between them.
  if config.critic.network == 'lpips':
    pairs.append('critic.weights')
  for name in PATHS:
    section, field = name.split('.')
    value = config[section][field]
    paths = value.split(',') if name in pairs else [value]
    config[section][field] = ','.join(map(absolute, paths))
