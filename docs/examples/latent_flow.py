"""A generative model of latents: flow matching (arXiv 2210.02747).

    python main.py --mode=encode --split=train --workdir=runs/celeba
    PYTHONPATH=. python docs/examples/latent_flow.py --workdir=runs/celeba \
      --output=runs/flow

A small network learns the velocity that moves noise to latents along straight
lines. It trains on the folder of latents that `--mode=encode` writes, for
continuous latents, flat or a map. The figure shows its decoded samples beside
those of the VAE's own prior. With `--features_weights` (VGG16's file) it also
computes their Frechet distances to training images.

Axes: B batch, Z all entries of a latent.
"""

import argparse
import functools
import json
import time
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image

import vaegan_jax
from vaegan_jax.config.shapes import holds_arrays
from vaegan_jax.data.data_config import DataConfig
from vaegan_jax.data.split import load_splits
from vaegan_jax.evaluation.feature_metrics import load_feature_metrics
from vaegan_jax.evaluation.frechet import frechet_distance
from vaegan_jax.evaluation.plots import comparison_figure

NUM_COLUMNS = 8  # Images in a row of the figure.


class Velocity(nn.Module):
  """Residual network: z [B, Z], time [B] -> velocity [B, Z]."""

  width: int = 512
  depth: int = 3

  @nn.compact
  def __call__(self, z, time):
    angles = time[:, None] * 2.0 ** jnp.arange(-2, 6) * jnp.pi
    h = jnp.concatenate([z, jnp.sin(angles), jnp.cos(angles)], axis=-1)
    h = nn.Dense(self.width)(h)
    for _ in range(self.depth):
      update = nn.silu(nn.Dense(self.width)(nn.LayerNorm()(h)))
      h += nn.Dense(self.width)(update)
    return nn.Dense(z.shape[-1])(nn.LayerNorm()(h))


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def train_step(network, optimizer, state, key, mean, std):
  """Updates (params, opt_state, averaged params) on one batch."""
  params, opt_state, averaged = state
  keys = jax.random.split(key, 3)
  z = mean + std * jax.random.normal(keys[0], mean.shape)
  noise = jax.random.normal(keys[1], z.shape)
  time = jax.random.uniform(keys[2], (len(z),))
  between = (1 - time[:, None]) * noise + time[:, None] * z

  def loss(params):
    velocity = network.apply(params, between, time)
    return jnp.square(velocity - (z - noise)).mean()

  value, grads = jax.value_and_grad(loss)(params)
  updates, opt_state = optimizer.update(grads, opt_state)
  params = optax.apply_updates(params, updates)
  averaged = optax.incremental_update(params, averaged, 0.005)
  return (params, opt_state, averaged), value


@functools.partial(jax.jit, static_argnums=(0, 3))
def flow(network, params, noise, num_steps=50):
  """Moves noise [B, Z] to latents by the midpoint rule."""
  dt = 1 / num_steps

  def move(z, time):
    half = z + 0.5 * dt * network.apply(params, z, jnp.full(len(z), time))
    middle = jnp.full(len(z), time + 0.5 * dt)
    return z + dt * network.apply(params, half, middle), None

  return jax.lax.scan(move, noise, dt * jnp.arange(num_steps))[0]


def read(latents):
  """Reads (means, standard deviations) [N, *S, Z] from a folder of latents."""
  found = {
    name: [np.load(path) for path in sorted(latents.glob(f'{name}-*.npy'))]
    for name in ('mean', 'logvar', 'latents')
  }
  if not found['mean']:
    means = np.concatenate(found['latents'])
    return means, np.zeros_like(means)
  logvar = np.concatenate(found['logvar'])
  return np.concatenate(found['mean']), np.exp(0.5 * logvar)


def train(network, mean, std, num_steps, batch_size=256):
  """Trains on normalised latents [N, Z]; returns (params, loss)."""
  optimizer = optax.adam(optax.cosine_decay_schedule(1e-3, num_steps))
  params = network.init(jax.random.key(0), mean[:1], jnp.zeros(1))
  state = (params, optimizer.init(params), jax.tree.map(jnp.copy, params))
  rng, losses = np.random.default_rng(0), []
  for step in range(1, num_steps + 1):
    rows = rng.integers(len(mean), size=batch_size)
    key = jax.random.fold_in(jax.random.key(1), step)
    state, loss = train_step(
      network, optimizer, state, key, mean[rows], std[rows]
    )
    losses.append(loss)
    if step % 500 == 0 or step == num_steps:
      recent = float(np.mean(losses[-500:]))
      print(f'step {step:,}/{num_steps:,}  loss {recent:.4f}', flush=True)
  return state[2], recent


def frechet_distances(sets, metrics, batch_size=50):
  """Returns each set's Frechet distance to the first set of images."""
  features = {
    name: in_batches(metrics.embed, images, batch_size)
    for name, images in sets.items()
  }
  first, *others = features
  return {n: frechet_distance(features[first], features[n]) for n in others}


