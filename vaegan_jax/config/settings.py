"""Settings for one part of the house, taken from a configuration."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

import ml_collections

from vaegan_jax.losses.reconstruction import LossConfig

T = TypeVar('T')


def settings(cls: type[T], section: Mapping[str, Any], **others: Any) -> T:
  """Builds a dataclass from those fields of a section that it names."""
  names = {field.name for field in dataclasses.fields(cls)} - others.keys()
  known = {name: section[name] for name in names if name in section}
  return cls(**known, **others)


def with_data(
  config: ml_collections.ConfigDict, **fields: Any
) -> ml_collections.ConfigDict:
  """Returns a copy with other fields of `config.data`, or the same `config`."""
  if all(config.data[name] == value for name, value in fields.items()):
    return config
  config = config.copy_and_resolve_references()
  with config.ignore_type():
    config.data.update(fields)
  return config


def loss_settings(config: ml_collections.ConfigDict) -> LossConfig:
  """Returns the settings of the loss, with the sample rate of the data."""
  return settings(LossConfig, config.loss, sample_rate=config.data.sample_rate)
