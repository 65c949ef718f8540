"""Style transfer (Gatys et al., arXiv 1508.06576): the library's example.

The picture itself is what is optimised: towards the content's features and
the style's Gram matrices, in the layers of VGG or of a critic trained here.
With pixels as the variables this works in VGG alone: in other networks, above
all strided ones, they turn into noise that only the network takes for style.
Two remedies of Mordvintsev et al. are used
(https://distill.pub/2018/differentiable-parameterizations): the variables are
frequencies, low ones moving most, and the network sees the picture shifted.
Axes: H height, W width, C channels.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from etils import epath
from jax.scipy import fft

from vaegan_jax.data import decoding
from vaegan_jax.data.image_files import describe_error
from vaegan_jax.errors import UserError
from vaegan_jax.evaluation import figures
from vaegan_jax.losses.distances import style_and_content_loss
from vaegan_jax.losses.perceptual import capture_features
from vaegan_jax.models.critic import Critic
from vaegan_jax.models.pretrained.vgg import MIN_SIDE, VGG, load_vgg
from vaegan_jax.runtime.files import check_writable, save_png
from vaegan_jax.runtime.progress import track

# A network, its variables, and the channels of the images it sees.
Network = tuple[nn.Module, Mapping[str, Any], int]

# Fields of the configuration that `transfer` takes as they are.
_OPTIONS = ('content_weight', 'style_weight', 'learning_rate', 'num_steps')
_BRIGHTEST = 0.99  # Of the start: tanh reaches 1 only at infinity.
_SHIFT = 16  # Pixels; the stride of four blocks.
_PADDING = 4  # Pixels between the pictures of the figure.


def transfer(
  content: jax.Array,
  style: jax.Array,
  module: nn.Module,
  variables: Mapping[str, Any],
  *,
  content_layers: Sequence[str],
  style_layers: Sequence[str],
  content_weight: float,
  style_weight: float,
  learning_rate: float,
  num_steps: int,
) -> Iterator[tuple[jax.Array, float]]:
  """Optimises a picture with Adam, from the content on.

  The learning rate falls to 0 along a cosine, which calms the last steps.

  Args:
    content: [1, H, W, C] float in [-1, 1].
    style: [1, H', W', C] float in [-1, 1], of any size the network takes.
    module: any linen module that maps such images.
    variables: of the module.
    content_layers: where the features are compared, by name.
    style_layers: where their Gram matrices are.
    content_weight: of the content's part of the loss. Both parts are relative
      to their reference, so that a weight means the same in any network.
    style_weight: of the style's part.
    learning_rate: of the first step, about as much as a pixel may change.
    num_steps: how many updates.

  Yields:
    After each update, the picture [1, H, W, C] and the loss it had before.

  Raises:
    ValueError: a layer that the network has not; see `capture_features`.
    UserError: the loss is not finite.
  """
  optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))
  update = _create_update(
    module,
    optimizer,
    content_layers,
    style_layers,
    content_weight=content_weight,
    style_weight=style_weight,
  )
  variables, content, style = jax.device_put((variables, content, style))
  capture = functools.partial(capture_features, module, layers=style_layers)
  _, style_features = jax.jit(capture)(variables, style)
  spectrum = jax.jit(_to_spectrum)(content)
  opt_state = optimizer.init(spectrum)
  shifts = np.random.default_rng(0).integers(0, _SHIFT, (num_steps, 2))
  for step, shift in enumerate(shifts, start=1):
    spectrum, opt_state, picture, loss = update(
      spectrum, opt_state, shift, variables, content, style_features
    )
    _check_finite(loss, step, learning_rate)
    yield picture, float(loss)


def _check_finite(loss: jax.Array, step: int, learning_rate: float) -> None:
  if not np.isfinite(loss):
    raise UserError(
      f'the loss is {loss} at step {step}: lower learning_rate='
      f'{learning_rate} or the weights, or take another network'
    )


def run(
  config: ml_collections.ConfigDict,
  workdir: str,
  critic: Network | None = None,
) -> None:
  """Transfers the style of one file to the content of another.

  Writes `result.png` and `style_transfer.png`, the content, the style and the
  result side by side, and prints where. Ctrl-C ends it early, and what there
  is by then is written.

  Args:
    config: with the fields of `configs/style.py`.
    workdir: where the two pictures go.
    critic: of the run `config.critic`; None: the VGG `config.weights`.

  Raises:
    UserError: a file, the workdir, the size or a layer is wrong, or the loss
      is not finite.
  """
  check_writable(workdir)
  channels = critic[2] if critic else 3
  content, style = (
    _read_picture(field, config[field], channels, config.image_size)
    for field in ('content', 'style')
  )
  if critic is None:
    module = VGG(int(config.network.removeprefix('vgg')))
    variables = load_vgg(config.weights, module.depth)
  else:
    module, variables, _ = critic
  if isinstance(module, Critic):  # Its head is for one size of image.
    module = module.clone(head='none')
  _check_size(config.image_size, module)
  steps = transfer(
    content,
    style,
    module,
    variables,
    **_choose_layers(config, module),
    **{name: config[name] for name in _OPTIONS},
  )
  result = _last_picture(steps, config.num_steps)
  _write(workdir, content, style, np.asarray(result))


def default_layers(module: nn.Module) -> dict[str, tuple[str, ...]]:
  """The layers that show the content and the style best.

  Args:
    module: a VGG, whose layers the paper chose, or a critic, whose every block
      is needed for the style, and whose last leaves it the most freedom.

  Returns:
    {'content_layers': names, 'style_layers': names}.
  """
  content, style = module.layer_names[-1:], module.layer_names
  if isinstance(module, VGG):
    content = ('conv4_2',)
    style = tuple(f'conv{block}_1' for block in range(1, 6))
  return {'content_layers': content, 'style_layers': style}


def _create_update(module, optimizer, content_layers, style_layers, **weights):
  """Returns the compiled step of `transfer`."""
  layers = list(dict.fromkeys([*content_layers, *style_layers]))
  capture = functools.partial(capture_features, module)

  @jax.jit
  def update(spectrum, opt_state, shift, variables, content, style_features):
    # Both are shifted: the content is compared place by place.
    content = jnp.roll(content, shift, axis=(1, 2))
    _, content_features = capture(variables, content, layers=content_layers)

    def compute_loss(spectrum):
      picture = jnp.roll(_to_picture(spectrum), shift, axis=(1, 2))
      losses = style_and_content_loss(
        capture(variables, picture, layers=layers)[1],
        content_features,
        style_features,
        normalize='relative',
        **weights,
      )
      return jnp.sum(losses)

    loss, gradient = jax.value_and_grad(compute_loss)(spectrum)
    updates, opt_state = optimizer.update(gradient, opt_state)
    spectrum = optax.apply_updates(spectrum, updates)
    return spectrum, opt_state, _to_picture(spectrum), loss

  return update


def _to_picture(spectrum: jax.Array) -> jax.Array:
  """Maps [1, H, W, C], one number a frequency, to pixels in [-1, 1]."""
  amplitudes = _amplitudes(*spectrum.shape[1:3])
  return jnp.tanh(fft.idctn(spectrum * amplitudes, axes=(1, 2), norm='ortho'))


def _to_spectrum(picture: jax.Array) -> jax.Array:
  """The inverse of `_to_picture`."""
  unbounded = jnp.arctanh(jnp.clip(picture, -_BRIGHTEST, _BRIGHTEST))
  amplitudes = _amplitudes(*picture.shape[1:3])
  return fft.dctn(unbounded, axes=(1, 2), norm='ortho') / amplitudes


def _amplitudes(height: int, width: int) -> np.ndarray:
  """How strong each frequency is in photographs, [1, H, W, 1]: as 1 / f.

  Adam moves every number alike, and so low frequencies by more. The mean of
  the squares is 1, which keeps a pixel's share of a step.
  """
  y, x = np.ogrid[:height, :width]
  frequencies = np.hypot(y / height, x / width)
  amplitudes = 1 / np.maximum(frequencies, 1 / max(height, width))
  amplitudes /= np.sqrt(np.mean(amplitudes**2))
  return np.float32(amplitudes)[None, :, :, None]


def _choose_layers(config, module) -> dict[str, tuple[str, ...]]:
  """The layers of the configuration; where it has none, the usual ones."""
  chosen = {}
  for field, usual in default_layers(module).items():
    chosen[field] = config[field] or usual
    for name in chosen[field]:
      if name not in module.layer_names:
        raise UserError(
          f'{field}={chosen[field]} names {name!r}, but the network has '
          f'{", ".join(module.layer_names)}: for example, '
          f'--config.{field}="{usual}"'
        )
  return chosen


def _read_picture(
  field: str, path: str, channels: int, image_size: int
) -> np.ndarray:
  """Reads the largest centred square; returns [1, S, S, C] in [-1, 1]."""
  try:
    pixels = decoding.decode_image(
      epath.Path(path).read_bytes(), channels=channels, image_size=image_size
    )
  except Exception as error:  # Pillow raises nearly anything.
    raise UserError(
      f'{field}={path!r} cannot be read as a picture '
      f'({describe_error(error)}): for example, --config.{field}=picture.jpg'
    ) from error
  return np.float32(pixels[None]) / 127.5 - 1


def _check_size(image_size: int, module: nn.Module) -> None:
  if isinstance(module, VGG):
    rule, example = f'at least {MIN_SIDE} for VGG', MIN_SIDE
    holds = image_size >= MIN_SIDE
  else:
    halvings = module.num_halvings
    divisor = 2**halvings
    rule = f'divisible by {divisor}, as the critic halves it {halvings} times'
    example = max(image_size // divisor, 1) * divisor
    holds = image_size % divisor == 0
  if not holds:
    raise UserError(
      f'image_size={image_size} must be {rule}: for example, '
      f'--config.image_size={example}'
    )


def _last_picture(steps, num_steps: int) -> jax.Array:
  """Runs the steps, or those before Ctrl-C, and shows how far they are."""
  picture = None
  steps = track(
    steps, 'Transferring', num_steps, lambda step: f'loss {step[1]:.4g}'
  )
  try:
    for step in steps:
      picture = step[0]
  except KeyboardInterrupt:
    if picture is None:
      raise
  return picture


def _write(workdir, content, style, result) -> None:
  figure = figures.image_grid(
    [np.concatenate([content, style, result])], padding=_PADDING
  )
  pictures = {'result': figures.to_uint8(result[0]), 'style_transfer': figure}
  for name, picture in pictures.items():
    path = epath.Path(workdir) / f'{name}.png'
    save_png(path, picture)
    print(path, flush=True)
