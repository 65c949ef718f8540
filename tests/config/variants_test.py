"""What stands after the colon of --config."""

import pytest

from vaegan_jax.config import defaults, variants
from vaegan_jax.config.io import load_config_file
from vaegan_jax.config.validation import validate, validate_new_run
from vaegan_jax.errors import UserError

PRESETS = sorted(defaults.get_presets())


@pytest.mark.parametrize('preset', PRESETS)
@pytest.mark.parametrize('name', ['celeba', 'cifar10', 'quickstart'])
def test_every_preset_suits_every_configuration(name, preset):
  config = load_config_file(f'configs/{name}.py:{preset}')
  plain = load_config_file(f'configs/{name}.py')
  validate(config)
  validate_new_run(config)
  assert config.data.to_dict() == plain.data.to_dict()
  assert config.objective == 'geometric'
  assert config.model.to_dict() != plain.model.to_dict()
  if '_f' in preset:
    assert config.model.latent_shape == 'map'
    assert 2**config.model.depth == int(preset[-1])


@pytest.mark.parametrize('words', ['residual,kl_f8', 'kl_f8,residual,mse'])
def test_words_come_in_any_order(words):
  config = load_config_file(f'configs/celeba.py:{words}')
  validate(config)
  assert config.model.channel_multipliers == (1, 2, 4, 4)
  assert (config.model.network, config.model.depth) == ('residual', 3)
  assert config.objective == ('mse' if 'mse' in words else 'geometric')


@pytest.mark.parametrize(
  ('words', 'told'),
  [
    ('geometric,kl_f9', r"'kl_f9' is no objective .*: did you mean 'kl_f\d'"),
    ('vqf8', "did you mean 'vq_f8'"),
    ('mse,geometric', 'names the objectives mse and geometric, and a run has'),
    ('xyz', 'for example, geometric,kl_f8'),
  ],
)
def test_what_is_unknown_or_too_much_is_told(words, told):
  with pytest.raises(UserError, match=told):
    load_config_file(f'configs/celeba.py:{words}')


def test_an_objective_is_added_to_presets():
  assert variants.add('a.py', 'mse') == 'a.py:mse'
  assert variants.add('a.py:fsq_f8', 'mse') == 'a.py:mse,fsq_f8'
  assert variants.split('a.py:mse, fsq_f8') == ('a.py', 'mse', ['fsq_f8'])
  assert variants.split('a.py') == ('a.py', '', [])
