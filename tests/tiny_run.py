"""Images and flags of a run that takes a second."""

import numpy as np
from PIL import Image

# Adds R1 every few steps, and so a second kind of step.
R1_FLAGS = ('--config.critic.r1_weight=1', '--config.critic.r1_every_steps=4')


def draw_images(folder):
  """Draws 43 images of 16 x 16 that are much alike; five will be held out."""
  rng = np.random.default_rng(0)
  common = rng.integers(0, 200, (4, 4, 3))
  for index in range(43):
    colors = common + rng.integers(0, 56, (4, 4, 3))
    image = Image.fromarray(colors.astype(np.uint8))
    image = image.resize((16, 16), Image.Resampling.BICUBIC)
    image.save(folder / f'{index:02}.png')


def tiny_flags(path, data_dir):
  """Returns the flags of a run on the images in `path`, without a --workdir.

  R1 is off: it would double the programs that every run traces. The
  critic, which an update applies four times, has one block.
  """
  values = {
    'batch_size': 8,
    'num_train_steps': 20,
    'log_every_steps': 1,
    'checkpoint_every_steps': 10,
    'eval_every_steps': 100,
    'figure_every_steps': 100,
    'data.name': 'image_folder',
    'data.path': path,
    'data.data_dir': data_dir,
    'data.image_size': 16,
    'model.latent_dim': 4,
    'critic.r1_weight': 0,
    'loss.normalize': 'none',
    'loss.reduction': 'sum',
    'loss.image_weight': 0,
    'loss.image_halvings': 0,
    'loss.kl_weight': 1,
    'loss.adversarial_weight': 0.1,
    'loss.adversarial_ramp_steps': 0,
    'optimizer.autoencoder_learning_rate': 1e-3,
    'optimizer.muon_learning_rate': 0,
    'optimizer.critic_learning_rate': 1e-3,
  }
  for network in ('model', 'critic'):
    values |= {
      f'{network}.width': 2,
      f'{network}.depth': 1,
      f'{network}.channel_multipliers': '2',
    }
  flags = (f'--config.{name}={value}' for name, value in values.items())
  return ('--config=configs/default.py', *flags)
