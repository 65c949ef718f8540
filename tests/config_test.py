"""Tests of configs/: the files, their values, and what is said of bad ones."""

import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configs import default, validation
from configs.overrides import apply_overrides
from configs.serialization import load_config, load_config_file, to_json
from vaegan_jax import adversarial
from vaegan_jax.errors import UserError

FILES = ('default', 'quickstart', 'celeba', 'cifar10', 'image_folder')
FIELDS = validation.flatten(default.get_config())


def make_config(**changes):
  """Returns the defaults with changes, a double underscore for the dot."""
  config = default.get_config()
  with config.ignore_type():
    config.update_from_flattened_dict(
      {name.replace('__', '.'): value for name, value in changes.items()}
    )
  return config


def test_every_field_has_one_rule():
  assert set(validation.RULES) == set(FIELDS)


def test_objectives_are_the_critics_and_mse():
  assert set(validation.OBJECTIVES) == {*adversarial.OBJECTIVES, 'mse'}


@pytest.mark.parametrize('name', FILES)
@pytest.mark.parametrize('objective', ('', *validation.OBJECTIVES))
def test_every_file_is_valid_with_every_objective(name, objective):
  config = load_config_file(f'configs/{name}.py:{objective}')
  if name == 'image_folder':
    config.data.path = '/data/my_photos'
  validation.validate(config, num_devices=8)
  assert config.is_locked
  assert config.objective == (objective or 'geometric')
  assert set(validation.flatten(config)) == set(FIELDS)


@pytest.mark.parametrize('field', FIELDS)
def test_every_field_can_be_set_from_the_command_line(field):
  config = default.get_config()
  apply_overrides(config, ['main.py', f'--config.{field}={FIELDS[field]}'])
  assert validation.flatten(config) == FIELDS


BAD_VALUES = {
  'seed': (-1, 2**32, 0.5, '0', None),
  'objective': ('msee', '', 3),
  'batch_size': (0, -4, True, 4.0, '64', 2**31),
  'num_train_steps': (0, 2**31),
  'log_every_steps': (0,),
  'checkpoint_every_steps': (-1,),
  'num_eval_images': (-1,),
  'data.name': ('', ' ', None),
  'data.path': ('/data/my_photos',),
  'data.image_size': (0, 60, 8),
  'data.channels': (0, 5),
  'data.center_crop': (-1,),
  'data.train_split': ('',),
  'data.random_flip': (1, 'true'),
  'model.depth': (0, 5, 13),
  'model.channel_multipliers': ((), (1, 2), (1, 2, 4, 0), (1, 2, 4, '8'), [1]),
  'critic.channel_multipliers': ((1, 2, 4, True), (1, 2, 4, 8.0), 'wide'),
  'critic.norm': ('layer',),
  'loss.layers': (('block_4',), ('block_0', 'block_0'), (0,), 'block_0'),
  'loss.layer_weights': (
    (1.0,),
    (0, 0, 0, 0),
    (1, 1, 1, -1),
    (1, 1, 1, float('nan')),
    (1, 1, 1, '1'),
  ),
  'loss.normalize': ('l2',),
  'loss.reduction': ('avg',),
  'loss.pixel_weight': (-0.1, float('nan'), float('inf'), '1'),
  'loss.adversarial_ramp_steps': (-1,),
  'optimizer.autoencoder_learning_rate': (0.0, -1e-4, float('inf')),
  'optimizer.b1': (1.0, -0.1),
  'update_order': ('both',),
  'ema_decay': (1, 1.5),
}


@pytest.mark.parametrize(
  ('field', 'value'),
  [(field, value) for field, values in BAD_VALUES.items() for value in values],
)
def test_a_bad_value_is_told_in_one_sentence(field, value):
  with pytest.raises(UserError, match=re.escape(field)) as caught:
    validation.validate(make_config(**{field: value}))
  message = str(caught.value)
  assert '\n' not in message
  assert re.search(r'for example|did you mean|use \d|set --config', message)


@pytest.mark.parametrize(
  'changes',
  (
    {'optimizer.b1': 0, 'loss.kl_weight': 1},  # Whole numbers are numbers.
    {'loss.layers': ('block_3', 'block_1'), 'loss.layer_weights': (0, 2.5)},
    {'data.name': 'image_folder', 'data.path': '/data/my_photos'},
    {'data.image_size': 16, 'num_eval_images': 0, 'ema_decay': 0.0},
  ),
)
def test_good_values_pass(changes):
  validation.validate(make_config(**changes))


