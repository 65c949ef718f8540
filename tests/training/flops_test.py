"""Tests that the update of any networks has the minimal FLOPs.

They count before XLA removes what is computed twice, so nothing is compiled.
"""

import jax
import pytest

from tests.benchmarks import hlo
from tests.benchmarks import update as benchmark
from tests.benchmarks.minimum import minimum_flops
from vaegan_jax.config.validation import validate

BATCH = 4
RESIDUAL = {'network': 'residual', 'channel_multipliers': (1, 2)}
CASES = {
  'residual, flat; residual': {
    'model': RESIDUAL
    | {'attention_sides': (2,), 'latent_dim': 6, 'patch_size': 2},
    'critic': RESIDUAL | {'patch_size': 2},
  },
  'plain, map of codes; patches at two scales': {
    'model': {
      'latent': 'vq',
      'latent_shape': 'map',
      'latent_dim': 8,
      'codebook_size': 32,
      'activation': 'snake',
      'strides': (4,),
      'kernel_size': 5,
    },
    'critic': {'head': 'patch', 'num_scales': 2},
  },
  'ldm; plain': {
    'model': RESIDUAL
    | {'layout': 'ldm', 'middle_attention': True, 'latent_shape': 'map'},
    'critic': {},
    # Muon's products are counted in the other cases.
    'optimizer': {'muon_learning_rate': 0.0},
  },
  'the decoder alone': {
    'model': {'norm': 'batch', 'train': 'decoder'},
    'critic': {},
    'loss': {'drift_weight': 1.0},
  },
  'sounds of all views, with spectra': {
    'model': {
      'latent_shape': 'map',
      'spectral_mask': 8,
      'spectral_noise': True,
    },
    'critic': {
      'head': 'patch',
      'patch_size': 2,
      'views': ('wave', 'stft', 'period'),
      'stft_windows': (32,),
      'stft_bands': (0.25,),
      'periods': (3,),
    },
    'loss': {'spectrum_weight': 1.0, 'norm': 'l1', 'equivariance_weight': 1.0},
  },
}


def config_of(model, critic, **others):
  """Returns a configuration of 8x8 images and networks of depth 1."""
  config = benchmark.small_config()
  config.data.image_size = 8
  config.model.latent_dim = 4
  for name, fields in (('model', model), ('critic', critic)):
    config[name].depth = 1
    config[name].channel_multipliers = (2,)
    config[name].update(fields)
  for name, fields in others.items():
    config[name].update(fields)
  if config.loss.spectrum_weight:
    config.data.update(name='drawn_sounds', shape=(64,), channels=2)
  return config


@pytest.mark.parametrize('name', CASES)
def test_the_update_of_any_networks_has_the_minimal_flops(name):
  config = config_of(**CASES[name])
  validate(config)
  update, create_state = benchmark.create(config, 'alternating')
  images = jax.eval_shape(lambda: benchmark.images_of(config, BATCH))
  lowered = update.lower(jax.eval_shape(create_state), images)
  flops = hlo.count_flops(lowered.as_text('hlo'))
  least = minimum_flops(config, 'alternating', BATCH)
  assert 1 <= flops / least <= 1.01
