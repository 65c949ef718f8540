"""LPIPS in AlexNet and DISTS against plain NumPy, and their files."""

import functools

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.models.vgg_test import TORCHVISION, factors, zero_state_dict
from tests.networks import jitted
from vaegan_jax.errors import UserError
from vaegan_jax.evaluation import paired_metrics
from vaegan_jax.evaluation.feature_metrics import load_feature_metrics
from vaegan_jax.models.pretrained import dists, weights

ALEXNET = {0: (64, 11), 3: (192, 5), 6: (384, 3), 8: (256, 3), 10: (256, 3)}
VGG_WIDTHS = (3, 64, 128, 256, 512, 512)
MEAN, STD = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])


@functools.cache
def alexnet_state_dict():
  rng, channels, state = np.random.default_rng(0), 3, {}
  for index, (width, size) in ALEXNET.items():
    kernel = rng.normal(size=(width, channels, size, size))
    kernel *= np.sqrt(2 / (size**2 * channels))
    state[f'features.{index}.weight'] = kernel.astype(np.float32)
    state[f'features.{index}.bias'] = np.full(width, 0.1, np.float32)
    channels = width
  return state | {'classifier.1.weight': np.ones((2, 3), np.float32)}


def dists_state_dict():
  rng = np.random.default_rng(3)
  values = rng.uniform(0, 1, (2, 1, sum(VGG_WIDTHS), 1, 1)).astype(np.float32)
  return {'alpha': values[0], 'beta': values[1]}


@pytest.fixture(scope='module')
def files(tmp_path_factory, lpips_files):
  """Returns {kind: path} of all five files."""
  folder = tmp_path_factory.mktemp('paired')
  states = {
    'alexnet': alexnet_state_dict(),
    'alex_heads': factors([width for width, _ in ALEXNET.values()]),
    'dists': dists_state_dict(),
  }
  paths = dict(zip(('vgg16', 'vgg_heads'), lpips_files.split(','), strict=True))
  for name, state in states.items():
    paths[name] = str(folder / f'{name}.safetensors')
    save_file(state, paths[name])
  return paths


def convolve(x, state, index, stride=1, padding=1):
  """Returns ReLU of a convolution of [C, H, W] by torchvision's tensors."""
  kernel = state[f'features.{index}.weight']
  x = np.pad(np.float32(x), ((0, 0), (padding,) * 2, (padding,) * 2))
  windows = np.lib.stride_tricks.sliding_window_view(
    x, kernel.shape[2:], axis=(1, 2)
  )[:, ::stride, ::stride]
  found = np.tensordot(kernel, windows, [(1, 2, 3), (0, 3, 4)])
  found += state[f'features.{index}.bias'][:, None, None]
  return np.maximum(found, 0).astype(np.float64)


def to_network(image):
  """Returns [3, H, W] in ImageNet's scale, of [H, W, 3] in [-1, 1]."""
  return (((image + 1) / 2 - MEAN) / STD).transpose(2, 0, 1)


def alexnet_features(image):
  state, x, features = alexnet_state_dict(), to_network(image), []
  for index in ALEXNET:
    if index in (3, 6):
      windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))
      x = windows[:, ::2, ::2].max(axis=(3, 4))
    stride, padding = (4, 2) if index == 0 else (1, 2 if index == 3 else 1)
    x = convolve(x, state, index, stride, padding)
    features.append(x)
  return features


def lpips_in_alexnet(x, y, heads):
  total = 0.0
  for a, b, head in zip(
    alexnet_features(x), alexnet_features(y), heads.values(), strict=True
  ):
    a, b = (f / np.sqrt((f**2).sum(axis=0) + 1e-8) for f in (a, b))
    total += (head.reshape(-1, 1, 1) * (a - b) ** 2).sum(axis=0).mean()
  return total


def dists_maps(image, state):
  """Returns the image in [0, 1] and the five maps, [C, H, W] each."""
  maps, x = [((image + 1) / 2).transpose(2, 0, 1)], to_network(image)
  window = np.outer([0.25, 0.5, 0.25], [0.25, 0.5, 0.25])
  for index in TORCHVISION[16]:
    if index in (5, 10, 17, 24):
      maps.append(x)
      padded = np.pad(x**2, ((0, 0), (1, 1), (1, 1)))
      windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
      x = np.sqrt((windows[:, ::2, ::2] * window).sum(axis=(3, 4)) + 1e-12)
    x = convolve(x, state, index)
  return [*maps, x]


