"""What the configuration of an earlier version says, in the fields of today.

A workdir outlives the code that made it. A field that its `config.json`, or a
checkpoint of it, lacks takes the value that means what that version did, which
need not be today's default. What a field meant then it means now: a new meaning
is a new name. What became of fields that were removed or renamed is said by
`MIGRATIONS`, for which a configuration is written with its version.
"""

from collections.abc import Callable, Mapping
from typing import Any

from vaegan_jax.errors import UserError

# Every field that is newer than the first version, and what was done before it,
# as JSON has it.
MEANT = {
  'data.folder_rules': 1,
  'data.allow_growth': False,
  'init_from': '',
  'data.copy_dir': '',
  'profile_steps': [],
  'data.value_range': 'dtype',
  'data.flip_axes': [],
  'data.shape': [],
  'data.sample_rate': 16_000,
  'data.feature': '',
  'data.random_crop_margin': 0,
  'data.shown_bands': [],
  'loss.distance_weight': 1.0,
  'loss.image_weight': 0.0,
  'loss.image_halvings': 0,
  'loss.variance': 'half',
  'loss.commitment_weight': 0.25,
  'loss.entropy_weight': 0.1,
  'critic.head': 'dense',
  'critic.num_scales': 1,
  'model.network': 'plain',
  'model.layout': 'own',
  'model.num_res_blocks': 1,
  'model.attention_sides': [],
  'model.middle_attention': False,
  'model.latent': 'gaussian',
  'model.latent_shape': 'flat',
  'model.code_dim': 8,
  'model.codebook_size': 512,
  'model.unit_codes': False,
  'model.dtype': 'float32',
  'critic.dtype': 'float32',
  'model.remat': False,
  'model.fsq_levels': [8, 6, 5],
  'health.min_usage': 0.1,
  'evaluation.lpips_weights': '',
  'evaluation.features_weights': '',
}


def _name_networks(config: dict[str, Any]) -> dict[str, Any]:
  """The first version's critic had one kind of blocks, without a name."""
  critic = config.get('critic')
  if isinstance(critic, dict) and critic.get('network') == 'blocks':
    critic['network'] = 'plain'
  return config


# What each version but the last has to go through to become the next, from 1
# on: a function of nested fields, its own to change, that returns them. A new
# field alone is no new version: `MEANT` has it.
MIGRATIONS: tuple[Callable[[dict[str, Any]], dict[str, Any]], ...] = (
  _name_networks,
)
_VERSION = 'version'  # Beside the fields; files without one are of version 1.


def stamp(config: Mapping[str, Any]) -> dict[str, Any]:
  """The fields of today with their version, as they are written."""
  return {_VERSION: 1 + len(MIGRATIONS), **config}


def upgrade(config: Mapping[str, Any]) -> dict[str, Any]:
  """Translates a configuration into the fields of today.

  Args:
    config: nested, of any version: from JSON, or a ConfigDict's dictionary.

  Returns:
    A copy with the fields of today, if it had those of its version, and without
    the version.

  Raises:
    UserError: it is of a newer version than this.
  """
  upgraded = {
    name: dict(value) if isinstance(value, Mapping) else value
    for name, value in config.items()
  }
  version, newest = upgraded.pop(_VERSION, 1), 1 + len(MIGRATIONS)
  if type(version) is not int or not 1 <= version <= newest:
    raise UserError(
      f'config.json has version={version!r}, which must be from 1 to {newest}: '
      'install the vaegan_jax that wrote it, or a newer one'
    )
  for migrate in MIGRATIONS[version - 1 :]:
    upgraded = migrate(upgraded)
  for name, value in MEANT.items():
    section, _, field = name.partition('.')
    fields = upgraded.setdefault(section, {}) if field else upgraded
    if isinstance(fields, dict):  # Else it is no configuration of ours.
      fields.setdefault(field or section, value)
  return upgraded