def test_divisibility_shows_its_arithmetic():
  with pytest.raises(UserError) as caught:
    validation.validate(make_config(data__image_size=60))
  assert str(caught.value) == (
    'data.image_size=60 must be divisible by 2**model.depth=2**4=16; '
    '60 / 16 leaves 12: use 48 or 64'
  )


def test_the_batch_must_divide_over_the_devices():
  config = make_config(batch_size=12)
  validation.validate(config, num_devices=4)
  with pytest.raises(UserError, match='12 / 8 leaves 4: use 8 or 16'):
    validation.validate(config, num_devices=8)


def test_a_misspelt_choice_suggests_the_nearest():
  with pytest.raises(UserError, match="did you mean 'alternating'"):
    validation.validate(make_config(update_order='alternate'))


def test_a_folder_needs_its_path():
  with pytest.raises(UserError, match=r"data\.path='' must name a folder"):
    validation.validate(make_config(data__name='image_folder'))


scalars = (
  st.none()
  | st.booleans()
  | st.integers()
  | st.floats()
  | st.text(max_size=5)
  | st.sampled_from(('mse', 'group', 'block_0'))
)


# The first draw is slow on a busy machine, whatever is drawn.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
  st.dictionaries(
    st.sampled_from(sorted(FIELDS)),
    scalars | st.lists(scalars, max_size=5).map(tuple) | st.lists(scalars),
    max_size=4,
  ),
  st.none() | st.integers(1, 16),
)
def test_malformed_values_raise_nothing_but_user_errors(changes, num_devices):
  try:
    validation.validate(make_config(**changes), num_devices=num_devices)
  except UserError as error:
    assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize('name', FILES)
def test_json_gives_the_same_configuration_back(name, tmp_path):
  config = load_config_file(f'configs/{name}.py')
  config.data.path = '/data/my_photos' if name == 'image_folder' else ''
  path = tmp_path / 'config.json'
  path.write_text(to_json(config))
  loaded = load_config(path)
  assert loaded == config
  assert loaded.is_locked
  assert isinstance(loaded.model.channel_multipliers, tuple)


def _edited(**changes):
  return json.dumps(default.get_config().to_dict() | changes)


@pytest.mark.parametrize(
  ('content', 'told'),
  (
    (b'', 'not valid JSON'),
    (b'{"seed": 0', 'not valid JSON'),
    (b'\xff\xfe', 'not valid JSON'),
    (b'[1, 2]', 'one JSON object'),
    (b'{"seed": 0}', 'lacks batch_size'),
    (_edited(colour='red').encode(), 'unknown colour'),
    (_edited(batch_size='64').encode(), "batch_size='64'"),
    (_edited(data=3).encode(), r'lacks data\.cache_images'),
    (_edited(seed={}).encode(), 'lacks seed'),
  ),
)
def test_a_damaged_saved_configuration_is_told(content, told, tmp_path):
  path = tmp_path / 'config.json'
  path.write_bytes(content)
  with pytest.raises(UserError, match=told) as caught:
    load_config(path)
  assert str(path) in str(caught.value)


def test_a_saved_whole_number_becomes_the_float_it_stands_for(tmp_path):
  config = default.get_config().to_dict()
  config['loss']['kl_weight'] = 2
  path = tmp_path / 'config.json'
  path.write_text(json.dumps(config))
  assert isinstance(load_config(path).loss.kl_weight, float)


def test_a_missing_saved_configuration_is_told(tmp_path):
  with pytest.raises(UserError, match='does not exist'):
    load_config(tmp_path / 'config.json')


def test_configuration_files_are_found_from_anywhere(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert load_config_file('configs/celeba.py').data.name == 'celeb_a'
  (tmp_path / 'mine.py').write_text('from configs.celeba import get_config')
  assert load_config_file('mine.py:mse').objective == 'mse'


@pytest.mark.parametrize(
  ('name', 'content', 'told'),
  (
    ('mine.txt', '', 'must be a Python file'),
    ('mine.py', '', 'must define get_config'),
    (
      'mine.py',
      'from configs import default\n'
      'def get_config():\n'
      '  config = default.get_config().unlock()\n'
      '  config.colour = "red"\n'
      '  return config\n',
      'unknown colour',
    ),
  ),
)
def test_a_file_that_is_no_configuration_is_told(name, content, told, tmp_path):
  path = tmp_path / name
  path.write_text(content)
  with pytest.raises(UserError, match=told):
    load_config_file(str(path))
