"""What every test shares: kept compilations, and a run that takes a second."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

# Most of the time goes to compiling: every program is kept for the next run.
# JAX reads these when it is imported.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
_CACHE = Path(__file__).parent.parent / '.jax_cache'
# One for each of pytest-xdist's processes: JAX does not lock it.
_WORKER = os.environ.get('PYTEST_XDIST_WORKER', 'main')
os.environ['JAX_COMPILATION_CACHE_DIR'] = str(_CACHE / _WORKER)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '-1')


@pytest.fixture(scope='session')
def image_folder(tmp_path_factory):
  """43 images of 16 x 16 that are much alike, of which five are held out."""
  folder = tmp_path_factory.mktemp('images')
  rng = np.random.default_rng(0)
  common = rng.integers(0, 200, (4, 4, 3))
  for index in range(43):
    colors = common + rng.integers(0, 56, (4, 4, 3))
    image = Image.fromarray(colors.astype(np.uint8))
    image = image.resize((16, 16), Image.Resampling.BICUBIC)
    image.save(folder / f'{index:02}.png')
  return folder


@pytest.fixture(scope='session')
def vgg16_file(tmp_path_factory):
  """VGG16's weights as torchvision names them, but random."""
  from tests.vgg_test import state_dict

  path = tmp_path_factory.mktemp('weights') / 'vgg16.safetensors'
  save_file(state_dict(16), path)
  return path


@pytest.fixture(scope='session')
def tiny_run(image_folder, tmp_path_factory):
  """The flags of a tiny run on those images, without a --workdir."""
  values = {
    'batch_size': 8,
    'num_train_steps': 20,
    'log_every_steps': 1,
    'checkpoint_every_steps': 10,
    'eval_every_steps': 100,
    'figure_every_steps': 100,
    'data.name': 'image_folder',
    'data.path': image_folder,
    'data.data_dir': tmp_path_factory.mktemp('data'),
    'data.image_size': 16,
    'model.latent_dim': 4,
    'loss.normalize': 'none',
    'loss.reduction': 'sum',
    'loss.kl_weight': 1,
    'loss.adversarial_weight': 0.1,
    'loss.adversarial_ramp_steps': 0,
    'optimizer.autoencoder_learning_rate': 1e-3,
    'optimizer.critic_learning_rate': 1e-3,
  }
  for network in ('model', 'critic'):
    values |= {
      f'{network}.width': 2,
      f'{network}.depth': 2,
      f'{network}.channel_multipliers': '1,2',
    }
  flags = (f'--config.{name}={value}' for name, value in values.items())
  return ('--config=configs/default.py', *flags)
