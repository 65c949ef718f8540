"""Pictures of sounds and volumes, and an evaluator of each, from end to end."""

import numpy as np
import pytest

from tests.networks import loss_config, uniform
from vaegan_jax.evaluation import evaluator as evaluator_lib
from vaegan_jax.evaluation import figures, plots, signal_figures, sound_figures
from vaegan_jax.models import plain
from vaegan_jax.models.autoencoder import Autoencoder
from vaegan_jax.models.latents.base import Gaussian
from vaegan_jax.training.train_state import (
  create_train_state,
  inference_variables,
)

_RATE = 8000
_LOSS = loss_config(pixel_weight=1.0)


def _sounds(*frequencies, size=2048, amplitude=0.5):
  times = np.arange(size) / _RATE
  waves = [amplitude * np.sin(2 * np.pi * f * times) for f in frequencies]
  return np.stack(waves)[..., None].astype(np.float32)


def _as_bytes(pictures):
  return figures.to_uint8(pictures)


def test_images_are_their_own_pictures():
  x = np.random.default_rng(0).uniform(-1, 1, (2, 8, 6, 5))
  shown = signal_figures.as_pictures(x, sample_rate=_RATE)
  np.testing.assert_array_equal(shown, x)
  shown = signal_figures.as_pictures(x, bands=(4, 0, 1), sample_rate=_RATE)
  np.testing.assert_array_equal(shown, x[..., [4, 0, 1]])
  assert signal_figures.scale_of(shown, 2) == 16


def test_figures_of_images_are_those_of_before():
  x, x_recon = np.random.default_rng(0).uniform(-1, 1, (2, 16, 32, 32, 3))
  np.testing.assert_array_equal(
    signal_figures.reconstructions(x, x_recon, sample_rate=_RATE),
    figures.reconstruction_figure(x, x_recon, columns=8, scale=4),
  )


def test_a_volume_shows_its_three_middle_cuts():
  d, h, w = np.meshgrid(*map(np.arange, (4, 6, 8)), indexing='ij')
  x = ((d + 10 * h + 100 * w) / 1000)[None, ..., None]
  (shown,) = signal_figures.as_pictures(x, sample_rate=_RATE)[..., 0]
  assert shown.shape == (6 + 2, 8 + 1 + 8 + 1 + 6 + 4)
  np.testing.assert_array_equal(shown[1:7, 2:10], x[0, 2, :, :, 0])
  np.testing.assert_array_equal(shown[1:5, 11:19], x[0, :, 3, :, 0])
  np.testing.assert_array_equal(shown[1:5, 20:26], x[0, :, :, 4, 0])
  outside = shown.copy()
  for place in (np.s_[1:7, 2:10], np.s_[1:5, 11:19], np.s_[1:5, 20:26]):
    outside[place] = 1
  assert (outside == 1).all()


def test_volumes_show_their_chosen_bands():
  x = np.random.default_rng(0).uniform(-1, 1, (2, 4, 4, 4, 5))
  shown = signal_figures.as_pictures(x, bands=(4, 0, 1), sample_rate=_RATE)
  assert shown.shape[-1] == 3
  np.testing.assert_array_equal(shown[:, 1:5, 2:6], x[:, 2][..., [4, 0, 1]])


def test_a_sound_is_the_same_picture_each_time_whatever_is_beside_it():
  x = _sounds(500, 1000, 3000)
  tiles = signal_figures.as_pictures(x, sample_rate=_RATE)
  assert tiles.ndim == 4 and tiles.shape[-1] == 3
  drawn = _as_bytes(tiles)
  alone = _as_bytes(signal_figures.as_pictures(x[1:2], sample_rate=_RATE))
  np.testing.assert_array_equal(drawn[1], alone[0])
  np.testing.assert_array_equal(
    drawn, sound_figures.sound_tiles(x, sample_rate=_RATE)
  )


def test_a_higher_tone_is_brighter_higher_up():
  low, high = sound_figures.sound_tiles(_sounds(600, 3400), sample_rate=_RATE)
  spectrogram = np.s_[95:186, 60:280]  # Of 220 x 300 pixels.
  rows = [tile[spectrogram].sum(axis=(1, 2)).argmax() for tile in (low, high)]
  # 2,800 of 4,000 Hz apart, over the height of the spectrogram.
  assert 50 < rows[0] - rows[1] < 90


def test_louder_is_taller_and_silence_and_nan_are_flat():
  x = _sounds(200, size=512)
  both = np.concatenate([x, 0.2 * x, 0 * x, np.full_like(x, np.nan), 9 * x])
  tiles = sound_figures.sound_tiles(both, sample_rate=_RATE)
  assert (tiles[2] == tiles[3]).all()
  ink = tiles[:, :80, 50:290].astype(int)
  blue = (ink[..., 2] - ink[..., 0] > 50).any(axis=2).sum(axis=1)
  assert blue[4] > blue[0] > 2 * blue[1] > blue[2] > 0, blue


