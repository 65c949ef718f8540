"""Rows of the schema: one row is all that a field needs."""

import ast
import dataclasses
import json

import pytest

from configs import default
from vaegan_jax import names
from vaegan_jax.config import rules, schema
from vaegan_jax.config.io import load_config, load_config_file
from vaegan_jax.config.migrations import upgrade
from vaegan_jax.config.overrides import apply_overrides
from vaegan_jax.config.shapes import MAX_AXES
from vaegan_jax.config.validation import validate
from vaegan_jax.errors import UserError
from vaegan_jax.losses import adversarial
from vaegan_jax.losses.reconstruction import LossConfig
from vaegan_jax.models import plain, residual
from vaegan_jax.models.critic import Critic
from vaegan_jax.models.latents.fsq import FSQ
from vaegan_jax.models.latents.lfq import LFQ
from vaegan_jax.models.latents.vq import VQ
from vaegan_jax.training.critic_step import CriticConfig

FIELDS = rules.flatten(default.get_config())
# What released versions without a field did: it may never change.
_ABSENT = """
init_from='' profile_steps=() data.folder_rules=1 data.group_by=''
data.clip=False data.axes='' data.nodata='' data.max_nodata=0.0
data.allow_growth=False data.feature='' data.example_axis=0 data.copy_dir=''
data.shape=() data.sample_rate=16000 data.value_range='dtype'
data.shown_bands=() data.random_crop_margin=0 data.flip_axes=()
model.network='plain' model.num_res_blocks=1 model.attention_sides=()
model.middle_attention=False model.layout='own' model.latent='gaussian'
model.latent_shape='flat' model.code_dim=8 model.codebook_size=512
model.unit_codes=False model.fsq_levels=(8,6,5) model.dtype='float32'
model.remat=False critic.dtype='float32' critic.head='dense' critic.num_scales=1
critic.views=('wave',) loss.distance_weight=1.0 loss.image_weight=0.0
loss.image_halvings=0 loss.image_high_pass=0.0 loss.norm='l2'
loss.spectrum_weight=0.0 loss.variance='half' loss.commitment_weight=0.25
loss.entropy_weight=0.1 optimizer.muon_learning_rate=0.0 health.min_usage=0.1
evaluation.lpips_weights='' evaluation.features_weights=''
"""


def test_a_new_field_is_one_row(monkeypatch, tmp_path):
  path = tmp_path / 'config.json'
  path.write_text(json.dumps(default.get_config().to_dict()))
  row = schema.Field(
    'model.color', 3, rules.between(1, 9), 'A color.', absent=2, resumable=True
  )
  monkeypatch.setattr(schema, 'FIELDS', (*schema.FIELDS, row))
  # Default, flag and validation, in a file as it is.
  config = load_config_file('configs/celeba.py')
  assert config.model.color == 3
  apply_overrides(config, ['main.py', '--config.model.color=4'])
  assert config.model.color == 4
  config.model.color = 10
  with pytest.raises(UserError, match=r'model\.color=10 .*from 1 to 9'):
    validate(config)
  with pytest.raises(UserError, match=r'--config\.model\.color'):
    apply_overrides(config, ['main.py', '--config.model.colour=4'])
  # The config.json of before, and the rule of resuming.
  assert load_config(path).model.color == 2
  assert 'model.color' in schema.resumable_fields(config)


def test_every_row_is_complete_and_its_default_valid():
  assert len(FIELDS) == len(schema.FIELDS)
  for field in schema.FIELDS:
    rules.check_value(field.name, field.default, field.rule, field.default)
    assert field.help.rstrip().endswith('.'), field.name


def test_what_released_versions_meant_without_a_field_stays():
  absent = {
    field.name: field.if_absent
    for field in schema.FIELDS
    if field.if_absent is not rules.REQUIRED
  }
  for row in _ABSENT.split():
    name, _, value = row.partition('=')
    assert absent[name] == ast.literal_eval(value), name
  upgraded = rules.flatten(upgrade({}))
  assert upgraded == json.loads(json.dumps(absent))


def test_the_length_of_a_run_with_a_schedule_may_not_change():
  config = default.get_config()
  assert 'num_train_steps' in schema.resumable_fields(config)
  config.optimizer.schedule = 'cosine'
  assert 'num_train_steps' not in schema.resumable_fields(config)
  assert 'log_every_steps' in schema.resumable_fields(config)


def test_fields_that_are_paths_are_known():
  assert set(schema.path_fields()) == {
    *('init_from', 'data.path', 'data.data_dir', 'data.copy_dir'),
    *('critic.weights', 'evaluation.lpips_weights'),
    'evaluation.features_weights',
  }


def test_tables_of_names_agree_with_what_they_name():
  assert set(names.ADVERSARIAL_OBJECTIVES) == set(adversarial.OBJECTIVES)
  assert MAX_AXES == 3  # As the rule of data.flip_axes says.


@pytest.mark.parametrize('field', FIELDS)
def test_every_field_can_be_set_from_the_command_line(field):
  config = default.get_config()
  apply_overrides(config, ['main.py', f'--config.{field}={FIELDS[field]}'])
  # A KL weight turns off the rate that would steer it.
  changed = {'loss.rate': 0.0} if field == 'loss.kl_weight' else {}
  assert rules.flatten(config) == FIELDS | changed


def test_the_last_flag_of_a_field_counts():
  config = default.get_config()
  flags = (
    *('--config.seed=1', '--config.seed=2'),
    *('--config.model.channel_multipliers=1,2', '--config.data.image_size=8'),
    *('--config.model.channel_multipliers', '(1, 2, 3)'),
    '--config.data.image_size=(8, 16)',
  )
  apply_overrides(config, ['main.py', *flags])
  assert config.seed == 2
  assert config.model.channel_multipliers == (1, 2, 3)
  assert config.data.image_size == (8, 16)


@pytest.mark.parametrize(
  ('section', 'settings'),
  (
    ('loss', LossConfig),
    ('critic', CriticConfig),
    ('critic', Critic),
    ('model', VQ),
    ('model', FSQ),
    ('model', LFQ),
    *(('model', m) for n in (plain, residual) for m in (n.Encoder, n.Decoder)),
  ),
)
def test_no_default_elsewhere_disagrees(section, settings):
  defaults = {field.name: field.default for field in schema.FIELDS}
  for field in dataclasses.fields(settings):
    name = f'{section}.{field.name}'
    has_default = field.default not in (dataclasses.MISSING, None)
    if has_default and name in defaults:
      assert field.default == defaults[name], name
