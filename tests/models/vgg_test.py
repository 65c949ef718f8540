"""VGG: values against torch and numpy, and reading its files."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.networks import jitted, uniform
from vaegan_jax.errors import UserError
from vaegan_jax.models.pretrained import lpips, vgg

WIDTHS = (64, 128, 256, 512, 512)
# Torchvision's names and widths of the convolutions.
TORCHVISION = {
  depth: dict(
    zip(places, [64] * 2 + [128] * 2 + [256] * n + [512] * 2 * n, strict=True)
  )
  for depth, n, places in (
    (16, 3, (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)),
    (19, 4, (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)),
  )
}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def tensors(depth, draw):
  """Returns {name: draw(shape)} of the convolutions."""
  channels, state = 3, {}
  for index, width in TORCHVISION[depth].items():
    state[f'features.{index}.weight'] = draw((width, channels, 3, 3))
    state[f'features.{index}.bias'] = draw((width,))
    channels = width
  return state


def state_dict(depth):
  """Returns random weights that keep activations from vanishing."""
  rng = np.random.default_rng(depth)

  def draw(shape):
    scale = np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.1
    return np.float32(scale) * rng.standard_normal(shape, np.float32)

  unread = {'classifier.0.weight': np.ones((2, 3), np.float32)}
  return tensors(depth, draw) | unread


def zero_state_dict(depth):
  """Returns names and shapes with zeros that use no memory."""
  return tensors(depth, functools.partial(np.broadcast_to, np.float32(0)))


def convert(state, depth=16):
  return vgg.to_variables('weights.pth', state, depth)


@pytest.fixture(scope='module')
def variables():
  return convert(state_dict(16))


def features_of(module, variables, x):
  """Returns the output of each layer, and of the network."""

  def keep(submodule, _):
    return isinstance(submodule, vgg.ConvReLU)

  output, collected = module.apply(
    variables, x, capture_intermediates=keep, mutable='intermediates'
  )
  collected = collected['intermediates']
  features = {name: collected[name]['__call__'][0] for name in collected}
  return features, output


def torch_features(torch, depth, state, x):
  """Computes the same in torch, and the images' gradient of the squared sum."""
  layers, channels, names = [], 3, {}
  for block, convs in enumerate(vgg.CONVS[depth]):
    for conv in range(convs):
      layers.append(torch.nn.Conv2d(channels, WIDTHS[block], 3, padding=1))
      layers.append(torch.nn.ReLU())
      names[len(layers) - 1] = f'conv{block + 1}_{conv + 1}'
      channels = WIDTHS[block]
    layers.append(torch.nn.MaxPool2d(2))
  network = torch.nn.Sequential(*layers)
  tensors = {
    n[9:]: torch.from_numpy(a) for n, a in state.items() if n[0] == 'f'
  }
  network.load_state_dict(tensors)
  images = torch.from_numpy(x).requires_grad_()
  hidden = (images.permute(0, 3, 1, 2) + 1) / 2
  hidden = (hidden - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[
    :, None, None
  ]
  features = {}
  for index, layer in enumerate(network):
    hidden = layer(hidden)
    if index in names:
      features[names[index]] = hidden.permute(0, 2, 3, 1)
  (hidden**2).sum().backward()
  features = {name: f.detach().numpy() for name, f in features.items()}
  output = hidden.detach().permute(0, 2, 3, 1).numpy()
  return features, output, images.grad.numpy()


def assert_close(got, expected, tolerance):
  """Asserts closeness relative to the largest value."""
  assert got.shape == expected.shape
  largest = np.abs(expected).max()
  assert largest > 0
  assert np.abs(got - expected).max() < tolerance * largest


@pytest.mark.parametrize('depth', [16, 19])
def test_agrees_with_torch(depth, tmp_path):
  """Compares each layer, the output and the gradient, in both file formats."""
  torch = pytest.importorskip('torch')
  state, x = state_dict(depth), uniform(2, 32, 32, 3)
  tensors = {name: torch.from_numpy(array) for name, array in state.items()}
  path = tmp_path / 'vgg.pth'
  torch.save(tensors, path, _use_new_zipfile_serialization=depth == 16)
  variables = vgg.load_vgg(path, depth)
  module = vgg.VGG(depth)

  def loss(x, variables):
    features, output = features_of(module, variables, x)
    return jnp.sum(output**2), (features, output)

  gradient, (features, output) = jax.jit(jax.grad(loss, has_aux=True))(
    x, variables
  )
  expected, expected_output, expected_gradient = torch_features(
    torch, depth, state, x
  )
  assert tuple(expected) == module.layer_names
  for name in module.layer_names:
    assert_close(features[name], expected[name], 1e-5)
  assert_close(output, expected_output, 1e-5)
  assert_close(gradient, expected_gradient, 1e-4)


def test_both_formats_of_torch_give_the_same(tmp_path):
  torch = pytest.importorskip('torch')
  state = {
    name: torch.zeros(a.shape) for name, a in zero_state_dict(16).items()
  }
  state['features.28.bias'] += torch.arange(512)
  for zipped in (True, False):
    path = tmp_path / 'vgg.pth'
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    params = vgg.load_vgg(path, 16)['params']
    bias = params['conv5_3']['Conv_0']['bias']
    np.testing.assert_array_equal(bias, np.arange(512, dtype=np.float32))
    path.unlink()


@pytest.mark.parametrize('depth', [16, 19])
def test_loads_the_variables_that_the_module_has(depth):
  loaded = convert(zero_state_dict(depth), depth)
  module = vgg.VGG(depth)
  expected = jax.eval_shape(
    module.init, jax.random.key(0), uniform(1, 16, 16, 3)
  )
  assert jax.tree.map(np.shape, loaded) == jax.tree.map(np.shape, expected)
  assert all(x.dtype == np.float32 for x in jax.tree.leaves(loaded))
  assert set(loaded['params']) == set(module.layer_names)


def test_names_its_layers_in_forward_order():
  assert vgg.VGG(16).layer_names == (
    *('conv1_1', 'conv1_2', 'conv2_1', 'conv2_2'),
    *('conv3_1', 'conv3_2', 'conv3_3', 'conv4_1', 'conv4_2', 'conv4_3'),
    *('conv5_1', 'conv5_2', 'conv5_3'),
  )
  assert vgg.VGG(19).layer_names[-5:] == (
    *('conv4_4', 'conv5_1', 'conv5_2', 'conv5_3', 'conv5_4'),
  )
  assert set(vgg.LPIPS_LAYERS) < set(vgg.VGG(16).layer_names)


@pytest.mark.parametrize('depth', [0, 11, '16', None])
def test_two_depths_exist(depth):
  with pytest.raises(ValueError, match=r'known: \[16, 19\]'):
    vgg.VGG(depth)
  with pytest.raises(ValueError, match=r'known: \[16, 19\]'):
    vgg.load_vgg('weights.pth', depth)


def test_a_feature_is_a_convolution_and_relu_of_normalized_images(variables):
  """ImageNet's mean gives the bias alone; other values are computed here."""
  x = uniform(1, 16, 16, 3)
  x[0, :8] = 2 * np.array(MEAN) - 1
  program = functools.partial(features_of, vgg.VGG(16))
  features, _ = jitted(program, variables, x)
  conv = variables['params']['conv1_1']['Conv_0']
  np.testing.assert_allclose(
    features['conv1_1'][0, 4, 4], np.maximum(conv['bias'], 0), atol=1e-5
  )
  normalized = ((x + 1) / 2 - MEAN) / STD
  linear = np.einsum('hwi,hwio->o', normalized[0, 11:14, 4:7], conv['kernel'])
  np.testing.assert_allclose(
    features['conv1_1'][0, 12, 5],
    np.maximum(linear + conv['bias'], 0),
    rtol=1e-4,
    atol=1e-5,
  )


@pytest.fixture(scope='module')
def last_feature(variables):
  """Returns a function from images to `conv5_3`."""

  @jax.jit
  def last_feature(variables, x):
    return features_of(vgg.VGG(16), variables, x)[0]['conv5_3']

  return functools.partial(last_feature, variables)


def test_grey_is_three_equal_channels(last_feature):
  grey = uniform(2, 16, 16, 1)
  np.testing.assert_allclose(
    last_feature(grey), last_feature(grey.repeat(3, axis=3)), rtol=1e-6
  )


def test_computes_in_the_dtype_of_the_images(variables, last_feature):
  """Runs without `jit`: XLA of JAX 0.12 fuses bfloat16 wrongly on a CPU."""
  x = uniform(2, 16, 16, 3)
  features, _ = features_of(vgg.VGG(16), variables, x.astype(jnp.bfloat16))
  half = np.asarray(features['conv5_3'])
  assert half.dtype == jnp.bfloat16
  assert_close(half.astype(np.float32), last_feature(x), 0.1)


def test_any_size_from_16_works(variables):
  module = vgg.VGG(16)
  for sides, expected in {
    (16, 16): (0, 0),
    (33, 16): (1, 0),
    (64, 47): (2, 1),
    (224, 224): (7, 7),
  }.items():
    x = jax.ShapeDtypeStruct((2, *sides, 3), jnp.float32)
    output = jax.eval_shape(module.apply, variables, x)
    assert output.shape == (2, *expected, 512)
    trained = jax.eval_shape(
      lambda v, x: module.apply(v, x, True), variables, x
    )
    assert trained.shape == output.shape


@pytest.mark.parametrize(
  ('shape', 'dtype'),
  [
    ((1, 16, 16, 2), np.float32),
    ((1, 16, 16, 4), np.float32),
    ((1, 15, 16, 3), np.float32),
    ((1, 16, 15, 3), np.float32),
    ((16, 16, 3), np.float32),
    ((1, 16, 16, 3), np.uint8),
  ],
)
def test_other_shapes_than_images_are_refused(shape, dtype):
  x = jax.ShapeDtypeStruct(shape, dtype)
  with pytest.raises(ValueError, match='at least 16') as caught:
    jax.eval_shape(vgg.VGG(16).init, jax.random.key(0), x)
  assert f'{np.dtype(dtype)}{list(shape)}' in str(caught.value)


@pytest.mark.parametrize('sides', [(2, 2), (4, 6), (5, 4), (7, 9), (1, 4)])
@pytest.mark.parametrize('dtype', [np.float32, jnp.bfloat16])
def test_max_pool_by_hand(sides, dtype):
  x = uniform(2, *sides, 3).astype(dtype)
  expected = np.zeros((2, sides[0] // 2, sides[1] // 2, 3), dtype)
  for i in range(expected.shape[1]):
    for j in range(expected.shape[2]):
      square = x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
      expected[:, i, j] = square.max((1, 2))
  got = jax.jit(vgg.max_pool)(x)
  np.testing.assert_array_equal(got, expected, strict=True)


def test_the_gradient_of_max_pool_goes_to_the_maximum_and_scatters_nothing():
  x = np.float32([[1, 4, 9], [3, 2, 9], [9, 9, 9]])
  gradient = jax.jit(jax.grad(lambda x: jnp.sum(vgg.max_pool(x) ** 2)))
  expected = np.zeros((3, 3), np.float32)
  expected[0, 1] = 8
  x = x[None, :, :, None]
  np.testing.assert_array_equal(gradient(x)[0, :, :, 0], expected)
  assert 'scatter' not in gradient.lower(x).as_text()


# Files of other networks.


def refused(load, *args):
  """Returns the message with which a file is refused."""
  with pytest.raises(UserError) as caught:
    load(*args)
  sentence = str(caught.value)
  assert sentence.startswith('weights.pth')
  assert sentence.endswith('.')
  assert '\n' not in sentence
  return sentence


def test_the_other_depth_is_reported():
  sentence = refused(convert, zero_state_dict(19), 16)
  assert 'holds VGG19 and not VGG16' in sentence
  assert '/vgg16-397923af.pth' in sentence
  sentence = refused(convert, zero_state_dict(16), 19)
  assert 'holds VGG16 and not VGG19' in sentence
  assert '/vgg19-dcbb9e9d.pth' in sentence


def changed(**changes):
  """Returns VGG16's tensors with changes in `features`; None removes one."""
  state = zero_state_dict(16)
  state |= {f'features.{name}': array for name, array in changes.items()}
  return {name: array for name, array in state.items() if array is not None}


@pytest.mark.parametrize(
  ('state', 'reason'),
  [
    ({}, "has no features.0.weight and has 'none at all'"),
    ({'conv1.weight': np.zeros(3)}, 'has no features.0.weight'),
    (changed(**{'28.bias': None}), 'has no features.28.bias'),
    (changed(**{'1.weight': np.zeros(64)}), "'features.1.weight', which"),
    (
      changed(**{'0.weight': np.zeros((64, 1, 3, 3))}),
      'features.0.weight is [64, 1, 3, 3] and not [64, 3, 3, 3]',
    ),
    (changed(**{'0.bias': np.zeros(64, int)}), 'features.0.bias is int64'),
    (changed(**{'0.bias': np.full(64, np.nan)}), 'not finite'),
    (changed(**{'0.bias': np.full(64, 1e300)}), 'not finite'),
  ],
)
def test_another_network_is_refused(state, reason):
  sentence = refused(convert, state)
  assert reason in sentence
  assert '/vgg16-397923af.pth' in sentence


def test_a_vgg_with_batch_norm_is_refused():
  """Its convolutions are at 0, 3, 7, ..."""
  state, index, channels = {}, 0, 3
  for width, num_convs in zip(WIDTHS, vgg.CONVS[16], strict=True):
    for _ in range(num_convs):
      state[f'features.{index}.weight'] = np.zeros((width, channels, 3, 3))
      for name in ('bias', 'running_mean', 'running_var'):
        state[f'features.{index + 1}.{name}'] = np.zeros(width)
      index, channels = index + 3, width
    index += 1
  sentence = refused(convert, state)
  assert "torchvision's VGG16, because it has no features." in sentence


# The factors of LPIPS.


def factors(widths=WIDTHS):
  rng = np.random.default_rng(0)
  return {
    f'lin{i}.model.1.weight': rng.uniform(0, 1, (1, width, 1, 1))
    for i, width in enumerate(widths)
  }


def to_factors(state):
  return lpips.to_factors('weights.pth', state, 'vgg16')


def test_converts_the_factors_of_lpips_in_order():
  state = factors()
  backwards = dict(reversed(state.items()))
  for held in (state, backwards, {**state, 'net.slice1.0.bias': np.ones(64)}):
    loaded = to_factors(held)
    assert len(loaded) == len(vgg.LPIPS_LAYERS)
    for got, expected in zip(loaded, state.values(), strict=True):
      expected = expected.reshape(-1).astype(np.float32)
      np.testing.assert_array_equal(got, expected, strict=True)


def test_other_factors_are_refused():
  alexnet = factors((64, 192, 384, 256, 256))
  words = 'lin1.model.1.weight is [1, 192, 1, 1] and not'
  assert words in refused(to_factors, alexnet)
  sentence = refused(to_factors, zero_state_dict(16))
  assert 'has no lin0.model.1.weight' in sentence
  assert 'features.0.weight' in sentence
  assert 'lpips/weights/v0.1/vgg.pth' in sentence
  negative = factors()
  negative['lin2.model.1.weight'][0, 7] = -1
  assert 'lin2.model.1.weight has -1.0' in refused(to_factors, negative)
  negative['lin2.model.1.weight'][0, 7] = np.inf
  assert 'not finite' in refused(to_factors, negative)


def test_a_damaged_file_is_refused(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for load, arg in ((vgg.load_vgg, 16), (lpips.load_lpips, 'heads.pth')):
    assert 'No such file' in refused(load, 'weights.pth', arg)
