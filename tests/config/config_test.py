"""Configurations in files: configs/, config.json, and their validation."""

import itertools
import json
import math
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configs import default
from tests.command_line import parse
from tests.config.malformed_configs_test import CHARACTERS
from vaegan_jax import names
from vaegan_jax.config import overrides, validation
from vaegan_jax.config.io import (
  add_objective,
  get_presets,
  load_config,
  load_config_file,
  split_source,
)
from vaegan_jax.config.migrations import upgrade
from vaegan_jax.config.rules import flatten
from vaegan_jax.config.shapes import flip_axes
from vaegan_jax.errors import UserError
from vaegan_jax.setup.modules import create_modules

FOLDERS = ('image_folder', 'array_folder')
DRAWN = ('audio', 'bands', 'volume')
FILES = ('default', 'quickstart', 'celeba', 'cifar10', *DRAWN, *FOLDERS)
FIELDS = flatten(default.get_config())


def make_config(**changes):
  """Returns the defaults with changes, a double underscore for the dot."""
  config = default.get_config()
  with config.ignore_type():
    config.update_from_flattened_dict(
      {name.replace('__', '.'): value for name, value in changes.items()}
    )
  return config


SOUNDS = {'data.name': 'drawn_sounds', 'data.shape': (128,)}
LPIPS = {
  'critic__network': 'lpips',
  'critic__weights': 'vgg.pth,heads.pth',
  'loss__adversarial_weight': 0.0,
  'loss__normalize': 'none',
  'loss__reduction': 'spatial',
}


@pytest.mark.parametrize('network', names.PRETRAINED_CRITICS)
def test_layers_of_a_pretrained_critic_are_accepted_and_listed(network):
  frozen = LPIPS
  if network != 'lpips':
    frozen = LPIPS | {'critic__weights': 'vgg.pth', 'critic__network': network}
  layers = create_modules(make_config(**frozen))['critic'].layer_names
  validation.validate(make_config(**frozen, loss__layers=layers))
  with pytest.raises(UserError, match=f'has {", ".join(layers)}'):
    validation.validate(make_config(**frozen, loss__layers=('block_0',)))


@pytest.mark.parametrize(
  'changes',
  (
    {},
    {
      'critic__network': 'residual',
      'critic__channel_multipliers': (1, 2, 4, 8, 8),
      'critic__head': 'patch',
      'critic__num_scales': 3,
    },
  ),
)
def test_layers_of_a_trained_critic_are_accepted(changes):
  config = make_config(**changes)
  critic = create_modules(config)['critic']
  config.loss.layers = critic.layer_names
  validation.validate(config)
  # And its halvings are those by which the image must be divisible.
  assert config.data.image_size % 2**critic.num_halvings == 0


@pytest.mark.parametrize('name', FILES)
@pytest.mark.parametrize('objective', ('', *names.OBJECTIVES))
def test_every_file_is_valid_with_every_objective(name, objective):
  config = load_config_file(f'configs/{name}.py:{objective}')
  if name in FOLDERS:
    config.data.path = '/data/my_photos'
  validation.validate(config, num_devices=8)
  assert config.is_locked
  assert config.objective == (objective or 'geometric')
  assert set(flatten(config)) == set(FIELDS)