@pytest.mark.parametrize(
  ('size', 'channels', 'rate'), [(1, 1, 1), (7, 2, 44_100), (30_000, 3, 16_000)]
)
def test_sounds_of_any_length_can_be_drawn(size, channels, rate):
  x = np.random.default_rng(0).uniform(-1, 1, (1, size, channels))
  tiles = signal_figures.as_pictures(x, bands=(0,), sample_rate=rate)
  assert np.isfinite(tiles).all()


def test_a_page_shows_where_a_reconstruction_differs():
  x = _sounds(500, size=1)
  same, other, again = (
    signal_figures.reconstructions(x, y, sample_rate=_RATE)
    for y in (x, 0.5 * x + 0.2, x)
  )
  assert same.dtype == np.uint8 and same.shape[-1] == 3
  np.testing.assert_array_equal(same, again)
  assert same.shape == other.shape and (same != other).any()


@pytest.fixture(scope='module', params=[(512, 2), (8, 12, 16, 1)])
def opened(request):
  """(evaluator, variables, x) of sounds, and of volumes."""
  *sides, channels = request.param
  fields = {'width': 2, 'channel_multipliers': (1, 2)}
  latent = Gaussian(3)
  autoencoder = Autoencoder(
    encoder=plain.Encoder(latent.num_inputs, False, **fields),
    latent=latent,
    decoder=plain.Decoder(channels, (), **fields),
  )
  modules = {'autoencoder': autoencoder}
  shape = (*sides, channels)
  state = create_train_state(modules, {}, seed=0, image_shape=shape)
  variables = inference_variables(state)
  x = uniform(5, *shape)
  evaluator = evaluator_lib.Evaluator(
    modules,
    x,
    loss=_LOSS,
    batch_size=4,
    seed=0,
    value_range=(-1.0, 1.0),
    bands=(0,),
    sample_rate=_RATE,
    mid_side=len(sides) == 1,
  )
  return evaluator, variables, x


def test_an_evaluator_measures_what_is_no_image(opened):
  evaluator, variables, x = opened
  scores = evaluator.score(variables)
  of_sounds = {'log_spectral_distance', 'mel_distance', 'si_sdr_sampled'}
  assert (of_sounds <= set(scores)) == (x.ndim == 3)
  assert ('psnr_band_1' in scores) == (x.shape[-1] == 2)
  for name in ('psnr', 'ssim', 'low_frequency_psnr', 'detail', 'energy', 'kl'):
    assert scores[name] is not None, name
  assert 'x'.join(map(str, x.shape[1:])) in evaluator.protocol
  pair = evaluator.reconstruct(variables, range(len(x)))[:2]
  errors = np.square(np.subtract(*np.clip(pair, -1, 1)))  # Left and right.
  means = errors.reshape(len(x), -1).mean(1)
  expected = np.mean(10 * np.log10(4 / means))
  np.testing.assert_allclose(scores['psnr'], expected, rtol=1e-4)


def test_an_evaluator_draws_and_plays_what_is_no_image(opened):
  evaluator, variables, x = opened
  drawn = evaluator.plot(variables)
  assert set(drawn) == {'reconstructions', 'samples', 'interpolation'}
  for name, figure in drawn.items():
    assert figure.dtype == np.uint8 and figure.ndim == 3, name
    assert figure.shape[-1] == 3 and figure.min() < figure.max(), name
  number = range(evaluator.num_columns)
  first, recon, _ = evaluator.reconstruct(variables, number)
  rows = {
    'originals': evaluator.as_pictures(first),
    'run': evaluator.as_pictures(recon),
  }
  plots.comparison_figure(rows, {'run': {'psnr': 20.0}})
  played = evaluator.play(variables)
  if x.ndim != 3:
    assert played == {}
    return
  assert evaluator.sample_rate == _RATE
  assert list(played) == ['originals', 'reconstructions']
  np.testing.assert_allclose(played['originals'], x[:4], atol=1e-6)
  assert played['reconstructions'].shape == (4, 512, 2)


def test_a_critic_of_mid_and_side_gets_them_for_left_and_right(
  opened, monkeypatch
):
  evaluator, _, x = opened
  monkeypatch.setattr(evaluator, '_distance', lambda critic, sizes, *pair: pair)
  found = evaluator.distance_for({'critic': {}})(x, 2 * x, None)
  for factor, values in zip((1, 2), found[:2], strict=True):
    expected = factor * x
    if x.ndim == 3:
      left, right = expected[..., 0], expected[..., 1]
      expected = np.stack([(left + right) / 2, (left - right) / 2], -1)
    np.testing.assert_allclose(values, expected, atol=1e-6)
