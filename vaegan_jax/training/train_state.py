"""State of training, which every update takes and returns."""

import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from vaegan_jax.models.build import init_variables
from vaegan_jax.training import layer_sizes

Params = Mapping[str, Any]
# Moving averages and their initial values: the critic's mean logits (LeCAM),
# and the factor of the adaptive adversarial weight.
AVERAGES = {'logits_real': 0.0, 'logits_fake': 0.0, 'adaptive_weight': 1.0}


class NetworkState(struct.PyTreeNode):
  """Weights and optimizer state of one network."""

  params: Params
  batch_stats: Params  # Running averages of BatchNorm and of a codebook, or {}.
  opt_state: optax.OptState  # () if the network is frozen.

  @property
  def variables(self) -> dict[str, Params]:
    """Argument of `module.apply`."""
    return {'params': self.params, 'batch_stats': self.batch_stats}


def select(params: Params, parts: Collection[str] | None) -> Params:
  """Returns the params of a network's parts, by name; None: of all."""
  return params if parts is None else {name: params[name] for name in parts}


def apply_gradients(
  network: NetworkState,
  optimizer: optax.GradientTransformation,
  grads: Params,
  batch_stats: Params,
) -> NetworkState:
  """Takes one optimizer step.

  The gradients are those of the parts that are trained; the others stay the
  same. `batch_stats` are those after the step.
  """
  params = select(network.params, grads.keys())
  updates, opt_state = optimizer.update(grads, network.opt_state, params)
  return NetworkState(
    params={**network.params, **optax.apply_updates(params, updates)},
    batch_stats=batch_stats,
    opt_state=opt_state,
  )


class TrainState(struct.PyTreeNode):
  """Whole state of a run, without random state: see `random_inputs.py`."""

  step: jax.Array  # [] int32, the last finished step; steps count 1..N.
  num_skipped: jax.Array  # [] int32, updates skipped in a row up to now.
  # 'autoencoder', unless the objective has none 'critic', and, if the loss
  # needs it, 'start', the decoder as it began.
  networks: dict[str, NetworkState]
  ema_params: Params  # Moving average of the autoencoder's weights.
  # {name: []}, other moving averages and the steered KL weight; see `AVERAGES`,
  # `layer_sizes.py` and `kl_rate.py`.
  averages: dict[str, jax.Array]
  # [] int32, rollbacks to a checkpoint. A step's random inputs depend on it, so
  # that a repeated step gets others.
  num_rollbacks: jax.Array

  @property
  def start_decoder(self) -> dict[str, Params] | None:
    """Variables of the decoder as it began, if they are kept."""
    start = self.networks.get('start')
    return start and start.variables


def create_train_state(
  modules: Mapping[str, nn.Module],
  optimizers: Mapping[str, optax.GradientTransformation],
  *,
  seed: int,
  image_shape: tuple[int, ...],
  pretrained: Mapping[str, Params] | None = None,
  measure_sizes: Callable[..., dict[str, jax.Array]] | None = None,
  averages: Mapping[str, float] | None = None,
  trained_parts: Collection[str] | None = None,
  keep_start: bool = False,
) -> TrainState:
  """Initializes every network.

  Args:
    modules: 'autoencoder' and optionally 'critic'.
    optimizers: one for each trained module.
    image_shape: (*S, C).
    pretrained: {module: variables} of modules that are not to be initialized.
    measure_sizes: (critic's variables or None, images) -> sizes of the layers
      {layer: []}, if the run follows them.
    averages: further averages {name: initial value}.
    trained_parts: names of the autoencoder's parts that are; None: all.
    keep_start: whether the decoder is kept as it begins.

  Returns:
    The state before step 1, with sizes of 0.
  """
  x = jnp.zeros((1, *image_shape))
  networks = {}
  for i, (name, module) in enumerate(modules.items()):
    key = jax.random.fold_in(jax.random.key(seed), i)
    variables = (pretrained or {}).get(name) or init_variables(module, key, x)
    parts = trained_parts if name == 'autoencoder' else None
    networks[name] = _create(variables, optimizers.get(name), parts)
  if keep_start:
    variables = _copy(networks['autoencoder'].variables)
    own = {kind: v.get('decoder', {}) for kind, v in variables.items()}
    networks['start'] = NetworkState(**own, opt_state=())
  averages = AVERAGES | (averages or {})
  averages = {name: jnp.float32(value) for name, value in averages.items()}
  if measure_sizes:
    critic = networks['critic'].variables if 'critic' in networks else None
    sizes = jax.eval_shape(measure_sizes, critic, x)
    averages |= layer_sizes.to_averages(jax.tree.map(jnp.zeros_like, sizes))
  return TrainState(
    step=jnp.int32(0),
    num_skipped=jnp.int32(0),
    networks=networks,
    ema_params=_copy(networks['autoencoder'].params),
    averages=averages,
    num_rollbacks=jnp.int32(0),
  )


def _create(variables, optimizer, parts) -> NetworkState:
  """Creates a network's state; without an optimizer it is frozen."""
  params, opt_state = variables['params'], ()
  if optimizer is not None:
    opt_state = _init_optimizer(optimizer, select(params, parts))
  return NetworkState(params, variables.get('batch_stats', {}), opt_state)


# Operations on single leaves would be compiled one by one.


@functools.partial(jax.jit, static_argnums=0)
def _init_optimizer(
  optimizer: optax.GradientTransformation, params: Params
) -> optax.OptState:
  return optimizer.init(params)


@jax.jit
def _copy(params: Params) -> Params:
  return jax.tree.map(jnp.copy, params)


def inference_variables(state: TrainState) -> dict[str, dict[str, Params]]:
  """Returns {network: variables}, with the autoencoder's averaged weights.

  'layer_sizes' are those of the distance's layers, if the run follows them.
  """
  variables = {name: net.variables for name, net in state.networks.items()}
  variables.pop('start', None)
  variables['autoencoder']['params'] = state.ema_params
  sizes = layer_sizes.from_averages(state.averages)
  if sizes and 'critic' in variables:
    variables['layer_sizes'] = sizes
  return variables