BAD_VALUES = {
  'seed': (-1, 2**32, 0.5, '0', None),
  'init_from': ('s3://bucket/run', None),
  'objective': ('msee', '', 3),
  'batch_size': (0, -4, True, 4.0, '64', 2**31),
  'num_train_steps': (0, 2**31),
  'log_every_steps': (0,),
  'checkpoint_every_steps': (-1,),
  'num_eval_images': (-1,),
  'profile_steps': ((10,), (0, 2), (5, 3), (1, 2, 3), (1.0, 2), '10'),
  'data.name': ('', ' ', None),
  'data.path': ('/data/my_photos',),
  'data.folder_rules': (0, 5, '2'),
  'data.resample': (True, 1),  # Of no sounds.
  'data.mix_channels': (True, 'yes'),
  'data.mid_side': (True, 1),
  'model.activation': ('relu', 3),
  'model.strides': ((1,), (2,), (2, 2, 2, 3), 'a', 2),
  'model.kernel_size': (0, 4, 65, '3'),
  'model.patch_size': (0, 3, 17, '2'),  # 64 / (3 * 16) leaves 16.
  'model.spectral_mask': (-1, 64, 512.0),  # Of photographs.
  'model.spectral_noise': (1,),
  'critic.patch_size': (0, 8, 2.0),  # 64 / (8 * 16) leaves 64.
  'data.group_by': ('folder', '(', '*', 3, None),  # Of no folder; malformed.
  'data.clip': (1, 'true', None),
  'data.allow_growth': ('yes',),
  'data.axes': ('CYY', 'AB', 3, None),
  'data.nodata': ('nan', 'x', -9999),
  'data.max_nodata': (-0.1, 2, 'a'),
  'data.example_axis': (1, 5, 'last'),  # Of no array_file.
  'data.image_size': (0, 60, 8),
  'data.shape': ((0,), (8, 8, 8, 8), ('8',), 8, (64, 64)),  # Of photographs.
  'data.sample_rate': (0, 44.1),
  'data.channels': (0, 5, 1025),
  'data.value_range': ('float', (0,), (2, 1), (0, 'a'), (0, math.inf), 3),
  'data.shown_bands': ((0, 1), (3,), (0, 0, 1), (-1,), ('red',), 0),
  'data.flip_axes': ((2,), (3,), (0, 0), (-1,), ('width',), 1),
  'data.center_crop': (-1,),
  'data.random_crop_margin': (-1, 4097, 1.5),
  'data.crop': ('middle',),
  'data.train_split': ('',),
  'data.random_flip': (1, 'true'),
  'model.depth': (0, 5, 13),
  'model.channel_multipliers': ((), (1, 2), (1, 2, 4, 0), (1, 2, 4, '8'), [1]),
  'critic.channel_multipliers': ((1, 2, 4, True), (1, 2, 4, 8.0), 'wide'),
  'critic.norm': ('layer',),
  'critic.network': ('vgg', 'resnet50', '', 'blocks'),
  'critic.head': ('conv', ''),
  'critic.num_scales': (0, 2, 9),  # 2 of one logit an image.
  'critic.views': ((), ('sound',), ('stft',), ('wave', 'wave'), 'wave'),
  'critic.stft_windows': ((), (100,), (8,), (512, 512), (2**14,)),
  'critic.stft_bands': ((0,), (0.5, 0.25), (1.0,), ('low',)),
  'critic.periods': ((1,), (2, 2), (65,)),
  'loss.norm': ('l3',),
  'loss.spectrum_weight': (-1.0, 1.0),  # Of photographs.
  'model.network': ('resnet',),
  'model.layout': ('taming', 'ldm'),  # The other fields are not its.
  'model.num_res_blocks': (0, 2),  # 'plain' has none.
  'model.attention_sides': ((0,), (16, 16), (16.0,), (16,)),
  'model.middle_attention': (1, True),
  'critic.weights': ('vgg16.pth',),
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
def test_a_bad_value_is_refused_with_its_field_and_a_remedy(field, value):
  with pytest.raises(UserError, match=re.escape(field)) as caught:
    validation.validate(make_config(**{field: value}))
  assert re.search(r'for example|did you mean|use \d', str(caught.value))


FOLDER = {'data.name': 'image_folder', 'data.path': '/data/my_photos'}
RESIDUAL = {
  'model.network': 'residual',
  'model.channel_multipliers': (1, 2, 4, 8, 8),
}
LDM = RESIDUAL | {
  'model.layout': 'ldm',
  'model.latent_shape': 'map',
  'model.middle_attention': True,
}


def test_wasserstein_objectives_have_the_recipes_of_their_papers():
  config = default.get_config('wasserstein')
  assert config.critic.weight_clip == 0.01
  assert config.critic.num_steps == 5
  assert config.critic.long_round_steps == 100
  assert config.optimizer.name == 'rmsprop'
  assert config.optimizer.critic_learning_rate == 5e-5
  assert config.critic.r1_weight == 0
  config = default.get_config('wasserstein_gp')
  assert config.critic.gradient_penalty_weight == 10
  assert config.critic.r1_weight == 0


@pytest.mark.parametrize('name', FILES)
def test_no_file_overwrites_the_recipe_of_wasserstein(name):
  """Its weights stay within .01, for which longer steps are too long."""
  recipe = default.get_config('wasserstein')
  config = load_config_file(f'configs/{name}.py:wasserstein')
  assert config.optimizer == recipe.optimizer
  assert config.optimizer.autoencoder_learning_rate == 5e-5
  assert config.optimizer.critic_learning_rate == 5e-5
  for field in ('num_steps', 'long_round_steps', 'weight_clip', 'r1_weight'):
    assert config.critic[field] == recipe.critic[field]
  if name == 'quickstart':  # Which is in a hurry with all others.
    config = load_config_file('configs/quickstart.py:wasserstein_gp')
    assert config.optimizer.critic_learning_rate == 2e-3


@pytest.mark.parametrize(
  'changes',
  (
    {'optimizer.b1': 0, 'loss.kl_weight': 1},  # Whole numbers are numbers.
    {'loss.layers': ('block_3', 'block_1'), 'loss.layer_weights': (0, 2.5)},
    {'data.name': 'image_folder', 'data.path': '/data/my_photos'},
    {'data.name': 'celeb_a', 'data.path': '/data/celeba'},
    FOLDER | {'data.group_by': r'patient_(\d+)', 'data.clip': True},
    {'data.value_range': (-1e-6, 2), 'data.flip_axes': (1, 0)},
    {'data.value_range': 'percentiles', 'data.shown_bands': (2, 0, 1)},
    {'data.name': 'array_folder', 'data.path': '/a', 'data.channels': 13},
    SOUNDS | {'data.flip_axes': (0,), 'data.channels': 6},
    SOUNDS | {'data.shape': (32, 64, 16), 'data.flip_axes': (2, 1)},
    {'data.name': 'mnist_as_tensors', 'data.shape': (32, 32)},
    {'data.image_size': 16, 'num_eval_images': 0, 'ema_decay': 0.0},
    RESIDUAL | {'model.attention_sides': (16, 64), 'model.num_res_blocks': 2},
    LDM,
    {
      'critic.network': 'residual',
      'critic.channel_multipliers': (1, 2, 4, 8, 8),
      'critic.head': 'patch',
      'critic.num_scales': 3,
      'loss.layers': ('block_3', 'scale_2/block_0'),
    },
  ),
)
def test_good_values_pass(changes):
  validation.validate(make_config(**changes))


def test_groups_need_rules_3():
  changes = FOLDER | {'data.group_by': 'folder', 'data.folder_rules': 2}
  with pytest.raises(UserError, match=r'data\.group_by=.*folder_rules=3'):
    validation.validate(make_config(**changes))


def test_the_batch_must_divide_over_the_devices():
  config = make_config(batch_size=12)
  validation.validate(config, num_devices=4)
  with pytest.raises(UserError, match='12 / 8 leaves 4: use 8 or 16'):
    validation.validate(config, num_devices=8)


def test_images_are_mirrored_left_and_right_and_arrays_are_not():
  config = make_config()
  assert flip_axes(config.data) == (1,)
  config.data.random_flip = False
  assert flip_axes(config.data) == ()
  config.data.flip_axes = (0, 1)
  assert flip_axes(config.data) == (0, 1)
  assert flip_axes(make_config(data__name='array_folder').data) == ()


scalars = (
  st.none()
  | st.booleans()
  | st.integers()
  | st.floats()
  | st.text(CHARACTERS, max_size=5)
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
  config.data.path = '/data/my_photos' if name in FOLDERS else ''
  path = tmp_path / 'config.json'
  path.write_text(json.dumps(config.to_dict()))
  loaded = load_config(path)
  assert loaded == config
  assert loaded.is_locked
  assert isinstance(loaded.model.channel_multipliers, tuple)


def _edited(**changes):
  return json.dumps(default.get_config().to_dict() | changes)


@pytest.mark.parametrize(
  ('content', 'token'),
  (
    (b'', 'not valid JSON'),
    (b'{"seed": 0', 'not valid JSON'),
    (b'\xff\xfe', 'not valid JSON'),
    (b'[1, 2]', 'one JSON object'),
    (b'{"seed": 0}', 'lacks batch_size'),
    (_edited(colour='red').encode(), 'unknown colour'),
    (_edited(batch_size='64').encode(), "batch_size='64'"),
    (_edited(data=3).encode(), r'lacks data\.allow_growth'),
    (_edited(seed={}).encode(), 'lacks seed'),
  ),
)
def test_a_damaged_saved_configuration_is_refused(content, token, tmp_path):
  path = tmp_path / 'config.json'
  path.write_bytes(content)
  with pytest.raises(UserError, match=token) as caught:
    load_config(path)
  assert str(path) in str(caught.value)


def test_a_saved_whole_number_becomes_the_float_it_stands_for(tmp_path):
  config = default.get_config().to_dict()
  config['loss']['kl_weight'] = 2
  path = tmp_path / 'config.json'
  path.write_text(json.dumps(config))
  assert isinstance(load_config(path).loss.kl_weight, float)


def test_a_missing_saved_configuration_is_refused(tmp_path):
  with pytest.raises(UserError, match='does not exist'):
    load_config(tmp_path / 'config.json')


def test_configuration_files_are_found_from_anywhere(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert load_config_file('configs/celeba.py').data.name == 'celeb_a'
  (tmp_path / 'mine.py').write_text('from configs.celeba import get_config')
  assert load_config_file('mine.py:mse').objective == 'mse'


def test_a_saved_configuration_is_taken_with_its_objective(tmp_path):
  saved = load_config_file('configs/celeba.py:mse')
  saved.loss.kl_weight = 2.5  # No file sets it, and the run began with it.
  path = tmp_path / 'config.json'
  path.write_text(saved.to_json())
  again = parse(f'--config={path}', '--config.seed=3', '--workdir=run').config
  assert again.seed == 3
  again.seed = saved.seed
  assert flatten(again) == flatten(saved)
  with pytest.raises(UserError, match=r"config\.json of a run, without ':'"):
    load_config_file(f'{path}:geometric')


@pytest.mark.parametrize(
  ('name', 'content', 'token'),
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
def test_a_file_that_is_no_configuration_is_refused(
  name, content, token, tmp_path
):
  path = tmp_path / name
  path.write_text(content)
  with pytest.raises(UserError, match=token):
    load_config_file(str(path))


def test_an_image_can_be_halved_down_to_a_pixel():
  config = default.get_config()
  config.data.image_size, config.loss.image_halvings = 48, 5
  validation.validate(config)
  config.loss.image_halvings = 6
  with pytest.raises(UserError, match=r'image_halvings=6 .*halvings=5'):
    validation.validate(config)


def test_a_critic_of_blocks_is_a_plain_critic_now(tmp_path):
  saved = json.loads(default.get_config().to_json())
  saved['critic']['network'] = 'blocks'
  for section, field in (('critic', 'head'), ('model', 'network')):
    del saved[section][field]
  path = tmp_path / 'config.json'
  path.write_text(json.dumps(saved))
  assert load_config(path) == default.get_config()
  # As of a checkpoint, whose configuration is translated too.
  assert upgrade(saved)['critic']['network'] == 'plain'
  assert saved['critic']['network'] == 'blocks'
  assert upgrade({'critic': 'no section'})['critic'] == 'no section'


def test_a_critic_that_ignores_contrast_may_resume_but_not_start():
  config = default.get_config()
  config.critic.norm = 'group'
  config.loss.image_weight = 0.0
  validation.validate(config)  # A run of an earlier version may have it.
  with pytest.raises(UserError, match=r'--config\.loss\.image_weight=1'):
    validation.validate_new_run(config)
  for field, value in (
    ('loss.image_weight', 1.0),
    ('loss.pixel_weight', 1.0),
    ('critic.norm', 'none'),
    ('objective', 'mse'),
  ):
    seeing = config.copy_and_resolve_references()
    seeing.update_from_flattened_dict({field: value})
    validation.validate_new_run(seeing)


def test_attention_needs_a_feature_map_of_its_size():
  changes = RESIDUAL | {'model.attention_sides': (16, 10)}
  config = make_config(**changes)
  validation.validate(config)  # The training images give the sizes.
  with pytest.raises(UserError, match=r'10, .*64, 32, 16, 8 and 4: .*"\(4,\)"'):
    validation.validate_new_run(config)


@pytest.mark.parametrize(
  ('flags', 'rate'),
  (
    ('celeba.py', 128),
    ('bands.py:mse', 128),
    ('volume.py:wasserstein_gp', 128),
    ('quickstart.py', 120),
    ('celeba.py:kl_f8', 8 * 8 * 4),
    ('celeba.py:mse,kl_f8 --config.data.image_size=128', 16 * 16 * 4),
    ('celeba.py:ldm_f8 --config.data.image_size="(64,96)"', 8 * 12 * 4),
    ('quickstart.py:kl_f4', 12 * 12 * 4),
    ('volume.py --config.model.latent_shape=map', 4 * 4 * 4 * 128),
    # Codes and plain autoencoders have no rate to steer.
    ('celeba.py:vq_f8', 0),
    ('quickstart.py:fsq_f8', 0),
    ('celeba.py --config.model.latent=none', 0),
    # A flag wins, and a KL weight turns off the rate of a file.
    ('celeba.py:kl_f8 --config.loss.rate=96.5', 96.5),
    ('celeba.py:kl_f8 --config.model.patch_size=2', 4 * 4 * 4),
    ('celeba.py --config.loss.kl_weight=1e-3', 0),
    ('quickstart.py --config.loss.kl_weight=1e-3', 0),
    ('quickstart.py --config.loss.rate=0 --config.loss.kl_weight=1e-3', 0),
  ),
)
def test_a_rate_is_a_bit_for_each_entry_of_the_latent(
  flags, rate, tmp_path, capsys
):
  overrides._tell.cache_clear()
  args = f'--workdir={tmp_path} --config=configs/{flags}'.split()
  config = parse(*(arg.replace('"', '') for arg in args)).config
  assert config.loss.rate == rate and isinstance(config.loss.rate, float)
  assert config.to_dict()['loss']['rate'] == rate
  if rate == 0 and 'kl_weight' in flags:
    assert config.loss.kl_weight == 1e-3
  turned_off = 'kl_weight' in flags and 'rate=0' not in flags
  assert (
    'of the configuration file is off' in capsys.readouterr().out
  ) == turned_off


# Blocks of a file with flags and, indented, fields that are not read: why.
UNREAD = """
# The file's own values are for those who add a view.
audio.py critic.views=("wave",)

audio.py critic.views=("period",) critic.periods=(2,3)

audio.py critic.num_scales=2 critic.periods=(2,3)
  critic.num_scales: critic.views has 'wave', and critic.views=('stft',)
  critic.periods: critic.views has 'period', and critic.views=('stft',)

audio.py:mse loss.norm=log loss.pixel_weight=1 loss.variance=half
loss.image_weight=2 loss.distance_weight=2 critic.width=8 critic.views=("wave",)
critic.periods=(2,3) update_order=simultaneous loss.adversarial_weight=1
  critic.periods critic.views critic.width loss.adversarial_weight update_order:
    objective is not 'mse', and objective='mse'
  loss.image_weight loss.norm: objective is not 'mse' or loss.spectrum_weight is
    above 0, and objective='mse'

audio.py:mse loss.spectrum_weight=1 loss.variance=half loss.norm=log
loss.reduction=mean loss.layers=("stft_256/block_1",)
  loss.layers: objective is not 'mse', and objective='mse'

default.py critic.network=vgg16 critic.weights=a.pth loss.adversarial_weight=0
critic.width=8 loss.norm=l1 loss.adversarial_ramp_steps=9
  critic.width loss.adversarial_ramp_steps: critic.network is 'plain' or
    'residual', and critic.network='vgg16'

default.py critic.r1_weight=0 critic.r1_every_steps=2 critic.lecam_decay=.9
loss.adversarial_weight=0 loss.adversarial_to_encoder=false loss.normalize=none
loss.min_size=.2 loss.image_halvings=0 loss.image_growth=2
loss.image_high_pass=2 model.latent=vq loss.kl_weight=.1
loss.commitment_weight=1 loss.entropy_weight=1
  critic.r1_every_steps: critic.r1_weight is above 0, and critic.r1_weight=0.0
  critic.lecam_decay: critic.lecam_weight is above 0, and
    critic.lecam_weight=0.0
  loss.adversarial_to_encoder: loss.adversarial_weight is above 0, and
    loss.adversarial_weight=0.0
  loss.min_size: loss.normalize is not 'none', and loss.normalize='none'
  loss.image_growth: loss.image_halvings is above 0, and loss.image_halvings=0
  loss.kl_weight: model.latent is 'gaussian', and model.latent='vq'
  loss.entropy_weight: model.latent is 'lfq', and model.latent='vq'

default.py loss.image_weight=0 loss.image_halvings=2 loss.image_high_pass=2
  loss.image_halvings loss.image_high_pass: loss.image_weight is above 0, and
    loss.image_weight=0.0

# An evaluation reads loss.norm and loss.layers.
default.py loss.distance_weight=0 loss.image_weight=0 loss.pixel_weight=1
loss.norm=l1 loss.layers=("block_1",) loss.min_size=.2
  loss.min_size: loss.distance_weight is above 0, and loss.distance_weight=0.0

default.py loss.normalize=unit loss.image_weight=0 loss.image_halvings=9
loss.min_size=.2
  loss.min_size: loss.normalize is not 'unit' or loss.image_weight or
    loss.spectrum_weight is above 0, and loss.normalize='unit'
  loss.image_halvings: loss.image_weight is above 0, and loss.image_weight=0.0

default.py init_from=a model.train=none critic.warmup_steps=3
loss.adversarial_to_encoder=false loss.kl_weight=2 loss.reduction=sum
  critic.warmup_steps loss.adversarial_to_encoder loss.kl_weight: model.train is
    not 'none', and model.train='none'

default.py init_from=a model.train=decoder loss.adversarial_to_encoder=false
  loss.adversarial_to_encoder: model.train is 'all', and model.train='decoder'

# Fields that a run does not read are not checked.
default.py:mse data.image_size=4 model.depth=2 model.channel_multipliers=(1,2)

default.py:mse loss.distance_weight=0 loss.pixel_weight=1

# The noise that a configuration file sets is read only with a mask.
audio.py model.spectral_mask=0

audio.py model.spectral_mask=0 model.spectral_noise=true
  model.spectral_noise: model.spectral_mask is above 0, and
    model.spectral_mask=0
"""


def unread_rows():
  """Yields (source, flags, {fields: reason}) of the blocks."""
  for block in re.sub('#.*\n', '', UNREAD).strip().split('\n\n'):
    # Four spaces continue a line; lines without spaces are further flags.
    flags, *lines = re.sub('\n {4}|\n(?! )', ' ', block).split('\n  ')
    source, *flags = flags.split()
    yield source, flags, dict(line.split(': ') for line in lines)


@pytest.mark.parametrize(('source', 'flags', 'unread'), unread_rows())
def test_flags_that_nothing_reads_are_named(
  source, flags, unread, tmp_path, capsys
):
  overrides._tell.cache_clear()
  flags = [f'--config.{flag}' for flag in flags]
  parse(f'--workdir={tmp_path}', f'--config=configs/{source}', *flags)
  expected = []
  for fields, reason in unread.items():
    fields = [f'--config.{name}' for name in fields.split()]
    has = 'have no effect: they are' if fields[1:] else 'has no effect: it is'
    expected.append(f'{", ".join(fields)} {has} only read where {reason}.')
  assert capsys.readouterr().out.splitlines() == expected


@pytest.mark.parametrize('preset', sorted(get_presets()))
@pytest.mark.parametrize(
  'name', ['celeba', 'cifar10', 'quickstart', 'bands', 'audio', 'volume']
)
def test_every_preset_suits_every_configuration(name, preset):
  if preset.startswith('ldm') and name in ('audio', 'volume'):
    pytest.skip('A published architecture of pictures.')
  if (name, preset) == ('audio', 'patches'):
    pytest.skip('It has patches of its own.')
  config = load_config_file(f'configs/{name}.py:{preset}')
  plain = load_config_file(f'configs/{name}.py')
  validation.validate(config)
  validation.validate_new_run(config)
  assert config.data.to_dict() == plain.data.to_dict()
  assert config.objective == 'geometric'
  assert config.model.to_dict() != plain.model.to_dict()
  if '_f' in preset:
    assert config.model.latent_shape == 'map'
    assert 2**config.model.depth == int(preset[-1])


@pytest.mark.parametrize(
  ('presets', 'multipliers', 'patch_size'),
  [
    (('residual', 'kl_f8'), (1, 2, 4, 4), 1),
    (('patches', 'kl_f8'), (2, 4), 2),
    (('residual', 'patches', 'kl_f4'), (2, 4), 2),
    (('residual', 'patches', 'mse', 'vq_f8'), (2, 4, 4), 2),
  ],
)
def test_an_objective_and_presets_come_in_any_order(
  presets, multipliers, patch_size
):
  for words in itertools.permutations(presets):
    config = load_config_file(f'configs/celeba.py:{",".join(words)}')
    validation.validate(config)
    model = config.model
    assert model.channel_multipliers == multipliers
    is_residual = 'residual' in words
    assert model.network == ('residual' if is_residual else 'plain')
    assert model.depth == len(multipliers) - is_residual
    assert model.patch_size == patch_size
    # A preset says the factor of the whole autoencoder.
    factor = next(int(word[-1]) for word in words if '_f' in word)
    assert 2**model.depth * patch_size == factor
    assert config.objective == ('mse' if 'mse' in words else 'geometric')


def test_an_objective_is_added_to_presets():
  assert add_objective('a.py', 'mse') == 'a.py:mse'
  assert add_objective('a.py:fsq_f8', 'mse') == 'a.py:mse,fsq_f8'
  assert split_source('a.py:mse, fsq_f8') == ('a.py', 'mse', ['fsq_f8'])
  assert split_source('a.py') == ('a.py', '', [])