def dists_by_numpy(x, y, state, factors):
  maps = zip(dists_maps(x, state), dists_maps(y, state), strict=True)
  alpha, beta = (factors[name].reshape(-1) for name in ('alpha', 'beta'))
  terms = []
  for a, b in maps:
    a, b = (f.reshape(len(f), -1) for f in (a, b))
    means = a.mean(1), b.mean(1)
    covariance = (a * b).mean(1) - means[0] * means[1]
    terms.append(
      (
        (2 * means[0] * means[1] + 1e-6)
        / (means[0] ** 2 + means[1] ** 2 + 1e-6),
        (2 * covariance + 1e-6) / (a.var(1) + b.var(1) + 1e-6),
      )
    )
  means, textures = (np.concatenate(t) for t in zip(*terms, strict=True))
  return 1 - (alpha @ means + beta @ textures) / (alpha.sum() + beta.sum())


def _shown(seed, *shape):
  """Returns 8-bit images, which rounding does not change."""
  values = np.random.default_rng(seed).integers(0, 256, shape)
  return (values / 127.5 - 1).astype(np.float32)


def test_all_three_by_numpy_whatever_the_order_of_the_files(files):
  found = load_feature_metrics(
    lpips_weights=','.join(reversed(files.values())), features_weights=''
  )
  assert [line.split(':')[0] for line in found.protocol] == [
    *('lpips', 'lpips_alex', 'dists')
  ]
  assert all(line.count('sha256') == 2 for line in found.protocol)
  x = _shown(0, 2, 64, 66, 3)
  y = np.stack([_shown(1, 64, 66, 3), np.roll(x[1], 1, axis=0)])
  y[1] = np.round(y[1] * 0.5 * 127.5 + 127.5) / 127.5 - 1
  values = found.measure(x, {'': x, '_other': y})
  heads = factors([width for width, _ in ALEXNET.values()])
  vgg16 = weights.read_state_dict(files['vgg16'])
  for i, (a, b) in enumerate(zip(x, y, strict=True)):
    assert values['lpips_alex_other'][i] == pytest.approx(
      lpips_in_alexnet(a, b, heads), rel=1e-4
    )
    assert values['dists_other'][i] == pytest.approx(
      dists_by_numpy(a, b, vgg16, dists_state_dict()), rel=1e-3
    )
  np.testing.assert_array_equal(values['lpips_alex'], [0, 0])
  np.testing.assert_allclose(values['dists'], [0, 0], atol=1e-6)
  alone = load_feature_metrics(
    lpips_weights=f'{files["alexnet"]},{files["alex_heads"]}',
    features_weights=files['vgg16'],
  ).measure(x, {'': y})
  assert set(alone) == {'features', 'lpips_alex', 'features_recon'}
  np.testing.assert_allclose(
    alone['lpips_alex'], values['lpips_alex_other'], rtol=1e-5
  )


@pytest.mark.parametrize('side', [1, 2, 5, 8])
def test_hann_pooling_keeps_the_root_of_the_mean_square(side):
  x = np.full((1, side, side, 1), -3, np.float32)
  pooled = jitted(dists.l2_pool, x)[0, :, :, 0]
  assert pooled.shape == ((side + 1) // 2,) * 2
  # Zeros surround the image, and so lower the first row and perhaps the last.
  wanted = np.full(len(pooled), 3.0)
  wanted[0] = 3 * np.sqrt(0.75)
  if side % 2:
    wanted[-1] = 3 * np.sqrt(0.75 if side > 1 else 0.5)
  np.testing.assert_allclose(pooled, np.outer(wanted, wanted) / 3, rtol=1e-5)


@pytest.mark.parametrize(
  ('kinds', 'reason'),
  [
    (['vgg16', 'alex_heads'], 'VGG16, and no other file goes with it: name'),
    (['alexnet', 'dists'], 'no other file goes with it'),
    (['vgg16', 'vgg_heads', 'dists', 'dists'], "both hold DISTS's weights"),
    (['vgg16', 'vgg_heads', 'other'], "none of torchvision's VGG16"),
    (['vgg16', 'negative'], 'each must be at least 0'),
  ],
)
def test_wrong_files_are_refused(kinds, reason, files, monkeypatch):
  states = {
    'vgg16': zero_state_dict(16),
    'alexnet': alexnet_state_dict(),
    'vgg_heads': factors(),
    'alex_heads': factors([width for width, _ in ALEXNET.values()]),
    'dists': dists_state_dict(),
    'other': {'conv1.weight': np.zeros(3)},
    'negative': {n: -t for n, t in dists_state_dict().items()},
  }
  monkeypatch.setattr(paired_metrics.weights, 'read_state_dict', states.get)
  with pytest.raises(UserError) as caught:
    load_feature_metrics(lpips_weights=','.join(kinds), features_weights='')
  sentence = str(caught.value)
  assert reason in sentence and '\n' not in sentence
  assert sentence.startswith(f'evaluation.lpips_weights={kinds[0]},')
