"""Creates a finished run without training it: random weights, saved."""

import json

import jax
import numpy as np

from tests import command_line
from vaegan_jax.config.migrations import stamp
from vaegan_jax.runtime.checkpoints import Checkpoints
from vaegan_jax.setup.networks import create_networks

STEP = 20
# Flags of a run with each kind of latent; the dimensions are the tiny run's.
LATENTS = {
  'gaussian': ('model.latent=gaussian',),
  'gaussian_map': ('model.latent=gaussian', 'model.latent_shape=map'),
  'none': ('model.latent=none',),
  'vq': ('model.latent=vq', 'model.latent_shape=map', 'model.code_dim=2'),
  'fsq': ('model.latent=fsq', 'model.fsq_levels=(5, 4)'),
  'lfq': ('model.latent=lfq', 'model.latent_shape=map', 'model.code_dim=4'),
}


def parse(workdir, *args):
  """Parses arguments as the command line does."""
  return command_line.parse(*args, f'--workdir={workdir}')


def finish(workdir, tiny_run, *fields):
  """Writes a run with untrained weights into `workdir`.

  Its averaged weights are not the last ones, its critic has some contrast, and
  the latents of its images differ.
  """
  args = (f'--config.{field}' for field in fields)
  config = parse(workdir, *tiny_run, *args).config
  _, _, create_state = create_networks(config)
  state = jax.tree.map(np.asarray, create_state())
  rng = np.random.default_rng(0)
  ema_params = jax.tree.map(
    lambda leaf: np.float32(1.5 * leaf + 0.05 * rng.normal(size=leaf.shape)),
    state.ema_params,
  )
  state = state.replace(ema_params=ema_params, step=np.int32(STEP))
  checkpoints = Checkpoints(workdir)
  data = {'num_images': 38, 'fingerprint': 'any'}
  fields = stamp(config.to_dict())
  assert checkpoints.save(STEP, state, config=fields, data=data)
  checkpoints.close()
  (workdir / 'config.json').write_text(json.dumps(fields))
  return config


def restore_state(config, workdir):
  """Restores (TrainState, step) of a run, with its optimizers' state."""
  _, _, create_state = create_networks(config)
  return Checkpoints(workdir).restore(
    jax.eval_shape(create_state), initial=create_state, quarantine=False
  )


def use(workdir, *args):
  """Runs a command on a finished run, in this process."""
  assert command_line.run_command(parse(workdir, *args)) == 0
