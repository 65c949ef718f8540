"""Critics of sounds: spectra over time and samples by phase, as views."""

import jax
import numpy as np
import pytest

from tests.losses.spectra_test import X, stft_by_numpy
from tests.models.critic_test import capture
from tests.networks import jitted, random_variables
from vaegan_jax.losses import penalties
from vaegan_jax.losses.adversarial import mean_over_map
from vaegan_jax.models import plain, views
from vaegan_jax.models.critic import Critic

PLAIN = {'width': 2, 'channel_multipliers': (1,), 'patch_size': 2}
DECODER = plain.Decoder(2, (), spectral_mask=16, spectral_noise=True, **PLAIN)
CRITIC = Critic(
  2,
  (2,),
  head='patch',
  num_scales=2,
  views=('wave', 'stft', 'period'),
  stft_windows=(32, 16),
  stft_bands=(0.3,),
  periods=(3,),
  spectral_norm=True,
)


def test_views_are_those_of_numpy():
  got = jitted(views.compressed_spectrum, X, window=32)
  z = np.stack([stft_by_numpy(one, 32)[:, :16] for one in X])
  z *= (np.abs(z) ** 2 + 1e-8) ** -0.35  # The power 0.3 of magnitudes.
  wanted = np.concatenate([z.real, z.imag], axis=-1)
  assert wanted.shape == (2, 8, 16, 4)
  np.testing.assert_allclose(got, wanted, atol=1e-4)
  got = views.phases(X, 3, 4)  # 64 samples and 8 of silence: 3 phases of 24.
  assert got.shape == (2, 3, 24, 2)
  np.testing.assert_array_equal(got[:, 1, :21], X[:, 1::3])
  assert not got[:, 1:, 21:].any()
  # DAC's bands, at multiples of 16 of 256 frequencies.
  edges = views.band_edges(512, (0.1, 0.25, 0.5, 0.75), 16)
  assert edges == [0, 32, 64, 128, 192, 256]


@pytest.fixture(scope='module')
def variables():
  return random_variables(CRITIC, X)


def test_each_view_has_a_critic_whose_blocks_are_layers(variables):
  logits, features = capture(CRITIC, variables, X)
  assert CRITIC.layer_names == (
    'block_0',
    'scale_1/block_0',
    'stft_32_band_0/block_0',
    'stft_32_band_1/block_0',
    'stft_16_band_0/block_0',
    'stft_16_band_1/block_0',
    'period_3/block_0',
  )
  assert set(features) == set(CRITIC.layer_names)
  # 8 frames of 4 and 12 frequencies, halved; 3 phases of 22 samples.
  assert features['stft_32_band_0/block_0'].shape == (2, 4, 2, 4)
  assert features['stft_32_band_1/block_0'].shape == (2, 4, 6, 4)
  assert features['period_3/block_0'].shape == (2, 3, 11, 4)
  spectrum = views.compressed_spectrum(X, 32)
  alone = Critic(2, (2,), head='patch', spectral_norm=True)
  own = {k: v['stft_32_band_1'] for k, v in variables.items()}
  one, found = capture(alone, own, spectrum[:, :, 4:])
  np.testing.assert_allclose(
    features['stft_32_band_1/block_0'], found['block_0'], rtol=1e-4, atol=1e-5
  )
  # 33 logits of the phases, the most; others are repeated in order of time.
  assert logits.shape == (2, 33, 7)
  wanted = one.reshape(2, 24)[:, np.arange(33) * 24 // 33]
  np.testing.assert_allclose(logits[..., 3], wanted, rtol=1e-4, atol=1e-5)
  phase = {k: v['period_3'] for k, v in variables.items()}
  folded = views.phases(X, 3, 2).reshape(6, 22, 2)
  wanted = jitted(alone.apply, phase, folded).reshape(2, 3, 11).swapaxes(1, 2)
  np.testing.assert_allclose(
    logits[..., 6], wanted.reshape(2, 33), rtol=1e-4, atol=1e-5
  )


def test_r1_of_views_has_the_gradient_of_its_definition_under_pmap():
  critic = CRITIC.clone(
    views=('stft', 'period'),
    stft_windows=(32,),
    stft_bands=(),
    spectral_norm=False,
  )
  variables = random_variables(critic, X)

  def penalties_of(variables, x):
    def logit(x):
      return mean_over_map(critic.apply(variables, x))

    slope = jax.grad(lambda x: logit(x).sum())(x)
    squares = 0.5 * (slope**2).sum((1, 2))
    return penalties.r1_penalty(logit, x), squares

  def gradients(variables, x):
    return [
      jax.value_and_grad(lambda v, i=i: penalties_of(v, x)[i].mean())(variables)
      for i in range(2)
    ]

  silent = np.stack([X, 0 * X])[None].reshape(1, 4, *X.shape[1:])
  variables = jax.tree.map(lambda leaf: leaf[None], variables)
  (value, got), (squares, wanted) = jax.pmap(gradients)(variables, silent)
  assert value[0] > 1e-3
  np.testing.assert_allclose(value, squares, rtol=1e-4)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
  assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(got)[1::2])


@pytest.mark.parametrize(
  ('module', 'shape'),
  [
    (CRITIC, X.shape[1:]),
    (CRITIC.clone(patch_size=2), X.shape[1:]),
    (plain.Encoder(4, False, **PLAIN), (32, 2)),
    (DECODER, (8, 4)),
  ],
)
def test_networks_of_sounds_export_with_a_symbolic_batch(module, shape):
  example = np.zeros((1, *shape), np.float32)
  variables = jax.eval_shape(module.init, jax.random.key(0), example)
  (batch,) = jax.export.symbolic_shape('batch')
  exported = jax.export.export(jax.jit(module.apply))(
    variables, jax.ShapeDtypeStruct((batch, *shape), np.float32)
  )
  assert exported.out_avals[0].shape[0] == batch
