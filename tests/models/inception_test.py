"""Inception: values against torch and numpy, and reading its file."""

import functools

import jax
import numpy as np
import pytest

from tests.models.vgg_test import assert_close, refused
from tests.networks import assert_equal, uniform
from vaegan_jax.losses.perceptual import capture_features
from vaegan_jax.models.pretrained import inception, weights

# Pooling features of the blocks A, and widths of the blocks C.
POOLED = {'Mixed_5b': 32, 'Mixed_5c': 64, 'Mixed_5d': 64}
WIDE = {'Mixed_6b': 128, 'Mixed_6c': 160, 'Mixed_6d': 160, 'Mixed_6e': 192}
# The smallest image that leaves two positions, one above the other, at the end.
# With one position the mean would equal the maximum.
SIDES = (107, 75)


def shapes():
  """Returns {convolution: [O, I, H, W]} of torchvision's Inception3."""
  found = {
    'Conv2d_1a_3x3': (32, 3, 3, 3),
    'Conv2d_2a_3x3': (32, 32, 3, 3),
    'Conv2d_2b_3x3': (64, 32, 3, 3),
    'Conv2d_3b_1x1': (80, 64, 1, 1),
    'Conv2d_4a_3x3': (192, 80, 3, 3),
  }
  for block, given in (('5b', 192), ('5c', 256), ('5d', 288)):
    pooled = POOLED[f'Mixed_{block}']
    found |= {
      f'Mixed_{block}.branch1x1': (64, given, 1, 1),
      f'Mixed_{block}.branch5x5_1': (48, given, 1, 1),
      f'Mixed_{block}.branch5x5_2': (64, 48, 5, 5),
      f'Mixed_{block}.branch3x3dbl_1': (64, given, 1, 1),
      f'Mixed_{block}.branch3x3dbl_2': (96, 64, 3, 3),
      f'Mixed_{block}.branch3x3dbl_3': (96, 96, 3, 3),
      f'Mixed_{block}.branch_pool': (pooled, given, 1, 1),
    }
  found |= {
    'Mixed_6a.branch3x3': (384, 288, 3, 3),
    'Mixed_6a.branch3x3dbl_1': (64, 288, 1, 1),
    'Mixed_6a.branch3x3dbl_2': (96, 64, 3, 3),
    'Mixed_6a.branch3x3dbl_3': (96, 96, 3, 3),
  }
  for block, width in WIDE.items():
    found |= {
      f'{block}.branch1x1': (192, 768, 1, 1),
      f'{block}.branch7x7_1': (width, 768, 1, 1),
      f'{block}.branch7x7_2': (width, width, 1, 7),
      f'{block}.branch7x7_3': (192, width, 7, 1),
      f'{block}.branch7x7dbl_1': (width, 768, 1, 1),
      f'{block}.branch7x7dbl_2': (width, width, 7, 1),
      f'{block}.branch7x7dbl_3': (width, width, 1, 7),
      f'{block}.branch7x7dbl_4': (width, width, 7, 1),
      f'{block}.branch7x7dbl_5': (192, width, 1, 7),
      f'{block}.branch_pool': (192, 768, 1, 1),
    }
  found |= {
    'Mixed_7a.branch3x3_1': (192, 768, 1, 1),
    'Mixed_7a.branch3x3_2': (320, 192, 3, 3),
    'Mixed_7a.branch7x7x3_1': (192, 768, 1, 1),
    'Mixed_7a.branch7x7x3_2': (192, 192, 1, 7),
    'Mixed_7a.branch7x7x3_3': (192, 192, 7, 1),
    'Mixed_7a.branch7x7x3_4': (192, 192, 3, 3),
  }
  for block, given in (('7b', 1280), ('7c', 2048)):
    found |= {
      f'Mixed_{block}.branch1x1': (320, given, 1, 1),
      f'Mixed_{block}.branch3x3_1': (384, given, 1, 1),
      f'Mixed_{block}.branch3x3_2a': (384, 384, 1, 3),
      f'Mixed_{block}.branch3x3_2b': (384, 384, 3, 1),
      f'Mixed_{block}.branch3x3dbl_1': (448, given, 1, 1),
      f'Mixed_{block}.branch3x3dbl_2': (384, 448, 3, 3),
      f'Mixed_{block}.branch3x3dbl_3a': (384, 384, 1, 3),
      f'Mixed_{block}.branch3x3dbl_3b': (384, 384, 3, 1),
      f'Mixed_{block}.branch_pool': (192, given, 1, 1),
    }
  return found


