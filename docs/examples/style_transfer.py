"""Style transfer (Gatys et al., arXiv 1508.06576) with VGG or a trained critic.

    PYTHONPATH=. python docs/examples/style_transfer.py --content=photo.jpg \
      --style=painting.jpg --critic=runs/celeba --output=runs/style

`--weights=vgg19.pth` takes torchvision's VGG instead of the critic of a run.
The picture is optimised towards the content's features and the style's Gram
matrices. Two methods of Mordvintsev et al.
(https://distill.pub/2018/differentiable-parameterizations) keep noise away in
networks other than VGG: the variables are frequencies, of which low ones move
most, and the network takes the picture shifted. Axes: H height, W width, C
channels.
"""

import argparse
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.scipy import fft
from PIL import Image, ImageOps

import vaegan_jax
from vaegan_jax.evaluation.figures import image_grid, to_uint8
from vaegan_jax.models.critic import Critic
from vaegan_jax.models.pretrained.lpips import LPIPS
from vaegan_jax.models.pretrained.vgg import VGG, load_vgg

_BRIGHTEST = 0.99  # tanh reaches 1 only at infinity.
_SHIFT = 16  # Pixels, the stride of four blocks.


def transfer(
  content,
  style,
  module,
  variables,
  *,
  content_layers,
  style_layers,
  content_weight=1.0,
  style_weight=10.0,
  learning_rate=0.02,
  num_steps=500,
):
  """Optimises a picture with Adam, beginning with the content.

  Args:
    content, style: [1, H, W, C] float32 in [-1, 1]; the sizes may differ.
    module, variables: any linen module of such images.
    content_layers, style_layers: names of the layers whose features, and whose
      Gram matrices, are compared.
    content_weight, style_weight: of losses relative to their references.
    learning_rate: of the first step; it falls to 0 along a cosine.
    num_steps: number of updates.

  Yields:
    After each update, the picture [1, H, W, C] and the loss before it.
  """
  optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))
  loss_of = _create_loss(
    content,
    style,
    functools.partial(_features_of, module, variables),
    content_layers=tuple(content_layers),
    style_layers=tuple(style_layers),
    content_weight=content_weight,
    style_weight=style_weight,
  )

  @jax.jit
  def update(spectrum, opt_state, shift):
    loss, gradient = jax.value_and_grad(loss_of)(spectrum, shift)
    updates, opt_state = optimizer.update(gradient, opt_state)
    spectrum = optax.apply_updates(spectrum, updates)
    return spectrum, opt_state, to_picture(spectrum), loss

  spectrum = jax.jit(to_spectrum)(content)
  opt_state = optimizer.init(spectrum)
  for shift in np.random.default_rng(0).integers(0, _SHIFT, (num_steps, 2)):
    spectrum, opt_state, picture, loss = update(spectrum, opt_state, shift)
    if not np.isfinite(loss):
      raise ValueError(f'the loss is {loss}: lower --learning_rate')
    yield picture, float(loss)


def _features_of(module, variables, picture, layers):
  _, features = vaegan_jax.capture_features(
    module, variables, picture, layers=layers
  )
  return features


def _create_loss(
  content, style, features_of, *, content_layers, style_layers, **weights
):
  """Returns (spectrum, shift [2]) -> the loss of the picture, shifted."""
  layers = tuple(dict.fromkeys([*content_layers, *style_layers]))
  style_features = jax.jit(lambda x: features_of(x, style_layers))(style)

  def loss_of(spectrum, shift):
    # The content is shifted too: it is compared place by place.
    picture, target = (
      jnp.roll(x, shift, axis=(1, 2)) for x in (to_picture(spectrum), content)
    )
    losses = vaegan_jax.style_and_content_loss(
      features_of(picture, layers),
      features_of(target, content_layers),
      style_features,
      normalize='relative',
      **weights,
    )
    return jnp.sum(losses)

  return loss_of


def to_picture(spectrum):
  """Maps a spectrum [1, H, W, C] to pixels in [-1, 1]."""
  amplitudes = _amplitudes(*spectrum.shape[1:3])
  return jnp.tanh(fft.idctn(spectrum * amplitudes, axes=(1, 2), norm='ortho'))


def to_spectrum(picture):
  """Undoes `to_picture`."""
  unbounded = jnp.arctanh(jnp.clip(picture, -_BRIGHTEST, _BRIGHTEST))
  amplitudes = _amplitudes(*picture.shape[1:3])
  return fft.dctn(unbounded, axes=(1, 2), norm='ortho') / amplitudes


