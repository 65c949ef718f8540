"""Compares a run's images with those that it began with.

Owns what happens to a run whose folder has changed. It keeps the rules by which
the folder was read, accepts added images on request, and notes a change in its
scores. Other changes are refused by `runtime/checkpoints.py`.
"""

from collections.abc import Container, Mapping
from typing import Any

import ml_collections

from vaegan_jax.config import schema
from vaegan_jax.config.migrations import upgrade
from vaegan_jax.config.rules import flatten
from vaegan_jax.config.settings import settings, with_data
from vaegan_jax.config.shapes import has_rate_of_file
from vaegan_jax.data.data_config import DataConfig
from vaegan_jax.data.split import load_splits
from vaegan_jax.errors import UserError
from vaegan_jax.runtime import distributed
from vaegan_jax.runtime.checkpoint_files import read_identity

# Values in the pairs of `_CHANGES`: any; that of a field which the run's own
# version did not have; a rate that the file sets, and no flag.
_ANY, _LACKING, _OF_FILE = object(), object(), object()
# Changes of what a command without flags means. Each is (fields that tell a run
# of before by all of their pairs, further fields), {field: [(value before, and
# now)]}. Such a run keeps each field of which a pair holds. If a file changes
# again, the values of now change in all rows.
_CHANGES = (
  # The configuration files have a rate in place of a KL weight.
  ({'loss.rate': [(0.0, _OF_FILE)]}, {'loss.kl_weight': [(_ANY, _ANY)]}),
  # Another rule would hold out images that were trained on.
  ({'data.folder_rules': [(_ANY, _ANY)]}, {}),
  # volume.py
  (
    {'loss.norm': [(_LACKING, _ANY)]},
    {
      'optimizer.autoencoder_learning_rate': [(2e-3, 1e-3)],
      'optimizer.critic_learning_rate': [(2e-3, 1e-3)],
    },
  ),
  # volume.py, bands.py: more R1, a cosine, and a KL weight near what the rate
  # has. An R1 or a cosine alone may be a flag's.
  (
    {
      'critic.r1_weight': [(1.0, 10.0), (1.0, 20.0)],
      'optimizer.schedule': [(_ANY, 'cosine')],
    },
    {'loss.kl_weight': [(1e-2, 1e-3), (1e-2, 2e-3)]},
  ),
  (
    {
      'optimizer.schedule': [('constant', 'cosine')],
      'loss.kl_weight': [(1e-2, 1e-3), (1e-2, 2e-3)],
    },
    {},
  ),
  # quickstart.py
  (
    {'loss.image_growth': [(_LACKING, _ANY)]},
    {'loss.image_weight': [(2.0, 1.0)]},
  ),
  ({'loss.rate': [(0.0, 120.0)], 'loss.adversarial_weight': [(0.2, 0.1)]}, {}),
  # audio.py: critics and weight of spectra, the mask, noise, patches.
  ({'critic.views': [(_LACKING, _ANY)]}, {}),
  ({'loss.spectrum_weight': [(_LACKING, _ANY)]}, {}),
  ({'model.spectral_mask': [(_LACKING, _ANY)]}, {}),
  ({'model.spectral_noise': [(_LACKING, _ANY)]}, {}),
  (
    {'model.spectral_noise': [(_LACKING, True)]},
    {
      'optimizer.schedule': [('constant', 'cosine')],
      'loss.spectrum_weight': [(2.0, 8.0)],
    },
  ),
  (
    {
      'model.patch_size': [(1, 8)],
      'model.depth': [(6, 3)],
      'model.channel_multipliers': [((1, 2, 2, 4, 4, 4), (2, 4, 4))],
    },
    {
      'model.width': [(16, 32)],
      'model.latent_dim': [(8, 24)],
      'critic.stft_windows': [((1024, 512, 256), (1024, 256))],
      'critic.r1_weight': [(1.0, 0.01)],
      'loss.norm': [('l1', 'log')],
      'loss.image_weight': [(0.0, 40.0), (1.0, 40.0)],
      'loss.image_halvings': [(3, 0)],
      'loss.spectrum_weight': [(1.0, 8.0)],
      'loss.kl_weight': [(4.0, 0.3), (1e-2, 5e-3)],  # Of `mse` and the others.
      'optimizer.muon_learning_rate': [(0.0, 0.02), (0.01, 0.02)],
      'loss.rate': [(_ANY, _OF_FILE)],  # It follows the latent's size.
    },
  ),
  # audio.py: twice the learning rate of Muon, logarithms of the distances.
  (
    {
      'model.patch_size': [(8, 8)],
      'optimizer.muon_learning_rate': [(0.01, 0.02)],
    },
    {},
  ),
  (
    {'model.patch_size': [(8, 8)], 'loss.norm': [('l2', 'log')]},
    {
      'critic.r1_weight': [(1.0, 0.01)],
      'loss.image_weight': [(4.0, 40.0), (12.0, 40.0), (100.0, 40.0)],
      'loss.spectrum_weight': [(1.0, 8.0), (3.0, 8.0)],
      'loss.kl_weight': [(3e-4, 5e-3), (2e-3, 5e-3)],
    },
  ),
  # The defaults of fields.
  *(
    ({field.name: [(field.if_absent, field.default)]}, {})
    for field in schema.FIELDS
  ),
)


def read_recorded(
  workdir: str, step: int | None = None
) -> dict[str, Any] | None:
  """Reads what a checkpoint records, in the fields of this version.

  All processes must call this at the same time.

  Returns:
    As `read_identity`, with 'lacks', the fields that the run's own version did
    not have.
  """
  recorded = distributed.from_first(lambda: read_identity(workdir, step))
  if not recorded:
    return recorded
  own = set(flatten(recorded['config']))
  config = upgrade(recorded['config'])
  lacks = sorted(set(flatten(config)) - own)
  return recorded | {'config': config, 'lacks': lacks}


