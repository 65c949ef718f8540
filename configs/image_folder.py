"""Any folder of images and its subfolders.

  python main.py --config=configs/image_folder.py \
    --config.data.path=/data/my_photos --workdir=runs/my_photos
"""

import ml_collections

from configs import default


def get_config(objective: str = '') -> ml_collections.ConfigDict:
  """Returns the configuration for a folder; `data.path` must be set."""
  config = default.get_config(objective)
  config.data.name = 'image_folder'
  return config
