"""The defaults of every field, and what an objective changes.

A dataset's own file (`configs/celeba.py`, ...) starts from `get_config()` and
changes only what differs. The text after a colon, as in
`--config=configs/celeba.py:mse`, is the objective.
`vaegan_jax/config/schema.py` has every field with its default and meaning.
"""

import ml_collections

from vaegan_jax.config import schema
from vaegan_jax.config.shapes import BitPerEntry


def get_config(objective: str = '') -> ml_collections.ConfigDict:
  """Returns the defaults, with the named objective (default: geometric)."""
  config = schema.create_config()
  critic, loss, optimizer = config.critic, config.loss, config.optimizer
  config.objective = objective or config.objective
  loss.rate = BitPerEntry(config)  # As many bits as the latent has entries.
  if config.objective == 'mse':
    # The likelihood of the pixels, summed over an image, whose own KL weight
    # would be 1.
    loss.reduction = 'sum'
    loss.variance = 'optimal'
    loss.kl_weight = 4.0
  # The Wasserstein losses bound the critic's slope themselves, without R1.
  elif config.objective == 'wasserstein':  # The recipe of arXiv 1701.07875.
    critic.r1_weight = 0.0
    critic.num_steps = 5
    critic.long_round_steps = 100
    critic.weight_clip = 0.01
    optimizer.name = 'rmsprop'
    optimizer.autoencoder_learning_rate = 5e-5
    optimizer.muon_learning_rate = 0.0
    optimizer.critic_learning_rate = 5e-5
  elif config.objective == 'wasserstein_gp':
    critic.r1_weight = 0.0
    critic.gradient_penalty_weight = 10.0  # As in arXiv 1704.00028.
  return config.lock()
