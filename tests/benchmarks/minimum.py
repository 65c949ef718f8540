"""The minimum arithmetic of an update, from the shapes of its networks alone.

The unit is one product for one image, which is two FLOPs: the product and its
sum. Products with padding do not count.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import ml_collections

from vaegan_jax.config.shapes import example_shape, spatial_shape
from vaegan_jax.losses import adversarial
from vaegan_jax.losses.spectra import mel_filters, num_bands
from vaegan_jax.models.blocks import strides_of
from vaegan_jax.setup.modules import create_modules, trained_parts
from vaegan_jax.training.train_state import select

Sides = tuple[int, ...]


def minimum_flops(
  config: ml_collections.ConfigDict, order: str, batch_size: int
) -> int:
  """Returns the minimum convolution and matrix FLOPs of one update.

  A layer costs F forward, F for its weights' gradient and F for its input's:
  the same products, paired differently. The same holds for the two products of
  attention, which have two inputs each. The first layer of a network on images
  needs no input gradient, unless it is used. The search for the nearest code of
  'vq', N, needs no gradient at all.

    autoencoder       3 F_A - F_first + N       decoder alone: its 3 F - F_first
    equivariance      3 F_H                     the decoder at half the size
    drift             F_G                       the first decoder's images
    critic step       2 (3 F_D - F_first)       real and fake
    perceptual step   2 F_L + F_L               forward on both; fake's gradient
    simultaneous      less 2 F_L                the critic step's forward passes
    spectra           2 F_S + F_S               the mel filters, as features
    Muon              see `muon_products`

  F_D is the whole critic, F_L its blocks up to the last that the distance
  compares. An adversarial term needs the whole critic for the fake instead.
  """
  encoder, decoder = encoder_products(config), decoder_products(config)
  if config.model.train == 'decoder':
    products = sum(encoder) + 3 * sum(decoder) - decoder[0]
  else:
    products = 3 * (sum(encoder) + sum(decoder)) - encoder[0]
  products += search_products(config)
  if config.loss.equivariance_weight:
    products += 3 * sum(decoder_products(config, halved=True))
  if config.loss.drift_weight:
    products += sum(decoder)
  if config.loss.spectrum_weight:
    products += 3 * mel_products(config)
  if config.objective in adversarial.OBJECTIVES:
    critics = critic_products(config)
    products += critic_step_products(config)
    real = fake = sum(_seen(config, *named) for named in critics.items())
    if config.loss.adversarial_weight:
      fake = sum(map(sum, critics.values()))
    products += fake if order == 'simultaneous' else real + 2 * fake
  return 2 * (batch_size * products + muon_products(config))


def muon_products(config: ml_collections.ConfigDict) -> int:
  """Counts the products of Muon's steps, which no batch changes.

  A kernel as a matrix has N products with each of its K by K pairs of rows, for
  K below N. Of its five steps each squares a K by K matrix. All but the first
  multiply the factor, and all but the last the matrix from both sides.
  """
  if not config.optimizer.muon_learning_rate:
    return 0
  autoencoder = create_modules(config)['autoencoder']
  example = jnp.zeros((1, *example_shape(config.data)))
  variables = jax.eval_shape(autoencoder.init, jax.random.key(0), example)
  params, total = select(variables['params'], trained_parts(config)), 0
  for param in jax.tree.leaves(params):
    if param.ndim > 1:
      sides = math.prod(param.shape[:-1]), param.shape[-1]
      small, large = sorted(sides)
      total += 2 * small**2 * large + (5 + 4 + 2 * 4) * small**3
  return total


def critic_step_products(config: ml_collections.ConfigDict) -> int:
  """Counts a step on real and fake images, without the images' gradients."""
  critics = critic_products(config).values()
  return 2 * sum(3 * sum(s) - s[0] for s in critics)


def encoder_products(config: ml_collections.ConfigDict) -> list[int]:
  """Counts each layer, from the image to the latent."""
  model = config.model
  widths = [model.width * m for m in model.channel_multipliers]
  size, (sides, channels) = _num_inputs(model), _patches(config, model)
  strides, same = strides_of(model.strides, model.depth), _same(model)
  if model.network == 'plain':
    products = _divisions(sides, channels, widths, strides)
    sides = _divide(sides, math.prod(strides))
  else:
    products = [_conv(sides, same, channels, widths[0])]
    before = widths[0]
    for level, width in enumerate(widths):
      if level:
        stride = strides[level - 1]
        down = _halved_from_three
        if model.layout == 'own':
          down = functools.partial(_divided, stride)
        products.append(_conv(sides, down, before, before))
        sides = _divide(sides, stride)
      count = model.num_res_blocks
      products += _level(config, sides, before, width, count)
      before = width
    products += _middle(model, sides, before)
    if model.layout == 'ldm':
      products.append(_conv(sides, same, before, size))
      before = size
    widths = [before]
  # A dense or 1x1 layer has as many products.
  return [*products, math.prod(sides) * widths[-1] * size]


