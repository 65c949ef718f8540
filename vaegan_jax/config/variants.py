"""What stands after the colon of `--config`: an objective, and presets.

The presets themselves are in `configs/presets.py`.
"""

from vaegan_jax.config import defaults
from vaegan_jax.config.rules import OBJECTIVES, nearest
from vaegan_jax.errors import UserError


def split(source: str) -> tuple[str, str, list[str]]:
  """Reads `path:word,word`.

  Args:
    source: as in `--config`.

  Returns:
    The path, the word that is no preset ('' if all are), which the file itself
    understands, and the presets in order.

  Raises:
    UserError: more than one word is no preset.
  """
  path, _, text = source.partition(':')
  words = [word.strip() for word in text.split(',')] if text else []
  presets = [word for word in words if word in defaults.get_presets()]
  others = [word for word in words if word not in presets]
  if len(others) > 1:
    unknown = [word for word in others if word not in OBJECTIVES]
    if unknown:
      raise UserError(f'--config={source}: {_unknown(unknown[0])}')
    raise UserError(
      f'--config={source} names the objectives {" and ".join(others)}, and a '
      f'run has one: for example, --config={path}:{others[0]}'
    )
  return path, others[0] if others else '', presets


def add(source: str, objective: str) -> str:
  """Returns the source with an objective beside its presets."""
  path, separator, words = source.partition(':')
  return f'{path}:{objective}{"," if separator else ""}{words}'


def check_objective(objective: object, word: str) -> None:
  """Tells of a word that a file took for an objective, and that is none.

  Args:
    objective: of the configuration.
    word: after the colon, that is no preset.

  Raises:
    UserError: it is neither.
  """
  if word and objective == word and word not in OBJECTIVES:
    raise UserError(_unknown(word))


def _unknown(word: str) -> str:
  known = (*OBJECTIVES, *defaults.get_presets())
  guess = nearest(word, known)
  hint = f'did you mean {guess!r}?' if guess else 'for example, geometric,kl_f8'
  return (
    f'{word!r} is no objective ({", ".join(OBJECTIVES)}) and no preset '
    f'({", ".join(defaults.get_presets())}): {hint}'
  )
