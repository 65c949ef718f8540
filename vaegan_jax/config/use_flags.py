"""The flags of the modes that use a finished model: what they may say.

`--workdir` names the model for all of them, the workdir of a run or an export.
"""

import dataclasses

from absl import flags
from etils import epath

from vaegan_jax.config.paths import absolute, check_encoding, resolve
from vaegan_jax.config.rules import PATH, either
from vaegan_jax.errors import UserError

# The modes, and the folder of the workdir that each writes if nothing is said.
USES = {
  'encode': 'latents',
  'decode': 'decoded',
  'reconstruct': 'reconstructed',
  'sample': 'samples',
  'export': 'export',
}
SPLITS = ('train', 'eval')
_BOOLEANS = {'true': True, 'false': False}
_MAX_SAMPLES = 10**7
# What each flag is, which modes take it, and an example.
_FLAGS = {
  'input': (
    'Images to encode or reconstruct, latents to decode: a folder or a file.',
    ('encode', 'decode', 'reconstruct'),
    '/data/my_photos',
  ),
  'split': (
    f"Of the run's own dataset, instead of --input: {either(SPLITS)}.",
    ('encode', 'reconstruct'),
    'eval',
  ),
  'output': (
    'The folder that is written; empty: one in the workdir.',
    tuple(USES),
    '/data/latents',
  ),
  'num_samples': ('How many to draw; empty: 64.', ('sample',), '1000'),
  'with_critic': (
    "Whether it is exported too: 'true' (if empty) or 'false'.",
    ('export',),
    'false',
  ),
}


@dataclasses.dataclass(frozen=True)
class Use:
  """What a finished model is to be used for.

  Attributes:
    input: path of images or latents; '' where there is a split, or none.
    split: 'train' or 'eval', of the run's own dataset; '' where it is `input`.
    output: path of the folder that is written.
    num_samples: to be drawn.
    with_critic: whether the critic is exported.
  """

  input: str
  split: str
  output: str
  num_samples: int
  with_critic: bool


def define_use_flags(flag_values: flags.FlagValues) -> None:
  """Defines these flags."""
  for name, (meaning, _, _) in _FLAGS.items():
    flags.DEFINE_string(name, '', meaning, flag_values=flag_values)


def check_use_flags(mode: str, flag_values: flags.FlagValues) -> None:
  """Tells flags that are not of this mode.

  Args:
    mode: of the command.
    flag_values: with these flags.

  Raises:
    UserError: there is one.
  """
  for name, (_, modes, example) in _FLAGS.items():
    if flag_values[name].present and mode not in modes:
      raise UserError(
        f'--{name}={flag_values[name].value} is for --mode={either(modes)}: '
        f'for example, --mode={modes[0]} --{name}={example}'
      )


def parse_use(mode: str, workdir: str, flag_values: flags.FlagValues) -> Use:
  """Checks these flags.

  Args:
    mode: one of `USES`.
    workdir: of the model, absolute.
    flag_values: with these flags.

  Returns:
    What they say.

  Raises:
    UserError: one is missing or wrong.
  """
  given = {name: flag_values[name].value for name in _FLAGS}
  for name in ('input', 'output'):
    if not PATH.holds(given[name]):
      raise UserError(
        f'--{name}={given[name]!r} must be {PATH.text}: for example, '
        f'--{name}={_FLAGS[name][-1]}'
      )
    check_encoding(name, given[name])
  _check_source(mode, given)
  output = absolute(given['output']) or str(epath.Path(workdir) / USES[mode])
  for name in ('workdir', 'input'):
    path = workdir if name == 'workdir' else given['input']
    if path and resolve(output) == resolve(path):
      raise UserError(
        f'--output={output} is --{name} itself, which is not to be changed: '
        f'name another folder, such as --output={output}_2'
      )
  return Use(
    input=absolute(given['input']),
    split=given['split'],
    output=output,
    num_samples=_parse_number(given['num_samples'] or '64'),
    with_critic=_parse_boolean(given['with_critic'] or 'true'),
  )


def _check_source(mode: str, given: dict[str, str]) -> None:
  """What is to be read must be said, once."""
  can_split = mode in _FLAGS['split'][1]
  example = f'--mode={mode} --input=/data/my_photos'
  if mode == 'decode':
    example = '--mode=decode --input=runs/celeba/latents'
  if can_split:
    example += f', or --mode={mode} --split=eval'
  if given['split'] and given['split'] not in SPLITS:
    raise UserError(
      f'--split={given["split"]} must be {either(SPLITS)}, of the dataset of '
      f'the run: for example, --mode={mode} --split=eval'
    )
  if given['input'] and given['split']:
    raise UserError(
      f'--input={given["input"]} and --split={given["split"]} must be one or '
      f'the other: for example, {example}'
    )
  if mode in _FLAGS['input'][1] and not (given['input'] or given['split']):
    raise UserError(f'--mode={mode} needs --input: for example, {example}')


def _parse_number(text: str) -> int:
  if not text.isdecimal() or not 1 <= int(text) <= _MAX_SAMPLES:
    raise UserError(
      f'--num_samples={text} must be a whole number from 1 to {_MAX_SAMPLES}: '
      'for example, --num_samples=1000'
    )
  return int(text)


def _parse_boolean(text: str) -> bool:
  if text not in _BOOLEANS:
    raise UserError(
      f"--with_critic={text} must be 'true' or 'false': for example, "
      '--with_critic=false'
    )
  return _BOOLEANS[text]
