"""What the configuration of an earlier version says, in the fields of today.

A workdir outlives the code that made it. A field that its `config.json`, or a
checkpoint of it, lacks takes the value that means what that version did, which
need not be today's default. What a field meant then it means now: a new meaning
is a new name.
"""

from collections.abc import Mapping
from typing import Any

# Every field that is newer than the first version, and what was done before it,
# as JSON has it.
MEANT = {
  'data.folder_rules': 1,
  'data.allow_growth': False,
  'init_from': '',
  'data.copy_dir': '',
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
  'model.remat': False,
  'model.fsq_levels': [8, 6, 5],
  'health.min_usage': 0.1,
  'evaluation.lpips_weights': '',
  'evaluation.features_weights': '',
}
# Values that have another name now.
RENAMED = {('critic.network', 'blocks'): 'plain'}


def upgrade(config: Mapping[str, Any]) -> dict[str, Any]:
  """Adds the fields that a configuration is too old to have, and renames.

  Args:
    config: nested, of any version: from JSON, or a ConfigDict's dictionary.

  Returns:
    A copy with the fields of today, if it had those of its version.
  """
  upgraded = {
    name: dict(value) if isinstance(value, Mapping) else value
    for name, value in config.items()
  }
  for name, value in MEANT.items():
    section, _, field = name.partition('.')
    fields = upgraded.setdefault(section, {}) if field else upgraded
    if isinstance(fields, dict):  # Else it is no configuration of ours.
      fields.setdefault(field or section, value)
  for (name, was), value in RENAMED.items():
    section, field = name.split('.')
    fields = upgraded.get(section)
    if isinstance(fields, dict) and fields.get(field) == was:
      fields[field] = value
  return upgraded
