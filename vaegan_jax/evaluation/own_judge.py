"""A judge of the data's own: a network trained on held-out examples.

Half of them train it to tell which of several changes an example went through:
blur, noise, half the resolution, a mixture. So its features respond to what is
lost and to what is added, in any signal, without pretrained weights. It sees no
example of the training split, no reconstruction, and no loss of any run, so
that one network judges all runs on a data set. The other half is judged.

Axes: B examples; S, one to three axes of space; C channels; F features.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vaegan_jax.losses.distances import feature_distance
from vaegan_jax.losses.perceptual import capture_features
from vaegan_jax.losses.terms import double, halve
from vaegan_jax.models.critic import Critic
from vaegan_jax.runtime import devices
from vaegan_jax.runtime.progress import track

MIN_EXAMPLES = 64  # Held-out ones.

_WIDTH, _MULTIPLIERS, _MIN_SIDE = 16, (1, 2, 4, 4, 4, 4), 4
_NUM_FEATURES = _WIDTH * _MULTIPLIERS[-1]
_NUM_STEPS, _LEARNING_RATE = 200, 2e-3
# In a step, each with all its changes; fewer if they have more values.
_NUM_EXAMPLES, _NUM_VALUES = 8, 2**18
_NUM_REFERENCES = 64  # Examples that the sizes of the features are measured on.
_BLURS, _NOISES = (1, 3, 9), (0.03, 0.1, 0.3)
_NUM_CHANGES = 4 + len(_BLURS) + len(_NOISES)

# (indices [B]) -> these examples [B, *S, C] in [-1, 1].
Read = Callable[[np.ndarray], jax.Array]
_judges: dict[Hashable, 'OwnJudge'] = {}


@dataclasses.dataclass(frozen=True)
class OwnJudge:
  """A trained network."""

  module: Critic  # Network without its head.
  variables: Mapping[str, Any]  # Weights, on all devices.
  # Standard deviations in the data, by which features are divided, of each
  # layer's channels and of the `pooled` features.
  scales: Mapping[str, jax.Array]
  digest: str  # First digits of the SHA-256 of weights and scales.

  def measure(
    self, x: jax.Array, recons: Mapping[str, jax.Array]
  ) -> dict[str, jax.Array]:
    """Compares originals x [B, *S, C] with several kinds of reconstructions.

    Returns:
      `judge_features` [B, F] of the originals and, for each suffix of `recons`,
      `judge` [B], the distance, and `judge_features_recon` [B, F].
    """
    embed = functools.partial(_embed, self.module, self.variables, self.scales)
    maps, features = embed(x)
    values = {'judge_features': features}
    for suffix, x_recon in recons.items():
      maps_recon, features = embed(x_recon)
      values[f'judge{suffix}'] = _distance(maps, maps_recon)
      values[f'judge_features_recon{suffix}'] = features
    return values

  @property
  def description(self) -> str:
    """A line of the protocol."""
    return (
      f'judge, judge_frechet: a network of {_NUM_FEATURES} features (sha256 '
      f'{self.digest}) that learnt to tell changes apart on every second '
      'held-out example; over the others'
    )


def is_judged(num_examples: int) -> np.ndarray:
  """Returns which of the first held-out examples are judged, [B] bool."""
  return np.arange(num_examples) % 2 == 0


def judge_for(
  key: Hashable, read: Read, num_examples: int, poll: Callable[[], None]
) -> OwnJudge:
  """Returns the judge of a data set, trained once in a process.

  The key identifies the examples that `read` returns, of `num_examples` in the
  split, at least `MIN_EXAMPLES`. `poll` is called before each step.
  """
  if key not in _judges:
    _judges[key] = train_judge(read, num_examples, poll)
  return _judges[key]


def train_judge(
  read: Read, num_examples: int, poll: Callable[[], None] = lambda: None
) -> OwnJudge:
  """Trains a judge; the arguments are those of `judge_for`.

  The same examples give the same bits on one machine.
  """
  rng = np.random.default_rng(0)
  indices = np.flatnonzero(~is_judged(num_examples))
  references = jnp.asarray(read(indices[:_NUM_REFERENCES]))
  module = _create_network(references.shape[1:-1])
  params = {
    'network': module.init(jax.random.key(0), references[:1])['params'],
    'head': jnp.zeros((_NUM_FEATURES, _NUM_CHANGES)),
  }
  schedule = optax.cosine_decay_schedule(_LEARNING_RATE, _NUM_STEPS)
  optimizer = optax.adam(schedule)
  state = params, optimizer.init(params)
  size = np.clip(_NUM_VALUES // references[0].size, 2, _NUM_EXAMPLES)
  what = "Training the data's own judge"
  for i in track(range(_NUM_STEPS), what, _NUM_STEPS):
    poll()
    x = jnp.asarray(read(rng.choice(indices, size, replace=False)))
    state = _step(module, optimizer, state, x, jax.random.key(i))
  return _finish(module, {'params': state[0]['network']}, references)


def _create_network(space) -> Critic:
  num_blocks = int(np.log2(max(min(space) // _MIN_SIDE, 2)))
  multipliers = _MULTIPLIERS[: num_blocks - 1] + _MULTIPLIERS[-1:]
  return Critic(_WIDTH, multipliers[-len(_MULTIPLIERS) :], head='none')


@functools.partial(jax.jit, static_argnums=(0, 1))
def _step(module, optimizer, state, x, key):
  """Returns (params, momenta) after a step on examples [B, *S, C]."""

  def loss(params):
    changed = _change(x, key)
    h = module.apply({'params': params['network']}, jnp.concatenate(changed))
    logits = _pool(h) @ params['head']
    labels = jnp.repeat(jnp.arange(len(changed)), len(x))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean()

  params, momenta = state
  updates, momenta = optimizer.update(jax.grad(loss)(params), momenta, params)
  return optax.apply_updates(params, updates), momenta


def _change(x, key) -> list[jax.Array]:
  """Returns the examples themselves and after each change, [B, *S, C] each."""
  size = x.std(axis=tuple(range(1, x.ndim)), keepdims=True)
  white = size * jax.random.normal(key, x.shape)
  changed = [x, *(_blur(x, times) for times in _BLURS)]
  changed += [x + deviation * white for deviation in _NOISES]
  changed += [double(halve(x), x.shape[1:-1]), _blur(x, 3) + 0.1 * white]
  changed.append(0.7 * x + 0.3 * jnp.roll(x, 1, axis=0))
  return [jnp.clip(each, -1, 1) for each in changed]


def _blur(x, times):
  """Averages neighbours, with the weights 1, 2 and 1, along each axis."""
  for axis in range(1, x.ndim - 1):
    width = [(int(i == axis),) * 2 for i in range(x.ndim)]
    for _ in range(times):
      padded = jnp.pad(x, width, mode='edge')
      first, middle, last = (
        jax.lax.slice_in_dim(padded, i, i + x.shape[axis], axis=axis)
        for i in range(3)
      )
      x = (first + 2 * middle + last) / 4
  return x


def _pool(h):
  return h.mean(axis=tuple(range(1, h.ndim - 1)))


def _finish(module, variables, references) -> OwnJudge:
  """Measures the scales of a trained network, and returns the judge."""
  ones = dict.fromkeys((*module.layer_names, 'pooled'), 1.0)
  maps, pooled = _embed(module, variables, ones, references)
  scales = {
    name: jnp.std(f, axis=tuple(range(f.ndim - 1))) + 1e-6
    for name, f in (maps | {'pooled': pooled}).items()
  }
  digest = hashlib.sha256()
  for array in jax.tree.leaves((variables, scales)):
    digest.update(np.asarray(array).tobytes())
  variables, scales = devices.replicate((variables, scales))
  return OwnJudge(module, variables, scales, digest.hexdigest()[:8])


@functools.partial(jax.jit, static_argnums=0)
def _embed(module, variables, scales, x):
  """Returns ({layer: [B, *S', F']}, pooled features [B, F]) of x [B, *S, C]."""
  x = jnp.clip(x, -1, 1)
  _, maps = capture_features(module, variables, x, layers=module.layer_names)
  pooled = _pool(maps[module.layer_names[-1]]) / scales['pooled']
  return {name: f / scales[name] for name, f in maps.items()}, pooled


@jax.jit
def _distance(maps, maps_recon):
  """Computes the mean squared difference [B] over positions and layers."""
  return feature_distance(maps, maps_recon, reduction='mean') / len(maps)