def state_dict(draw):
  """Returns tensors by the port's names; `draw` creates each from its shape."""
  state = {}
  for name, shape in shapes().items():
    state[f'{name}.conv.weight'] = draw(shape, 'kernel')
    for tensor in ('weight', 'bias', 'running_mean', 'running_var'):
      state[f'{name}.bn.{tensor}'] = draw(shape[:1], tensor)
  state['fc.weight'] = draw((1008, 2048), 'zero')
  state['fc.bias'] = draw((1008,), 'zero')
  return state


@functools.cache
def random_state_dict():
  """Returns random weights that keep activations from vanishing."""
  rng = np.random.default_rng(0)

  def draw(shape, kind):
    if kind == 'zero':
      return np.zeros(shape, np.float32)
    if kind == 'kernel':
      kernel = rng.standard_normal(shape, np.float32)
      return kernel * np.float32(np.sqrt(2 / np.prod(shape[1:])))
    if kind in ('weight', 'running_var'):
      return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    return 0.1 * rng.standard_normal(shape, np.float32)

  return state_dict(draw)


def zeros(shape, kind):
  """Returns an array of zeros that uses no memory."""
  return np.broadcast_to(np.float32(kind == 'running_var'), shape)


def torch_features(torch, state, x):
  """Computes the network in torch, written from the published graph."""
  nn = torch.nn.functional
  tensors = {name: torch.from_numpy(a) for name, a in state.items()}

  def conv(x, name, stride=1, padding=0):
    x = nn.conv2d(x, tensors[f'{name}.conv.weight'], None, stride, padding)
    moments = (tensors[f'{name}.bn.running_{m}'] for m in ('mean', 'var'))
    affine = (tensors[f'{name}.bn.{p}'] for p in ('weight', 'bias'))
    return nn.relu(nn.batch_norm(x, *moments, *affine, eps=1e-3))

  def average(x):
    return nn.avg_pool2d(x, 3, 1, 1, count_include_pad=False)

  def double(x, name, stride):
    x = conv(conv(x, f'{name}_1'), f'{name}_2', padding=1)
    return conv(x, f'{name}_3', stride, padding=2 - stride)

  def split(x, name):
    return [
      conv(x, f'{name}a', padding=(0, 1)),
      conv(x, f'{name}b', padding=(1, 0)),
    ]

  x = torch.from_numpy(x).permute(0, 3, 1, 2)
  x = conv(conv(x, 'Conv2d_1a_3x3', 2), 'Conv2d_2a_3x3')
  x = nn.max_pool2d(conv(x, 'Conv2d_2b_3x3', padding=1), 3, 2)
  x = conv(conv(x, 'Conv2d_3b_1x1'), 'Conv2d_4a_3x3')
  x = nn.max_pool2d(x, 3, 2)
  for block in POOLED:
    five = conv(x, f'{block}.branch5x5_1')
    x = [
      conv(x, f'{block}.branch1x1'),
      conv(five, f'{block}.branch5x5_2', padding=2),
      double(x, f'{block}.branch3x3dbl', 1),
      conv(average(x), f'{block}.branch_pool'),
    ]
    x = torch.cat(x, 1)
  x = [
    conv(x, 'Mixed_6a.branch3x3', 2),
    double(x, 'Mixed_6a.branch3x3dbl', 2),
    nn.max_pool2d(x, 3, 2),
  ]
  x = torch.cat(x, 1)
  for block in WIDE:
    seven = conv(x, f'{block}.branch7x7_1')
    seven = conv(seven, f'{block}.branch7x7_2', padding=(0, 3))
    twice = conv(x, f'{block}.branch7x7dbl_1')
    for index, padding in enumerate([(3, 0), (0, 3), (3, 0), (0, 3)], start=2):
      twice = conv(twice, f'{block}.branch7x7dbl_{index}', padding=padding)
    x = [
      conv(x, f'{block}.branch1x1'),
      conv(seven, f'{block}.branch7x7_3', padding=(3, 0)),
      twice,
      conv(average(x), f'{block}.branch_pool'),
    ]
    x = torch.cat(x, 1)
  seven = conv(x, 'Mixed_7a.branch7x7x3_1')
  seven = conv(seven, 'Mixed_7a.branch7x7x3_2', padding=(0, 3))
  seven = conv(seven, 'Mixed_7a.branch7x7x3_3', padding=(3, 0))
  x = [
    conv(conv(x, 'Mixed_7a.branch3x3_1'), 'Mixed_7a.branch3x3_2', 2),
    conv(seven, 'Mixed_7a.branch7x7x3_4', 2),
    nn.max_pool2d(x, 3, 2),
  ]
  x = torch.cat(x, 1)
  for block in ('Mixed_7b', 'Mixed_7c'):
    last = block == 'Mixed_7c'
    pooled = nn.max_pool2d(x, 3, 1, 1) if last else average(x)
    twice = conv(x, f'{block}.branch3x3dbl_1')
    twice = conv(twice, f'{block}.branch3x3dbl_2', padding=1)
    x = [
      conv(x, f'{block}.branch1x1'),
      *split(conv(x, f'{block}.branch3x3_1'), f'{block}.branch3x3_2'),
      *split(twice, f'{block}.branch3x3dbl_3'),
      conv(pooled, f'{block}.branch_pool'),
    ]
    x = torch.cat(x, 1)
  return x.mean((2, 3)).numpy()


