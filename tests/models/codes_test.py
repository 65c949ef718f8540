"""Quantisers: indices, gradients, learnt codebooks and dead codes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.networks import jitted
from vaegan_jax.models.latents import codes
from vaegan_jax.models.latents.base import Deterministic, Gaussian
from vaegan_jax.models.latents.fsq import FSQ
from vaegan_jax.models.latents.lfq import LFQ
from vaegan_jax.models.latents.vq import VQ

KINDS = {
  'vq': VQ(6, codebook_size=11, code_dim=3),
  'unit_vq': VQ(6, codebook_size=11, code_dim=3, unit_codes=True),
  'fsq': FSQ(6, levels=(4, 3, 5)),
  'lfq': LFQ(6, code_dim=3),
}
LEVELS = [(3,), (4, 3), (8, 6, 5), (8, 5, 5, 5), (7, 4, 3, 3)]


def init(latent):
  h = np.zeros((1, latent.num_inputs), np.float32)  # One shape: compiled once.
  return jitted(latent.init, jax.random.key(0), h)


def normal(*shape, seed=0, scale=1.0):
  values = np.random.default_rng(seed).normal(0, scale, shape)
  return values.astype(np.float32)


def encode_and_back(latent, variables, h):
  """Returns (outputs, encoded, decoded indices)."""
  encoded = latent.apply(variables, h, method='encode')
  back = latent.apply(variables, encoded['indices'], method='from_indices')
  return latent.apply(variables, h), encoded, back


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('space', [(), (3,), (2, 1, 3)])
def test_codes_of_any_shape_decode_to_the_same_latents(kind, space):
  latent = KINDS[kind]
  h = normal(2, *space, 6)
  variables = init(latent)
  outputs, encoded, back = jax.jit(encode_and_back, static_argnums=0)(
    latent, variables, h
  )
  latents, losses, stats = outputs
  assert encoded['indices'].shape == (2, *space, 2)
  np.testing.assert_allclose(encoded['latents'], latents, atol=1e-6)
  np.testing.assert_array_equal(back, encoded['latents'])
  assert all(loss.shape == (2,) for loss in losses.values())
  bits = 2 * np.prod(space) * np.log2(latent.codebook_size)
  np.testing.assert_allclose(stats['rate'], bits, rtol=1e-6)
  np.testing.assert_allclose(
    latent.measure(encoded)['rate'], [bits] * 2, rtol=1e-6
  )


@pytest.mark.parametrize('levels', LEVELS)
def test_every_index_of_fsq_survives_the_round_trip(levels):
  latent = FSQ(len(levels), levels=levels)
  variables = init(latent)
  indices = np.arange(latent.codebook_size)[:, None]
  vectors = jitted(latent.apply, variables, indices, method='from_indices')
  assert len(np.unique(vectors, axis=0)) == latent.codebook_size
  assert np.abs(vectors).max() <= 1
  # The encoder's output that tanh maps to a code gives that code.
  halves = np.array(levels) // 2
  half = (np.array(levels) - 1) * 1.001 / 2
  offset = np.where(np.array(levels) % 2, 0, 0.5)
  h = np.arctanh((vectors * halves + offset) / half) - np.arctanh(offset / half)
  got = jitted(latent.apply, variables, np.float32(h), method='encode')
  np.testing.assert_array_equal(got['indices'], indices)
  # Any output gives a code.
  h = normal(500, len(levels), scale=50.0)
  wild = jitted(latent.apply, variables, h, method='encode')
  assert 0 <= wild['indices'].min() <= wild['indices'].max()
  assert wild['indices'].max() < latent.codebook_size
  assert np.isfinite(wild['latents']).all()


def test_fsq_by_hand():
  """Three levels are -1, 0 and 1; four are -2, -1, 0 and 1 halves."""
  latent = FSQ(2, levels=(3, 4))
  variables = init(latent)
  h = np.float32([[9, 9], [-9, -9], [0, 0], [0.3, 0.1]])
  encoded = jitted(latent.apply, variables, h, method='encode')
  np.testing.assert_allclose(
    encoded['latents'], [[1, 0.5], [-1, -1], [0, 0], [0, 0]]
  )
  np.testing.assert_array_equal(encoded['indices'][:, 0], [11, 0, 7, 7])


@pytest.mark.parametrize('kind', KINDS)
def test_gradients_pass_the_rounding(kind):
  latent = KINDS[kind]
  h = normal(4, 6, scale=0.3)
  variables = init(latent)

  def total(h):
    return (latent.apply(variables, h)[0] * jnp.arange(6)).sum()

  gradient = jax.jit(jax.grad(total))(h)
  if kind == 'fsq':  # Scaled by tanh, and by the division by the halves.
    assert (gradient[:, 1:] > 0).all()
  elif kind == 'unit_vq':
    assert np.isfinite(gradient).all() and (gradient != 0).any()
  else:
    np.testing.assert_allclose(gradient, np.tile(np.arange(6.0), (4, 1)))


def noise_of(latent, num_examples, space=()):
  sizes = {'num_examples': num_examples, 'space': space}
  indices = np.arange(num_examples)
  return jitted(latent.sample_noise, jax.random.key(1), indices, **sizes)


def train(latent, variables, h):
  args = h, noise_of(latent, len(h)), True
  return jitted(latent.apply, variables, *args, mutable='batch_stats')


def test_a_code_converges_to_the_mean_of_its_tokens():
  """With two clusters and two codes, each code is the mean of a cluster."""
  latent = VQ(2, codebook_size=2, code_dim=2)
  rng = np.random.default_rng(0)
  centres = np.array([[3.0, 1.0], [-2.0, 0.5]])
  h = np.repeat(centres, 50, axis=0) + 0.1 * rng.normal(size=(100, 2))
  h = np.float32(h)
  variables = init(latent)
  noise = noise_of(latent, len(h))
  step = jax.jit(
    lambda variables: latent.apply(
      variables, h, noise, True, mutable='batch_stats'
    )
  )
  for _ in range(1200):
    (_, losses, stats), variables = step(variables)
  got = jitted(latent.apply, variables, method='codebook')
  want = [h[:50].mean(0), h[50:].mean(0)]
  order = np.argsort(-got[:, 0])
  np.testing.assert_allclose(got[order], want, atol=1e-4)
  np.testing.assert_allclose(losses['commitment'].mean(), 0.01, rtol=0.2)
  np.testing.assert_allclose(
    [stats['usage'], stats['perplexity'], stats['largest_share']],
    [1, 2, 0.5],
    rtol=1e-4,
  )


def test_dead_codes_are_replaced_by_tokens_of_the_batch():
  latent = VQ(2, codebook_size=16, code_dim=2)
  h = normal(64, 2, seed=3)
  variables = init(latent)
  # Far from all codes.
  _, variables = train(latent, variables, h + 100.0)
  codebook = np.asarray(jitted(latent.apply, variables, method='codebook'))
  tokens = np.asarray(h + 100.0)
  dead = np.asarray(variables['batch_stats']['counts']) < codes.DEAD_SHARE
  assert dead.sum() == 15  # All but the one nearest to all tokens.
  for code in codebook[dead]:
    assert (np.abs(tokens - code).max(1) < 1e-6).any()


def test_a_codebook_is_constant_without_noise_or_training():
  latent = KINDS['vq']
  h = normal(3, 6)
  variables = init(latent)
  noise = noise_of(latent, 3)
  for args in ((None, True), (noise, False)):
    _, moved = jitted(latent.apply, variables, h, *args, mutable='batch_stats')
    for name in ('counts', 'sums', 'candidates'):
      np.testing.assert_array_equal(
        moved['batch_stats'][name], variables['batch_stats'][name]
      )


def test_many_devices_sample_the_same_tokens_as_one():
  """Exactly one device holds each chosen token."""
  latent, space = VQ(6, codebook_size=40, code_dim=3), (5,)
  key, indices = jax.random.key(2), np.arange(8) + 16  # The third microbatch.
  one, *halves = (
    jitted(latent.sample_noise, key, part, num_examples=8, space=space)
    for part in (indices, indices[:4], indices[4:])
  )
  merged = np.maximum(
    halves[0]['chosen'],
    np.where(halves[1]['chosen'] >= 0, halves[1]['chosen'] + 4 * 10, -1),
  )
  np.testing.assert_array_equal(merged, one['chosen'])
  assert [h['weight'] for h in halves] == [2, 2] and one['weight'] == 1
  assert ((halves[0]['chosen'] >= 0) != (halves[1]['chosen'] >= 0)).all()
  assert one['chosen'].min() >= 0 and one['chosen'].max() < 8 * 10


def test_entropy_of_lfq_is_that_of_the_joint_distribution():
  """Compares it with a softmax over all 2^3 codes."""
  latent = KINDS['lfq']
  h = normal(5, 6, seed=4, scale=0.5)
  _, losses, _ = jitted(latent.apply, init(latent), h)
  tokens = np.asarray(h, np.float64).reshape(5, 2, 3)
  values = np.array(
    [[1 if i >> b & 1 else -1 for b in range(3)] for i in range(8)]
  )
  logits = -((tokens[..., None, :] - values) ** 2).sum(-1)
  p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  own = -(p * np.log(p)).sum(-1).mean(1)
  mean = p.mean((0, 1))
  np.testing.assert_allclose(
    losses['entropy'], own + (mean * np.log(mean)).sum(), rtol=1e-4
  )
  signs = np.where(tokens > 0, 1, -1)
  np.testing.assert_allclose(
    losses['commitment'], ((tokens - signs) ** 2).mean((1, 2)), rtol=1e-5
  )


@pytest.mark.parametrize('xp', [jnp, np])  # In training and in evaluation.
def test_codebook_metrics_by_hand(xp):
  stats = codes.codebook_metrics(xp.array([6.0, 2.0, 0.0, 0.0]), xp)
  entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
  np.testing.assert_allclose(stats['perplexity'], np.exp(entropy), rtol=1e-5)
  assert (stats['usage'], stats['largest_share']) == (0.5, 0.75)
  assert codes.codebook_metrics(xp.zeros(4), xp)['usage'] == 0


@pytest.mark.parametrize(
  'latent', [*KINDS.values(), Gaussian(6), Deterministic(6)]
)
def test_prior_samples_depend_on_the_example_index_and_decode(latent):
  variables = init(latent)
  prior, part = (
    jitted(latent.sample_prior, jax.random.key(0), indices, space=(2,))
    for indices in (jnp.arange(9), jnp.arange(4, 9))
  )
  np.testing.assert_array_equal(prior[4:], part)
  latents = jitted(latent.apply, variables, prior, method='from_prior')
  assert latents.shape == (9, 2, 6)
  assert len(np.unique(latents.reshape(9, -1), axis=0)) == 9
