"""Translation of the configurations of earlier versions.

A workdir outlives the code that made it. A field that its `config.json`, or a
checkpoint, lacks takes the value that means what that version did: the row of
the field in `schema.py` has it. A field never changes its meaning; a new
meaning is a new name. `MIGRATIONS` translates fields that were removed or
renamed, and for them a configuration is written with its version.
"""

from collections.abc import Callable, Mapping
from typing import Any

from vaegan_jax.config import schema
from vaegan_jax.config.rules import REQUIRED
from vaegan_jax.errors import UserError


def _name_networks(config: dict[str, Any]) -> dict[str, Any]:
  """Renames the first version's only kind of critic, 'blocks', to 'plain'."""
  critic = config.get('critic')
  if isinstance(critic, dict) and critic.get('network') == 'blocks':
    critic['network'] = 'plain'
  return config


# Entry i translates version i + 1 to i + 2. Each function may change the nested
# fields in place and returns them. A new field alone needs no new version.
MIGRATIONS: tuple[Callable[[dict[str, Any]], dict[str, Any]], ...] = (
  _name_networks,
)
_VERSION = 'version'  # Beside the fields; files without it have version 1.


def stamp(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns today's fields with their version, as they are written."""
  return {_VERSION: 1 + len(MIGRATIONS), **config}


def upgrade(config: Mapping[str, Any]) -> dict[str, Any]:
  """Translates a configuration of any version into a copy with today's fields.

  Raises:
    UserError: a newer version wrote it.
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
  for field in schema.FIELDS:
    if field.if_absent is REQUIRED:
      continue
    section, _, name = field.name.rpartition('.')
    fields = upgraded.setdefault(section, {}) if section else upgraded
    if isinstance(fields, dict):  # Reading the file reports anything else.
      value = field.if_absent
      is_tuple = isinstance(value, tuple)  # JSON has lists.
      fields.setdefault(name, list(value) if is_tuple else value)
  return upgraded