@pytest.fixture(scope='module')
def run():
  """Returns images -> (features, outputs of every convolution)."""
  variables = inception.to_variables('weights.pth', random_state_dict())
  program = jax.jit(functools.partial(capture_features, inception.Inception()))
  # As constants, the weights would be compiled with it.
  return functools.partial(program, variables)


def test_agrees_with_torch(run):
  torch = pytest.importorskip('torch')
  x = uniform(2, *SIDES, 3)
  expected = torch_features(torch, random_state_dict(), x)
  assert_close(run(x)[0], expected, 1e-4)


def test_resizes_as_torch_does():
  torch = pytest.importorskip('torch')
  for sides in ((32, 32), (64, 48), (400, 310)):
    x = uniform(1, *sides, 2)
    expected = torch.nn.functional.interpolate(
      torch.from_numpy(x).permute(0, 3, 1, 2),
      size=(299, 299),
      mode='bilinear',
      align_corners=False,
    )
    expected = expected.permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(inception.resize(x), expected, atol=2e-4)


def test_resizes_by_the_centres_of_pixels():
  """Between two pixels the inner half interpolates."""
  x = np.array([-1, 1], np.float32).reshape(1, 2, 1, 1)
  row = np.asarray(inception.resize(x))[0, :, 0, 0]
  places = (np.arange(299) + 0.5) / 299 * 2 - 0.5  # In pixels of x.
  np.testing.assert_allclose(row, np.clip(2 * places - 1, -1, 1), atol=1e-5)