def keep_rules(
  config: ml_collections.ConfigDict,
  workdir: str,
  recorded: dict[str, Any] | None = None,
) -> ml_collections.ConfigDict:
  """Returns the configuration with the meaning that the run began with.

  It also keeps the `data.value_range` that it has found. All processes must
  call this at the same time.

  Args:
    recorded: by the run's newest checkpoint; None: it is read.

  Returns:
    A copy, or `config` itself if nothing differs.
  """
  recorded = recorded or read_recorded(workdir)
  if not recorded:
    return config
  began = recorded['config']
  kept = _kept_fields(config, flatten(began), recorded['lacks'])
  found = began['data']['value_range']
  if isinstance(found, list) and isinstance(config.data.value_range, str):
    config = with_data(config, value_range=tuple(found))
  if not kept:
    return config
  listed = ', '.join(f'{name}={value}' for name, value in kept.items())
  print(f'{workdir} began with {listed}, and keeps it.', flush=True)
  config = config.copy_and_resolve_references()
  config.update_from_flattened_dict(kept)
  return config


def new_in_files(lacks: Container[str]) -> list[str]:
  """Returns those of the fields by whose lack `_CHANGES` tells a run."""
  return [
    name
    for told_by, _ in _CHANGES
    for name, pairs in told_by.items()
    if name in lacks and (_LACKING, _ANY) in pairs
  ]


def _kept_fields(
  config: ml_collections.ConfigDict,
  began: Mapping[str, Any],
  lacks: Container[str],
) -> dict[str, Any]:
  """Returns the fields {name: value} that a run keeps, by `_CHANGES`.

  `lacks` are those that its own version did not have.
  """
  now = flatten(config)
  was = {name: _as_tuple(began[name]) for name in now if name in began}

  def keeps(name, pairs) -> bool:
    before, after = [_ANY, was.get(name)], [_ANY, now[name]]
    if name in lacks:
      before.append(_LACKING)
    if name == 'loss.rate' and now[name] and has_rate_of_file(config):
      after.append(_OF_FILE)
    return name in was and any(a in before and b in after for a, b in pairs)

  kept = {}
  for told_by, others in _CHANGES:
    if all(keeps(*field) for field in told_by.items()):
      fields = (told_by | others).items()
      kept |= {name: was[name] for name, pairs in fields if keeps(name, pairs)}
  return {name: value for name, value in kept.items() if value != now[name]}


def may_have_grown(
  config: ml_collections.ConfigDict,
  workdir: str,
  data: dict[str, Any],
  recorded: dict[str, Any] | None,
) -> bool:
  """Checks if a run's folder has more images than before, and may have.

  Returns:
    True, with a message, if the folder has grown and `data.allow_growth` is
    set. False if its images are the same or fewer, or are read in another way;
    restoring refuses both.

  Raises:
    UserError: it has grown, and `data.allow_growth` is not set.
  """
  if not (recorded and config.data.path):
    return False
  was, now = recorded['data']['num_images'], data['num_images']
  began, current = map(flatten, (recorded['config'], config))
  if any(
    _as_tuple(began[field.name]) != current[field.name]
    for field in schema.FIELDS
    if field.name.startswith('data.') and not field.resumable
  ):
    return False
  # The number is equal if all added images are held out.
  if now < was or recorded['data'] == data:
    return False
  found = (
    f'data.path={config.data.path!r} has {now:,} training examples, and had '
    f'{was:,}, not all the same, at step {recorded["step"]:,} of the run in '
    f'{workdir}'
  )
  if not config.data.allow_growth:
    raise UserError(
      f'{found}: if examples were only added, resume with '
      '--config.data.allow_growth=true, which changes their order from here '
      'on. Otherwise restore the folder or use a new --workdir'
    )
  moved = ''
  if config.data.folder_rules == 1:
    moved = (
      '; examples held out now may have been trained on, because '
      'data.folder_rules is 1'
    )
  print(
    f'{found}: {now - was:,} are new, and the order of examples changes '
    f'from here on{moved}.',
    flush=True,
  )
  return True


def describe_change(
  config: ml_collections.ConfigDict, workdir: str, step: int
) -> str:
  """Describes how a run's images differ from those that it was trained on.

  Returns:
    A clause for the protocol; '' if they are the same.

  Raises:
    UserError: the images cannot be read.
  """
  recorded = read_recorded(workdir, step)
  if recorded is None:  # A trainer may have pruned it since.
    return ''
  trained, now = recorded['config']['data'], config.data
  if _without_version(trained['name']) != _without_version(now.name):
    return f'the run was trained on other data, {trained["name"]}'
  # The training images then, read as they are now.
  fields = trained | {
    'name': now.name,
    'path': now.path,
    'data_dir': now.data_dir,
    'nodata': now.nodata,
    'max_nodata': now.max_nodata,
    'cache_images': False,
  }
  (images,) = load_splits(settings(DataConfig, fields), ['train_split'])
  was = recorded['data']
  if was['fingerprint'] == images.fingerprint:
    return ''
  change = (
    'the examples are not those that the run was trained on, '
    f'{was["num_images"]:,} then and {len(images):,} now'
  )
  if now.name not in ('image_folder', 'array_folder'):
    return change
  if now.folder_rules == 1:
    return (
      f'{change}: held-out examples may have been trained on, because '
      'data.folder_rules is 1'
    )
  return f'{change}: added files have moved no other to another split'


def _as_tuple(value: Any) -> Any:
  """Returns a value as it was before JSON, which has lists."""
  return tuple(value) if isinstance(value, list) else value


def _without_version(name: str) -> str:
  return name.partition(':')[0]
