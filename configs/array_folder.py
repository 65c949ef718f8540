"""Any folder of arrays and its subfolders: bands, 16 bits, floats.

  python main.py --config=configs/array_folder.py \
    --config.data.path=/data/bands --config.data.channels=13 \
    --workdir=runs/bands
"""

import ml_collections

from configs import default


def get_config(objective: str = '') -> ml_collections.ConfigDict:
  """Returns the configuration for arrays; `data.path` must be set."""
  config = default.get_config(objective)
  config.data.name = 'array_folder'
  config.data.channels = 1
  config.data.value_range = 'percentiles'
  return config
