"""Which sizes of networks make sense together, and what to say of others.

The module knows the fields alone: this wing knows no networks.
"""

import ml_collections

from vaegan_jax.config.frozen import frozen_layers
from vaegan_jax.config.rules import as_argument
from vaegan_jax.config.shapes import shape_field, shape_flag, spatial_shape
from vaegan_jax.errors import UserError

# What layout='ldm' takes, whose architecture is latent-diffusion's own.
_LDM = {
  'network': 'residual',
  'latent': 'gaussian',
  'latent_shape': 'map',
  'middle_attention': True,
  'attention_sides': (),
}
# What only the residual network reads, and what it is where it is off.
_OF_RESIDUAL = {
  'num_res_blocks': 1,
  'attention_sides': (),
  'middle_attention': False,
}


def not_divisible(name: str, value: int, divisor: int, why: str = '') -> str:
  """Says which multiples of the divisor are near.

  Args:
    name: of the field.
    value: its value.
    divisor: by which it must be divisible.
    why: what the divisor is, to stand before it: '2**depth='.
  """
  below = value // divisor * divisor
  use = f'{below} or {below + divisor}' if below else f'{divisor}'
  return (
    f'{name}={value} must be divisible by {why}{divisor}; '
    f'{value} / {divisor} leaves {value % divisor}: use {use}'
  )


def layer_names(critic: ml_collections.ConfigDict) -> tuple[str, ...]:
  """The names that `layer_names` of the critic's module will have.

  Args:
    critic: the fields of `config.critic`.

  Returns:
    The names in forward order.
  """
  blocks = [f'block_{index}' for index in range(critic.depth)]
  scales = ['', *(f'scale_{i}/' for i in range(1, critic.num_scales))]
  return frozen_layers(critic.network) or tuple(
    f'{scale}{block}' for scale in scales for block in blocks
  )


def check_autoencoder(
  model: ml_collections.ConfigDict, data: ml_collections.ConfigDict
) -> None:
  """Checks the autoencoder's sizes.

  Args:
    model: the fields of `config.model`, valid by themselves.
    data: those of `config.data`.

  Raises:
    UserError: two of them contradict each other.
  """
  if model.layout == 'ldm':
    for field, wanted in _LDM.items():
      if model[field] != wanted:
        raise UserError(
          f'model.{field}={model[field]!r} must be {wanted!r} for model.layout='
          "'ldm', which is latent-diffusion's own architecture: for example, "
          f'--config.model.{field}={as_argument(wanted)}'
        )
  if model.network == 'plain':
    for field, off in _OF_RESIDUAL.items():
      if model[field] != off:
        raise UserError(
          f'model.{field}={model[field]!r} is only read for '
          "model.network='residual': for example, "
          '--config.model.network=residual'
        )
  _check_sizes('model', model, data)
  is_residual = model.network == 'residual'
  if is_residual and model.norm in ('instance', 'batch'):
    raise UserError(
      f"model.norm={model.norm!r} is of model.network='plain'; the residual "
      'network has GroupNorm: for example, --config.model.norm=group'
    )


def check_trained_critic(
  critic: ml_collections.ConfigDict, data: ml_collections.ConfigDict
) -> None:
  """Checks the sizes of a critic that is trained.

  Args:
    critic: the fields of `config.critic`, valid by themselves.
    data: those of `config.data`.

  Raises:
    UserError: two of them contradict each other.
  """
  scales = critic.num_scales
  if scales > 1 and critic.head != 'patch':
    raise UserError(
      f'critic.num_scales={scales} joins {scales} maps of logits, but '
      f'critic.head={critic.head!r} gives one logit an image: for example, '
      '--config.critic.head=patch'
    )
  _check_sizes('critic', critic, data, scales)


def _check_sizes(name, network, data, scales=1):
  """That there are so many multipliers, and that the image can be halved."""
  multipliers, depth = network.channel_multipliers, network.depth
  is_residual = network.network == 'residual'
  count = depth + is_residual
  if len(multipliers) != count:
    of_each = f'each of the {name}.depth={depth} blocks'
    if is_residual:
      of_each = (
        f"the image's own side and each of the {name}.depth={depth} halvings, "
        f'{depth} + 1 = {count}'
      )
    example = tuple(2 ** min(block, 3) for block in range(count))
    raise UserError(
      f'{name}.channel_multipliers={multipliers} must have one entry for '
      f'{of_each}: for example, '
      f'--config.{name}.channel_multipliers={as_argument(example)}'
    )
  sides, field = spatial_shape(data), shape_field(data)
  smallest = min(sides) // 2 ** (depth + scales - 1)
  if network.norm == 'instance' and smallest == 1:
    raise UserError(
      f"{name}.norm='instance' makes 0 of a map of one pixel, to which "
      f'{shape_flag(data)} is halved: for example, --config.{name}.norm=group'
    )
  halvings, power = depth + scales - 1, f'{name}.depth'
  if scales > 1:
    power = f'({name}.depth + {name}.num_scales - 1)'
  for side in sides:
    if side % 2**halvings:
      why = f'2**{power}=2**{halvings}='
      raise UserError(not_divisible(field, side, 2**halvings, why))


def check_attention(
  model: ml_collections.ConfigDict, data: ml_collections.ConfigDict
) -> None:
  """Checks the sides at which attention is to stand, of the training's images.

  Args:
    model: the fields of `config.model`.
    data: those of `config.data`.

  Raises:
    UserError: no map has one of them.
  """
  shorter = min(spatial_shape(data))
  sides = [shorter // 2**level for level in range(model.depth + 1)]
  for side in model.attention_sides:
    if side not in sides:
      *most, last = sides
      raise UserError(
        f'model.attention_sides={model.attention_sides} names {side}, but '
        f'{shape_flag(data)} halved model.depth={model.depth} times '
        f'has the sides {", ".join(map(str, most))} and {last}: for example, '
        f'--config.model.attention_sides={as_argument((last,))}'
      )