def _amplitudes(height, width):
  """Returns the amplitudes 1 / f of photographs, [1, H, W, 1].

  So Adam moves low frequencies most. A mean square of 1 keeps a pixel's step.
  """
  y, x = np.ogrid[:height, :width]
  frequencies = np.hypot(y / height, x / width)
  amplitudes = 1 / np.maximum(frequencies, 1 / max(height, width))
  amplitudes /= np.sqrt(np.mean(amplitudes**2))
  return np.float32(amplitudes)[None, :, :, None]


def open_network(critic, weights, depth):
  """Returns (module, variables, channels) of a run's critic or of VGG."""
  if not critic:
    return VGG(depth), load_vgg(weights, depth), 3
  model = vaegan_jax.load(critic)
  if model.critic is None:
    raise ValueError(f'--critic={critic} has no critic: name another run')
  module, variables = model.critic, model.variables['critic']
  if isinstance(module, LPIPS):
    module, variables = VGG(16), {'params': variables['params']['vgg']}
  if isinstance(module, Critic):
    module = module.clone(head='none')  # The head takes one size of image.
  return module, variables, model.image_shape[-1]


def choose_layers(module):
  """Returns the layers of content and of style: the paper's, or all blocks."""
  if isinstance(module, VGG):
    return ('conv4_2',), tuple(f'conv{block}_1' for block in range(1, 6))
  return module.layer_names[-1:], module.layer_names


def read_picture(path, channels, image_size):
  """Reads the largest centred square, [1, H, W, C] in [-1, 1]."""
  picture = Image.open(path).convert('L' if channels == 1 else 'RGB')
  picture = ImageOps.fit(picture, (image_size, image_size), Image.LANCZOS)
  pixels = np.asarray(picture, np.float32).reshape(image_size, image_size, -1)
  return pixels[None] / 127.5 - 1


def parse_args(argv):
  """Parses the command line."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--content', required=True, help='picture to keep')
  parser.add_argument('--style', required=True, help='picture of the textures')
  parser.add_argument('--output', required=True, help='folder to write')
  network = parser.add_mutually_exclusive_group(required=True)
  network.add_argument('--critic', help='run or export with a critic')
  network.add_argument('--weights', help="torchvision's file of VGG")
  parser.add_argument(
    '--depth',
    type=int,
    default=19,
    choices=(16, 19),
    help='depth of the VGG in --weights (default: %(default)s)',
  )
  for name, default, text in (
    ('image_size', 256, 'side of the squares that are cut out, in pixels'),
    ('num_steps', 500, 'number of updates of the picture'),
    ('learning_rate', 0.02, 'learning rate of the first update'),
    ('content_weight', 1.0, "weight of the content's features"),
    ('style_weight', 10.0, "weight of the style's Gram matrices"),
  ):
    text = f'{text} (default: %(default)s)'
    parser.add_argument(
      f'--{name}', type=type(default), default=default, help=text
    )
  return parser.parse_args(argv)


def main(argv=None):
  """Writes `result.png`, and `style_transfer.png`, the three side by side."""
  args = parse_args(argv)
  network = open_network(args.critic, args.weights, args.depth)
  module, variables, channels = network
  content, style = (
    read_picture(path, channels, args.image_size)
    for path in (args.content, args.style)
  )
  content_layers, style_layers = choose_layers(module)
  steps = transfer(
    content,
    style,
    module,
    variables,
    content_layers=content_layers,
    style_layers=style_layers,
    content_weight=args.content_weight,
    style_weight=args.style_weight,
    learning_rate=args.learning_rate,
    num_steps=args.num_steps,
  )
  for step, (picture, loss) in enumerate(steps, start=1):
    result = np.asarray(picture)
    if step % 50 == 0 or step == args.num_steps:
      print(f'step {step:,}/{args.num_steps:,}  loss {loss:.4g}', flush=True)
  folder = Path(args.output)
  folder.mkdir(parents=True, exist_ok=True)
  row = image_grid([np.concatenate([content, style, result])], padding=4)
  Image.fromarray(to_uint8(result[0])).save(folder / 'result.png')
  Image.fromarray(row).save(folder / 'style_transfer.png')


if __name__ == '__main__':
  main()