def test_the_average_does_not_count_the_padding():
  x = uniform(2, 4, 5, 3)
  got = np.asarray(inception.average_pool(x))
  for i in range(4):
    for j in range(5):
      window = x[:, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
      np.testing.assert_allclose(
        got[:, i, j], window.mean((1, 2)), rtol=1e-4, atol=1e-6
      )


def joined(features, block):
  """Returns a block E's output [B, H, W, 2048]; features precede the ReLU."""
  names = ('1x1', '3x3_2a', '3x3_2b', '3x3dbl_3a', '3x3dbl_3b', '_pool')
  branches = [features[f'{block}.branch{name}'] for name in names]
  return np.maximum(np.concatenate(branches, axis=-1), 0)


def test_the_last_block_pools_by_the_maximum_and_the_rest_is_joined(run):
  """Uses two positions, one above the other, which both pool over both."""
  output, features = run(uniform(2, *SIDES, 3))
  assert features['Mixed_7c.branch1x1'].shape == (2, 2, 1, 320)
  given = joined(features, 'Mixed_7b')
  state, name = random_state_dict(), 'Mixed_7c.branch_pool'
  linear = given.max((1, 2)) @ state[f'{name}.conv.weight'][:, :, 0, 0].T
  gamma, beta, mean, variance = (
    state[f'{name}.bn.{tensor}']
    for tensor in ('weight', 'bias', 'running_mean', 'running_var')
  )
  normal = (linear - mean) / np.sqrt(variance + 1e-3) * gamma + beta
  for place in range(2):
    assert_close(np.asarray(features[name][:, place, 0]), normal, 1e-4)
  joint = joined(features, 'Mixed_7c').mean((1, 2))
  np.testing.assert_allclose(output, joint, rtol=1e-4, atol=1e-5)


def test_loads_the_variables_that_the_module_has():
  state = state_dict(zeros)
  counted = {'Mixed_5b.branch1x1.bn.num_batches_tracked': np.int64(7)}
  loaded = inception.to_variables('weights.pth', {**state, **counted})
  module = inception.Inception()
  features, expected = jax.eval_shape(
    module.init_with_output, jax.random.key(0), uniform(3, 75, 75, 3)
  )
  assert jax.tree.map(np.shape, loaded) == jax.tree.map(np.shape, expected)
  assert all(x.dtype == np.float32 for x in jax.tree.leaves(loaded))
  assert set(loaded['params']) == set(shapes())
  x = jax.ShapeDtypeStruct((3, 96, 140, 3), np.float32)
  oblong = jax.eval_shape(module.apply, loaded, x)
  assert features.shape == oblong.shape == (3, 2048)


def test_grey_is_three_equal_channels(monkeypatch, request):
  request.addfinalizer(jax.clear_caches)  # Programs of another network.
  monkeypatch.setattr(inception, '_NETWORK', inception._NETWORK[:1])
  grey, module = uniform(2, *SIDES, 1), inception.Inception()
  variables = jax.jit(module.init)(jax.random.key(0), grey)
  apply = jax.jit(module.apply)
  colour = apply(variables, grey.repeat(3, axis=3))
  assert np.abs(colour).max() > 0
  np.testing.assert_array_equal(apply(variables, grey), colour)


@pytest.mark.parametrize(
  'shape', [(1, 74, 75, 3), (1, 75, 74, 3), (1, 75, 75, 2), (75, 75, 3)]
)
def test_other_shapes_than_images_are_refused(shape):
  x = jax.ShapeDtypeStruct(shape, np.float32)
  with pytest.raises(ValueError, match='at least 75') as caught:
    jax.eval_shape(inception.Inception().init, jax.random.key(0), x)
  assert str(list(shape)) in str(caught.value)


def changed(**changes):
  """Returns the port's tensors with changes; None removes a tensor."""
  state = state_dict(zeros) | changes
  return {name: array for name, array in state.items() if array is not None}


@pytest.mark.parametrize(
  ('state', 'reason'),
  [
    ({'conv1.weight': np.zeros(3)}, 'it has no Conv2d_1a_3x3.conv.weight'),
    (changed(**{'Mixed_7c.branch1x1.bn.bias': None}), 'no Mixed_7c.branch1x1'),
    # Torchvision's own file, with ImageNet's classes and a second classifier.
    (changed(**{'fc.weight': np.zeros((1000, 2048))}), 'and not [1008, 2048]'),
    (changed(**{'AuxLogits.fc.bias': np.zeros(1)}), "'AuxLogits.fc.bias', whi"),
    (
      changed(**{'Mixed_6b.branch1x1.bn.bias': np.full(192, np.nan)}),
      'not finite',
    ),
    (
      changed(**{'Mixed_6b.branch1x1.bn.running_var': np.full(192, -1.0)}),
      'branch1x1.bn.running_var has -1 and is a variance',
    ),
  ],
)
def test_another_network_is_refused(state, reason):
  sentence = refused(inception.to_variables, 'weights.pth', state)
  assert 'does not hold the Inception of 2015, because' in sentence
  assert reason in sentence
  assert 'fid_weights/pt_inception-2015-12-05-6726825d.pth' in sentence


def test_the_file_is_recognised_by_its_content(tmp_path):
  torch = pytest.importorskip('torch')
  tensors = {
    name: torch.from_numpy(array) for name, array in random_state_dict().items()
  }
  torch.save(tensors, tmp_path / 'inception.pth')
  state = weights.read_state_dict(tmp_path / 'inception.pth')
  assert inception.is_inception(state)
  assert not inception.is_inception({'features.0.weight': np.zeros(3)})
  loaded = inception.to_variables('weights.pth', state)
  expected = inception.to_variables('weights.pth', random_state_dict())
  assert_equal(loaded, expected)
