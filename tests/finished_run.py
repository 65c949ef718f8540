"""Creates a finished run without training it: random weights, saved."""

import json
import math

import jax
import numpy as np
import pytest

import main
from tests import command_line
from vaegan_jax.config.io import load_config
from vaegan_jax.config.migrations import stamp
from vaegan_jax.runtime.checkpoints import Checkpoints
from vaegan_jax.setup.networks import create_networks

STEP = 20
# Another network than the tiny run's, for tests in which depth matters.
TWO_BLOCKS = ('model.depth=2', 'model.channel_multipliers=(1,2)')
# Flags of a run with each kind of latent; the dimensions are the tiny run's.
# One map has a quarter of the images' sides, the others half.
LATENTS = {
  'gaussian': ('model.latent=gaussian',),
  'gaussian_map': ('model.latent_shape=map', *TWO_BLOCKS),
  'none': ('model.latent=none',),
  'vq': ('model.latent=vq', 'model.latent_shape=map', 'model.code_dim=2'),
  'fsq': ('model.latent=fsq', 'model.fsq_levels=(5, 4)'),
  'lfq': ('model.latent=lfq', 'model.latent_shape=map', 'model.code_dim=4'),
}


def parse(workdir, *args):
  """Parses arguments as the command line does."""
  return command_line.parse(*args, f'--workdir={workdir}')


def _fill(state):
  """Returns a state with random weights; its own would have to be compiled.

  Kernels somewhat enlarge what they multiply, and biases are small.
  """
  rng = np.random.default_rng(2)

  def fill(path, leaf):
    names = jax.tree_util.keystr(path)
    if 'opt_state' in names or leaf.dtype != np.float32:
      return np.zeros(leaf.shape, leaf.dtype)
    if leaf.ndim < 2 and 'params' not in names:  # Variances, counts, averages.
      return np.ones(leaf.shape, leaf.dtype)
    scale = 1.5 * math.prod(leaf.shape[:-1]) ** -0.5 if leaf.ndim > 1 else 0.05
    return rng.normal(0, scale, leaf.shape).astype(np.float32)

  return jax.tree_util.tree_map_with_path(fill, state)


def finish(workdir, tiny_run, *fields):
  """Writes a run with untrained weights into `workdir`.

  Its averaged weights are not the last ones, its critic has some contrast, and
  the latents of its images differ.
  """
  args = (f'--config.{field}' for field in fields)
  config = parse(workdir, *tiny_run, *args).config
  workdir.mkdir(parents=True, exist_ok=True)
  _, _, create_state = create_networks(config)
  state = _fill(jax.eval_shape(create_state)).replace(step=np.int32(STEP))
  checkpoints = Checkpoints(workdir)
  data = {'num_images': 38, 'fingerprint': 'any'}
  fields = stamp(config.to_dict())
  assert checkpoints.save(STEP, state, config=fields, data=data)
  checkpoints.close()
  (workdir / 'config.json').write_text(json.dumps(fields))
  return config


def restore_state(workdir, config=None):
  """Restores (TrainState, step) of a run, with its optimizers' state."""
  config = config or load_config(f'{workdir}/config.json')
  _, _, create_state = create_networks(config)
  return Checkpoints(workdir).restore(
    jax.eval_shape(create_state), initial=create_state, quarantine=False
  )


def use(workdir, *args, whole=False, **flags):
  """Runs a command on a run in this process, as `command_line.run` does."""
  args = (*args, *(f'--{name}={value}' for name, value in flags.items()))
  assert command_line.run_command(parse(workdir, *args), whole=whole) == 0


def tell(capsys, workdir, *args):
  """Returns the sentence with which a command on a run is refused."""
  with pytest.raises(SystemExit) as caught, main.processes.reporting_errors():
    command_line.run_command(parse(workdir, *args))
  assert caught.value.code == 2
  sentence = capsys.readouterr().err.splitlines()[-1]
  assert sentence.startswith('error: ')
  return sentence