def decoder_products(
  config: ml_collections.ConfigDict, *, halved: bool = False
) -> list[int]:
  """Counts each layer, from the latent to the image, maybe of half size."""
  model = config.model
  widths = [model.width * m for m in model.channel_multipliers]
  strides, same = strides_of(model.strides, model.depth), _same(model)
  sides, channels = _patches(config, model)
  sides = _divide(sides, math.prod(strides) * 2**halved)
  products, size = [], model.latent_dim
  if model.layout == 'ldm':
    products.append(math.prod(sides) * size * size)
  if model.latent_shape == 'flat':
    products.append(math.prod(sides) * size * widths[-1])
  else:
    products.append(_conv(sides, same, size, widths[-1]))
  before = widths[-1]
  products += _mask_products(config, sides, before)
  if model.network == 'plain':
    ends = zip(
      reversed(strides), [*reversed(widths[:-1]), widths[0]], strict=True
    )
    for stride, width in ends:
      enlarged = functools.partial(_enlarged, stride)
      products.append(_conv(sides, enlarged, before, width))
      sides, before = tuple(stride * s for s in sides), width
  else:
    products += _middle(model, sides, before)
    for level in reversed(range(len(widths))):
      count = model.num_res_blocks + (model.layout == 'ldm')
      products += _level(config, sides, before, widths[level], count)
      before = widths[level]
      if level:
        stride = strides[level - 1]
        enlarged = functools.partial(_enlarged, stride)
        products.append(_conv(sides, enlarged, before, before))
        sides = tuple(stride * s for s in sides)
  return [*products, _conv(sides, same, before, channels)]


