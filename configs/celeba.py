"""CelebA faces at 64 x 64.

  python main.py --config=configs/celeba.py --workdir=runs/celeba

TFDS downloads the images (1.4 GB) on the first run, if Google Drive allows it.
Your own copy needs no download: `--config.data.path=/data/celeba`, a folder of
`img_align_celeba` (a folder or a .zip) and `list_eval_partition.txt`. The pixel
baseline is `--config=configs/celeba.py:mse`.
"""

import ml_collections

from configs import default


def get_config(objective: str = '') -> ml_collections.ConfigDict:
  """Returns the configuration for CelebA."""
  config = default.get_config(objective)
  config.data.name = 'celeb_a'
  config.data.center_crop = 140  # Crops the face from 178 x 218.
  return config