def main(argv=None) -> None:
  """Trains the flow, samples from it, and writes figure and distances."""
  args = parse_args(argv)
  model = vaegan_jax.load(args.workdir)
  mean, std = read(Path(args.latents or Path(args.workdir, 'latents')))
  mean, std = normalize(model, mean), std / stds(model)
  mean, std = (array.reshape(len(array), -1) for array in (mean, std))
  start = time.monotonic()
  network = Velocity()
  params, loss = train(network, mean, std, args.num_steps)
  seconds = time.monotonic() - start

  shape = args.num_samples, mean.shape[-1]
  z = flow(network, params, jax.random.normal(jax.random.key(2), shape))
  images, held_out = load_splits(
    DataConfig(**model.config.data), ['train_split', 'eval_split']
  )
  sets = collect_sets(model, z, images)
  nearest = {
    'samples': distance_to_nearest(z, mean),
    'held-out images': distance_to_nearest(encode(model, held_out), mean),
  }
  distances = {}
  if args.features_weights:
    metrics = load_feature_metrics(
      lpips_weights='',
      features_weights=args.features_weights,
      arrays=holds_arrays(model.config.data),
    )
    distances = frechet_distances(sets, metrics)
  facts = {'loss': loss, 'train_seconds': seconds, 'nearest': nearest}
  write(args.output, sets, distances, **facts)


def parse_args(argv):
  """Parses the command line."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  add = parser.add_argument
  add('--workdir', required=True, help='workdir of the run')
  add(
    '--latents',
    help='folder that --mode=encode wrote (default: in the workdir)',
  )
  add('--output', required=True, help='folder for the figure and the distances')
  add('--num_steps', type=int, default=4000, help='updates (default: 4000)')
  add(
    '--num_samples',
    type=int,
    default=1500,
    help='images in a set (default: 1500)',
  )
  add(
    '--features_weights',
    default='',
    help="VGG16's file, for Frechet distances (default: none are computed)",
  )
  return parser.parse_args(argv)


def stds(model):
  """Returns the standard deviations of the latents, above 0."""
  return np.asarray(model.latent_std) + 1e-6


def normalize(model, latents):
  """Brings latents [N, *S, Z] to mean 0 and standard deviation 1."""
  return (latents - np.asarray(model.latent_mean)) / stds(model)


def encode(model, images):
  """Samples the normalised latents [N, Z] of images, as the flow's are."""
  key = jax.random.key(4)
  latents = in_batches(
    lambda batch: model.encode(model.preprocess(batch)).sample(key),
    images[np.arange(len(images))],
  )
  return normalize(model, latents).reshape(len(latents), -1)


def collect_sets(model, z, images):
  """Returns {name: [N, *S, C]}, as many of each as there are z [N, Z]."""
  places = np.random.default_rng(0).permutation(len(images))
  halves = places[: len(z)], places[-len(z) :]
  x, other = (np.asarray(model.preprocess(images[half])) for half in halves)
  z = z.reshape(-1, *model.latent_shape) * stds(model)
  prior = model.sample_prior(jax.random.key(3), len(z))
  return {
    'training images': x,
    'other training images': other,
    'reconstructions': in_batches(model.reconstruct, other),
    "the VAE's prior": in_batches(model.decode, np.asarray(prior)),
    'flow in its latents': in_batches(
      model.decode, z + np.asarray(model.latent_mean)
    ),
  }


def distance_to_nearest(z, mean):
  """Returns the median distance of z [M, Z] to its nearest mean [N, Z].

  Copies of training images would be nearer than held-out images are.
  """
  squares = (np.square(mean - row).sum(axis=1) for row in np.asarray(z))
  return float(np.sqrt(np.median([row.min() for row in squares])))


def in_batches(function, arrays, batch_size=50):
  """Applies a function to [N, ...] arrays, a batch at a time."""
  parts = [
    np.asarray(function(jnp.asarray(arrays[first : first + batch_size])))
    for first in range(0, len(arrays), batch_size)
  ]
  return np.concatenate(parts)


def write(output, sets, distances, **facts) -> None:
  """Writes `latent_flow.png` and `latent_flow.json`."""
  folder = Path(output)
  folder.mkdir(parents=True, exist_ok=True)
  rows = {
    name: images[:NUM_COLUMNS]
    for name, images in sets.items()
    if name != 'other training images'
  }
  results = {name: {'frechet': value} for name, value in distances.items()}
  figure = comparison_figure(rows, results)
  Image.fromarray(figure).save(folder / 'latent_flow.png')
  facts |= {'num_images': len(sets['training images']), 'frechet': distances}
  (folder / 'latent_flow.json').write_text(json.dumps(facts, indent=2) + '\n')
  print(json.dumps(facts, indent=2))


if __name__ == '__main__':
  main()
