"""Networks: plain Flax modules with typed fields, one architecture a file."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from vaegan_jax.models.autoencoder import Autoencoder
from vaegan_jax.models.critic import Critic


def create_modules(
  *,
  with_critic: bool,
  data: Mapping[str, Any],
  model: Mapping[str, Any],
  critic: Mapping[str, Any],
) -> dict[str, nn.Module]:
  """Builds the networks that a configuration describes.

  Args:
    with_critic: whether the objective trains one.
    data: the fields of `config.data`.
    model: the fields of `config.model`.
    critic: the fields of `config.critic`.

  Returns:
    {'autoencoder': Autoencoder, 'critic': Critic}, or without the critic.
  """

  def fields(section):  # `depth` is how many multipliers there are.
    return {name: section[name] for name in section if name != 'depth'}

  modules = {
    'autoencoder': Autoencoder(
      data['image_size'], data['channels'], **fields(model)
    )
  }
  if with_critic:
    modules['critic'] = Critic(**fields(critic))
  return modules
