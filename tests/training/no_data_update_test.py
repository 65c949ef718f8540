"""Updates on examples with no data, against a plain reference."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tests.training import update_options_test as options
from tests.training.assembly import PLAIN, parallel_updates
from tests.training.update_test import critic_layers, preprocess
from vaegan_jax.data import pixels
from vaegan_jax.losses import adversarial
from vaegan_jax.runtime import devices

NO_DATA = 254
LOSS = {'image_weight': 0.5, 'adversarial_ramp_steps': 0}


def with_no_data(images, flip):
  """Flips and scales images as `preprocess`, with NaN for 254."""
  x = preprocess(jnp.minimum(images, NO_DATA), flip)
  return jnp.where(x > NO_DATA / 127.5 - 1 - 1e-3, jnp.nan, x)


def masked_update(loss):
  """Returns the update over all devices; not compiled yet."""
  return parallel_updates(
    options.MODULES,
    options.OPTIMIZERS,
    options.PLAIN_LOSS | loss,
    objective=adversarial.OBJECTIVES['geometric'],
    seed=options.SEED,
    preprocess=with_no_data,
    masked=True,
  )(PLAIN)


def masked_batches(number):
  """Returns images [number, B, S, S, 1] with a swath and specks of no data."""
  images = np.minimum(options.batches('plain', number), NO_DATA - 1)
  images[:, :, 5:] = NO_DATA
  images[:, ::2, 1, 2] = NO_DATA
  return images


@functools.cache
def first_step():
  """Returns the states before and after, and the metrics."""
  before = options.initial_state()
  (images,) = masked_batches(1)
  state, metrics = masked_update(LOSS)(devices.replicate(before), images[None])
  return before, jax.device_get(state), jax.device_get(metrics)


def inputs_of(images):
  """Returns the random inputs of step 1, with x filled, and what is valid."""
  given = options.sample(1, 0, images)
  marks = options.sample(1, 0, np.where(images == NO_DATA, NO_DATA, 0))['x']
  x, valid = pixels.fill(jnp.where(marks > 0, jnp.nan, given['x']))
  return given | {'x': x}, valid


@jax.jit
@jax.value_and_grad
def critic_loss(critic, autoencoder, given, valid):
  recon, _, _ = options.reconstruct(autoencoder, given)
  fake = jnp.where(valid, recon, given['x'])
  real, fake = (critic_layers(critic, i)[1] for i in (given['x'], fake))
  return (jnp.maximum(0, 1 - real) + jnp.maximum(0, 1 + fake)).mean()


@jax.jit
@jax.value_and_grad
def autoencoder_loss(autoencoder, critic, given, valid):
  """The sum over what counts of each term, with features by their area."""
  x = given['x']
  recon, mean, logvar = options.reconstruct(autoencoder, given)
  recon = jnp.where(valid, recon, x)
  kl = ((jnp.exp(logvar) + mean**2 - 1 - logvar).sum(1) / 2).mean()
  (real, _), (fake, logit) = (critic_layers(critic, i) for i in (x, recon))
  total = (0.3 + 0.5) * (valid * (x - recon) ** 2).sum()  # And the image's.
  for name in real:
    size = 8 // real[name].shape[1]
    blocks = valid.reshape(len(x), 8 // size, size, 8 // size, size, 1)
    area = blocks.mean((2, 4))
    total += (area * (real[name] - fake[name]) ** 2).sum()
  return 0.5 * kl + total / len(x) - 2 * logit.mean()


def test_an_update_is_that_of_what_is_valid():
  before, after, metrics = first_step()
  given, valid = inputs_of(masked_batches(1)[0])
  assert 0.3 < 1 - valid.mean() < 0.5
  old, new = options.params_of(before), options.params_of(after)
  reference = critic_loss(old['critic'], old['autoencoder'], given, valid)
  loss, name = metrics['critic_loss'], 'critic'
  options.assert_stepped(old[name], new[name], loss, reference)
  reference = autoencoder_loss(old['autoencoder'], new['critic'], given, valid)
  loss, name = metrics['loss'], 'autoencoder'
  options.assert_stepped(old[name], new[name], loss, reference)
  assert metrics['skipped_in_a_row'] == 0
