"""From plain numbers to optax transforms, one for each network."""

from collections.abc import Iterable

import optax


def create_optimizers(
  names: Iterable[str],
  *,
  autoencoder_learning_rate: float,
  critic_learning_rate: float,
  b1: float,
  b2: float,
) -> dict[str, optax.GradientTransformation]:
  """Adam (arXiv 1412.6980) for every network.

  Args:
    names: of the networks: 'autoencoder', 'critic'.
    autoencoder_learning_rate: step size, constant.
    critic_learning_rate: step size, constant.
    b1: decay of the first moment; 0.5 is the usual choice against a critic.
    b2: decay of the second moment.

  Returns:
    {name: optax transform}.
  """
  rates = {
    'autoencoder': autoencoder_learning_rate,
    'critic': critic_learning_rate,
  }
  return {name: optax.adam(rates[name], b1=b1, b2=b2) for name in names}
