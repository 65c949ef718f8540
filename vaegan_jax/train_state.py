"""What training carries from step to step, and how it begins."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

Params = Mapping[str, Any]


class NetworkState(struct.PyTreeNode):
  """One network with its optimiser.

  Attributes:
    params: trained weights.
    batch_stats: running averages of BatchNorm; {} without it.
    opt_state: of the network's optax transform; () of a frozen network.
  """

  params: Params
  batch_stats: Params
  opt_state: optax.OptState

  @property
  def variables(self) -> dict[str, Params]:
    """What `module.apply` takes."""
    return {'params': self.params, 'batch_stats': self.batch_stats}


class TrainState(struct.PyTreeNode):
  """The whole state of a run. Randomness is not in it: see `update.py`.

  Attributes:
    step: [] int32, the last finished step; steps count 1..N.
    num_skipped: [] int32, non-finite updates in a row up to now.
    networks: 'autoencoder' and, unless the objective has none, 'critic'.
    ema_params: the autoencoder's weights, averaged over steps.
  """

  step: jax.Array
  num_skipped: jax.Array
  networks: dict[str, NetworkState]
  ema_params: Params


def create_train_state(
  modules: Mapping[str, nn.Module],
  optimizers: Mapping[str, optax.GradientTransformation],
  *,
  seed: int,
  image_shape: tuple[int, int, int],
  pretrained: Mapping[str, Params] | None = None,
) -> TrainState:
  """Initialises every network.

  Args:
    modules: 'autoencoder' and optionally 'critic'.
    optimizers: one for each module that is trained.
    seed: of the weights.
    image_shape: (H, W, C).
    pretrained: {module: variables} of those that are not to be drawn.

  Returns:
    The state before step 1.
  """
  x = jnp.zeros((1, *image_shape))
  inputs = {
    'autoencoder': (x, jnp.zeros((1, modules['autoencoder'].latent_dim))),
    'critic': (x,),
  }
  networks = {}
  for i, (name, module) in enumerate(modules.items()):
    key = jax.random.fold_in(jax.random.key(seed), i)
    variables = (pretrained or {}).get(name)
    if variables is None:
      variables = jax.jit(module.init)(key, *inputs[name])
    params = variables['params']
    trained = name in optimizers
    networks[name] = NetworkState(
      params=params,
      batch_stats=variables.get('batch_stats', {}),
      opt_state=optimizers[name].init(params) if trained else (),
    )
  return TrainState(
    step=jnp.int32(0),
    num_skipped=jnp.int32(0),
    networks=networks,
    ema_params=jax.tree.map(jnp.copy, networks['autoencoder'].params),
  )
