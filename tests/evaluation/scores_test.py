"""Noise improves no quality metric, on the quick start's faces."""

import functools

import jax
import numpy as np
import pytest
from scipy import ndimage

from vaegan_jax.data.sources import drawn_faces
from vaegan_jax.evaluation import feature_metrics, metrics
from vaegan_jax.evaluation.scores import measure, summarize, to_line
from vaegan_jax.evaluation.tables import markdown_table
from vaegan_jax.models.latents.codes import codebook_metrics

NUMBER = 12
# Higher is better; `energy` is reported too but is no quality metric.
QUALITY = ('psnr', 'ssim', 'low_frequency_psnr', 'detail')


@functools.cache
def faces():
  """Returns images [NUMBER, 64, 64, 3] in [-1, 1]."""
  drawn = np.stack([drawn_faces.draw_face(i) for i in range(NUMBER)])
  return drawn.astype(np.float32) / 127.5 - 1


def blurred(deviation):
  return ndimage.gaussian_filter(
    faces(), (0, deviation, deviation, 0), mode='nearest'
  )


def noise(deviation, seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(0, deviation, faces().shape).astype(np.float32)


_measure = jax.jit(measure, static_argnames='by_band')


def scores_of(x_recon):
  values = {k: np.asarray(v) for k, v in _measure(faces(), x_recon).items()}
  return summarize(values | {f'{k}_sampled': v for k, v in values.items()})


@pytest.mark.parametrize('deviation', [0.05, 0.2, 0.5])
@pytest.mark.parametrize('blur', [0, 0.5, 1])
def test_noise_raises_no_quality(blur, deviation):
  """Checks identity > blur > blur with noise, for several blurs."""
  plain, noisy, softer = (
    scores_of(x)
    for x in (
      blurred(blur),
      blurred(blur) + noise(deviation),
      blurred(blur + 0.5),
    )
  )
  # Energy is therefore no quality metric.
  assert noisy['energy'] > plain['energy']
  for name in QUALITY:
    assert softer[name] < plain[name], name
    # Detail stays what it is, but for chance, while there is less energy than
    # in the original.
    stays = name == 'detail' and noisy['energy'] < 1
    assert noisy[name] < plain[name] + (0.01 if stays else 0), name


def test_each_band_has_the_psnr_of_its_mean_error():
  x = np.zeros((2, 8, 8, 3), np.float32)
  offsets = np.array([[0.1, 0.2, 0.0], [0.3, 0.2, 0.0]], np.float32)
  x_recon = x + offsets[:, None, None]
  measured = jax.device_get(_measure(x, x_recon, by_band=True))
  scores = summarize(measured)
  want = 10 * np.log10(4 / np.array([0.05, 0.04, 1e-10]))
  found = [scores[f'psnr_band_{band}'] for band in range(3)]
  np.testing.assert_allclose(found, want, rtol=1e-5)
  assert 'psnr_band' not in to_line(scores)
  assert not any(name.startswith('psnr_band') for name in scores_of(faces()))


def test_only_the_aligned_original_has_quality():
  """Other images score below a strong blur, which keeps only the layout."""
  blur = scores_of(blurred(3))
  strange = {
    'other people': np.roll(faces(), 1, axis=0),
    'a few pixels off': np.roll(faces(), 7, axis=2),
    'noise alone': noise(0.4),
    'the negative': -faces(),
    'grey': np.zeros_like(faces()),
  }
  for name, x_recon in strange.items():
    scores = scores_of(x_recon)
    assert scores['detail'] < 0.12, name
    for quality in ('psnr', 'ssim', 'low_frequency_psnr'):
      assert scores[quality] < blur[quality], (name, quality)


def test_lpips_is_fooled_by_neither(lpips_files):
  """Uses random features; the trained ones would do better."""
  found = feature_metrics.load_feature_metrics(
    lpips_weights=lpips_files, features_weights=''
  )
  recons = {
    '_same': faces(),
    '_blur': blurred(1),
    '_strong_blur': blurred(3),
    '_noisy': blurred(1) + noise(0.2),
    '_another': np.roll(faces(), 1, axis=0),
    '_noise': noise(0.4),
  }
  values = found.measure(faces()[:4], {k: x[:4] for k, x in recons.items()})
  lpips = {name: float(values[f'lpips{name}'].mean()) for name in recons}
  assert lpips['_same'] == 0 < lpips['_blur'] < lpips['_strong_blur']
  assert lpips['_blur'] < lpips['_noisy']
  assert lpips['_strong_blur'] < min(lpips['_another'], lpips['_noise'])


def test_a_new_metric_is_one_row(monkeypatch):
  """The metric appears in scores, of samples too, in order, and in tables."""
  row = metrics.Metric(
    'offset',
    'Offset',
    2,
    lambda x, x_recon: (x_recon - x).mean(axis=(1, 2, 3)),
    num_axes=(2,),
  )
  monkeypatch.setattr(metrics, 'TABLE', (*metrics.TABLE[:1], row))
  x = np.zeros((3, 4, 4, 1), np.float32)
  values = jax.jit(lambda *pair: measure(*pair))(x, x + 0.25)
  values = jax.device_get(values)
  scores = summarize(values | {f'{k}_sampled': v for k, v in values.items()})
  assert scores['offset'] == scores['offset_sampled'] == 0.25
  assert list(scores)[:2] == ['psnr', 'offset']
  assert 'offset 0.25' in to_line(scores)
  header, _, line = markdown_table({'run': scores}).splitlines()
  assert '| Offset |' in header and '| Offset, sampled |' in header
  assert '| 0.25 |' in line
  assert 'offset' not in jax.eval_shape(measure, x[..., 0], x[..., 0])


def test_codes_are_used_in_evaluation_as_in_training():
  """A code rarer than a tenth of uniform use counts as unused."""
  indices = np.array([0] * 600 + [1] * 300 + [2] * 90 + [3])
  scores = summarize(
    jax.device_get(_measure(faces(), faces()))
    | {'indices': indices.reshape(1, -1)},
    num_codes=5,
  )
  training = codebook_metrics(np.bincount(indices, minlength=5))
  for name, value in training.items():
    assert scores[name] == pytest.approx(float(value)), name
  assert scores['usage'] == pytest.approx(3 / 5)
