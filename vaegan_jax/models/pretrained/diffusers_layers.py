"""Checks of a `config.json` and forms of weights, shared by the layouts."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def check(
  config: Mapping[str, Any],
  defaults: Mapping[str, Any],
  needed: Mapping[str, Any],
) -> dict[str, Any]:
  """Returns a configuration with its defaults.

  Args:
    config: the content of the file.
    defaults: {argument of the class: its default}.
    needed: {argument: the value that it, or each entry of it, must have}.

  Raises:
    ValueError: an argument has another value than it must have.
    TypeError: a value is not of the type of its default.
  """
  config = {**defaults, **config}
  for name, default in defaults.items():
    values, like = [config[name]], default
    if isinstance(default, tuple):
      values, like = config[name], default[0]
      if not isinstance(values, (list, tuple)):
        values = [None]
    # Python counts a bool among the integers.
    if any(type(value) is not type(like) for value in values):
      raise TypeError(f'{name} is {config[name]!r}')
  for name in (name for name in needed if name in defaults):
    values = config[name]
    for value in values if isinstance(values, (list, tuple)) else [values]:
      if value != needed[name]:
        raise ValueError(
          f'its {name} has {value!r}, and {needed[name]!r} is read'
        )
  return config


def write(path: tuple[str, ...], array: np.ndarray) -> dict[str, np.ndarray]:
  """Returns {end of a name there: tensor} of an array, by its path here."""
  if path[-1] == 'kernel':
    array = np.moveaxis(array, (-1, -2), (0, 1))
  return {'bias' if path[-1] == 'bias' else 'weight': array}


def read(
  path: tuple[str, ...], tensors: Mapping[str, np.ndarray]
) -> np.ndarray:
  """Returns the array of these tensors, the inverse of `write`."""
  (array,) = tensors.values()
  return np.moveaxis(array, (0, 1), (-1, -2)) if path[-1] == 'kernel' else array
