"""Style transfer: the fields of `--mode=style`.

  python main.py --mode=style --config.content=photo.jpg \
    --config.style=painting.jpg --config.critic=runs/celeba \
    --workdir=runs/style
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """Returns the defaults; `content`, `style` and a network must be added."""
  config = ml_collections.ConfigDict()
  config.content = ''  # The picture whose shapes are kept, a file.
  config.style = ''  # The picture whose textures and colours are taken.
  config.critic = ''  # Workdir of a run, whose critic is the network; '': VGG.
  config.network = 'vgg19'  # Or 'vgg16'; not read if there is a critic.
  config.weights = ''  # Of VGG: torchvision's .pth, or .safetensors.
  config.image_size = 256  # Pixels on a side, of the largest centred square.
  config.num_steps = 500  # Fewer leave more of the content's colours.
  config.learning_rate = 0.02  # Of Adam; the picture's values are in [-1, 1].
  # Both parts of the loss are relative, so that the weights suit any network.
  config.content_weight = 1.0
  config.style_weight = 10.0
  config.content_layers = ()  # By name; (): the last block, conv4_2 of VGG.
  config.style_layers = ()  # (): all blocks, conv1_1 to conv5_1 of VGG.
  return config.lock()