def _mask_products(config, sides: Sides, width: int) -> list[int]:
  """Counts the convolutions of a mask of spectra, if there is one."""
  window = config.model.spectral_mask
  if not window:
    return []
  frequencies = config.data.channels * (window // 2 + 1)
  to_levels = 1 + config.model.spectral_noise
  ends = ((frequencies, width), (width, width))
  ends += ((width, frequencies),) * to_levels
  return [_conv(sides, _three, *pair) for pair in ends]


def critic_products(config: ml_collections.ConfigDict) -> dict[str, list[int]]:
  """Counts, per critic, the first layer, the blocks in order, and the head.

  The critics are named as their layers begin. A block of a residual critic is
  one number for all of its layers. The first layer of a plain critic is its
  first block.
  """
  critic, counts = config.critic, {}
  for prefix, (sides, channels, copies) in _critic_inputs(config).items():
    widths = [critic.width * m for m in critic.channel_multipliers]
    if critic.network == 'plain':
      products = _divisions(sides, channels, widths, (2,) * critic.depth)
    else:
      products = [_conv(sides, _three, channels, widths[0])]
      for before, width, halving in zip(
        widths[:-1], widths[1:], range(critic.depth), strict=True
      ):
        at = _divide(sides, 2**halving)
        products.append(
          _conv(at, _three, before, before)
          + _conv(at, functools.partial(_divided, 2), before, width)
          + math.prod(_divide(at, 2)) * before * width
        )
    smallest = math.prod(_divide(sides, 2**critic.depth))
    products.append(smallest * widths[-1])
    counts[prefix] = [copies * number for number in products]
  return counts


def _critic_inputs(config) -> dict[str, tuple[Sides, int, int]]:
  """Returns {critic: (sides that it convolves, channels, copies)}."""
  critic, channels = config.critic, config.data.channels
  sides, multiple = spatial_shape(config.data), 2**critic.depth
  found = {}
  if 'wave' in critic.views:
    for scale in range(critic.num_scales):
      name = f'scale_{scale}/' if scale else ''
      patches, inputs = _patches(config, critic)
      found[name] = _divide(patches, 2**scale), inputs, 1
  if 'stft' in critic.views:
    for window in critic.stft_windows:
      frames, whole = 4 * sides[0] // window, window // 2
      cuts = [round(b * whole / multiple) * multiple for b in critic.stft_bands]
      for band, ends in enumerate(itertools.pairwise([0, *cuts, whole])):
        name = f'stft_{window}' + (f'_band_{band}' if cuts else '')
        found[f'{name}/'] = (frames, ends[1] - ends[0]), 2 * channels, 1
  if 'period' in critic.views:
    for period in critic.periods:
      samples = -(-sides[0] // (period * multiple)) * multiple
      found[f'period_{period}/'] = (samples,), channels, period
  return found


def mel_products(config: ml_collections.ConfigDict) -> int:
  """Counts the products of spectra with mel filters; transforms have none."""
  (samples,), rate = spatial_shape(config.data), config.data.sample_rate
  total = 0
  for window in (32, 64, 128, 256, 512, 1024, 2048):
    if window <= samples:
      bands = mel_filters(window, num_bands(window, rate), rate).shape[1]
      total += -(-4 * samples // window) * (window // 2 + 1) * bands
  return total * config.data.channels


def search_products(config: ml_collections.ConfigDict) -> int:
  """Counts the products of all tokens with all codes in a codebook search."""
  model = config.model
  if model.latent != 'vq':
    return 0
  places = 1
  if model.latent_shape == 'map':
    factor = math.prod(strides_of(model.strides, model.depth))
    places = math.prod(_divide(_patches(config, model)[0], factor))
  return places * model.latent_dim * model.codebook_size


def _seen(config, prefix: str, products: list[int]) -> int:
  """Counts a critic's layers up to the last one that the distance compares."""
  critic = config.critic
  names = [f'{prefix}block_{i}' for i in range(critic.depth)]
  compared = [n in (config.loss.layers or names) for n in names]
  if not any(compared):
    return 0
  last = critic.depth - compared[::-1].index(True)
  return sum(products[: last + (critic.network == 'residual')])


def _num_inputs(model) -> int:
  return model.latent_dim * (2 if model.latent == 'gaussian' else 1)


def _divisions(sides, channels, widths, strides) -> list[int]:
  """Counts a stack of convolutions with strides and kernels of twice those."""
  products, before = [], channels
  for width, stride in zip(widths, strides, strict=True):
    divided = functools.partial(_divided, stride)
    products.append(_conv(sides, divided, before, width))
    sides, before = _divide(sides, stride), width
  return products


def _level(config, sides, before, width, num_blocks) -> list[int]:
  """Counts a level's residual blocks and attention, layer by layer."""
  products, same = [], _same(config.model)
  for _ in range(num_blocks):
    products += [_conv(sides, same, before, width)]
    products += [_conv(sides, same, width, width)]
    if before != width:
      products.append(math.prod(sides) * before * width)
    if min(sides) in config.model.attention_sides:
      products += _attention(sides, width)
    before = width
  return products


def _middle(model, sides, width) -> list[int]:
  if not model.middle_attention and model.layout == 'own':
    return []
  convs = [_conv(sides, _same(model), width, width)] * 4
  return convs + (_attention(sides, width) if model.middle_attention else [])


def _attention(sides, width) -> list[int]:
  """Counts four 1x1 layers, and two products over all pairs of positions."""
  places = math.prod(sides)
  return [places * width * width] * 4 + [places * places * width] * 2


def _conv(
  sides: Sequence[int], taps: Callable[[int], int], inputs: int, outputs: int
) -> int:
  """Counts one convolution; `taps` maps a size to products with real inputs."""
  return math.prod(map(taps, sides)) * inputs * outputs


def _patches(config, network) -> tuple[Sides, int]:
  """Returns the sides and channels of examples as patches of a network."""
  sides, side = spatial_shape(config.data), network.patch_size
  return _divide(sides, side), config.data.channels * side ** len(sides)


def _same(model) -> Callable[[int], int]:
  """Counts the model's kernel size, whose outermost products meet padding."""
  half = model.kernel_size // 2
  return lambda side: model.kernel_size * side - half * (half + 1)


def _three(side: int) -> int:
  """Counts kernel size 3; the two outermost products meet the padding."""
  return 3 * side - 2


def _divided(stride: int, side: int) -> int:
  """Counts kernel size 2 s, stride s and a padding of s."""
  return 2 * side - stride


def _halved_from_three(side: int) -> int:
  """Counts kernel size 3, stride 2 and a padding of 1 at the end."""
  return 3 * (side // 2) - 1


def _enlarged(stride: int, side: int) -> int:
  """Counts kernel size 2 s - 1 after upsampling: 2 or 3 for each sub-pixel."""
  return (3 * stride - 2) * side - 2 * (stride - 1)


def _divide(sides: Sequence[int], by: int) -> Sides:
  return tuple(side // by for side in sides)
