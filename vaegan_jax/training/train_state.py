"""What training carries from step to step, and how it begins."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

Params = Mapping[str, Any]
# Moving averages and where they begin: the critic's mean logits (LeCAM), and
# the factor of the adaptive adversarial weight.
AVERAGES = {'logits_real': 0.0, 'logits_fake': 0.0, 'adaptive_weight': 1.0}


class NetworkState(struct.PyTreeNode):
  """One network with its optimiser.

  Attributes:
    params: trained weights.
    batch_stats: running averages of BatchNorm and of a codebook, or {}.
    opt_state: of the network's optax transform; () of a frozen network.
  """

  params: Params
  batch_stats: Params
  opt_state: optax.OptState

  @property
  def variables(self) -> dict[str, Params]:
    """What `module.apply` takes."""
    return {'params': self.params, 'batch_stats': self.batch_stats}


def apply_gradients(
  network: NetworkState,
  optimizer: optax.GradientTransformation,
  grads: Params,
  batch_stats: Params,
) -> NetworkState:
  """One optimiser step of one network.

  Args:
    network: before the step.
    optimizer: of this network.
    grads: as its params.
    batch_stats: what the network holds afterwards.

  Returns:
    The network after the step.
  """
  updates, opt_state = optimizer.update(
    grads, network.opt_state, network.params
  )
  return NetworkState(
    params=optax.apply_updates(network.params, updates),
    batch_stats=batch_stats,
    opt_state=opt_state,
  )


class TrainState(struct.PyTreeNode):
  """The whole state of a run. Randomness is not in it: see `training/draws.py`.

  Attributes:
    step: [] int32, the last finished step; steps count 1..N.
    num_skipped: [] int32, non-finite updates in a row up to now.
    networks: 'autoencoder' and, unless the objective has none, 'critic'.
    ema_params: the autoencoder's weights, averaged over steps.
    averages: {name: []}, other moving averages; see `AVERAGES`.
    num_rollbacks: [] int32, how often the run went back to a checkpoint. The
      randomness of a step depends on it, so that it is not the same again.
  """

  step: jax.Array
  num_skipped: jax.Array
  networks: dict[str, NetworkState]
  ema_params: Params
  averages: dict[str, jax.Array]
  num_rollbacks: jax.Array


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
  networks = {}
  for i, (name, module) in enumerate(modules.items()):
    key = jax.random.fold_in(jax.random.key(seed), i)
    variables = (pretrained or {}).get(name)
    if variables is None:
      variables = jax.jit(module.init)(key, x)
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
    averages={name: jnp.float32(value) for name, value in AVERAGES.items()},
    num_rollbacks=jnp.int32(0),
  )


def inference_variables(state: TrainState) -> dict[str, dict[str, Params]]:
  """Returns {network: variables}; the autoencoder's weights are the averaged.

  Args:
    state: of a run, on the host or on any devices.
  """
  variables = {
    name: network.variables for name, network in state.networks.items()
  }
  variables['autoencoder']['params'] = state.ema_params
  return variables
