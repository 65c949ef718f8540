"""Settings of reading examples from files, and errors for skipped ones."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import numpy as np
from absl import logging

MAX_BYTES = 2**28  # Limit of what is read whole.
MAX_DAMAGED = 0.1  # Share of all examples.
_CHECKED_TOGETHER = 1000  # Bounds the memory of the check.


class Reading(NamedTuple):
  """Settings of reading examples from files: fields of `config.data`."""

  # `folder_rules`; below 3 nothing means "no data", and TIFFs are read as
  # earlier versions did.
  rules: int = 4
  nodata: str = ''  # '': what each file declares.
  max_nodata: float = 0.0
  axes: str = ''  # '': what each file declares.
  sample_rate: int = 0  # The rate of all sounds; 0: each keeps its own.
  channels: int = 0  # The channels of all sounds; 0: each keeps its own.

  @property
  def key(self) -> tuple:
    """Settings beside `rules` that determine values; for names of copies."""
    key = self.nodata, self.max_nodata, self.axes
    return key + self.sound_key

  @property
  def sound_key(self) -> tuple:
    """Settings of the conversion of sounds; () without one."""
    converted = self.sample_rate, self.channels
    return ('sounds', *converted) if any(converted) else ()

  @property
  def masks(self) -> bool:
    """True if arrays are read as float32, with NaN for no data."""
    return self.rules > 2 and self.max_nodata > 0


class Declared(NamedTuple):
  """An array with what means no data there; see `no_data.find`."""

  values: np.ndarray
  nodata: str
  hidden: np.ndarray | None = None


class TooLarge(OSError, ValueError):
  """An error for what is too large to be read whole."""


def check_size(size: int, does: str = 'has') -> None:
  """Raises a `TooLarge` for too many bytes; a file may claim any number."""
  if size > MAX_BYTES:
    raise TooLarge(f'it {does} more than {MAX_BYTES:,} bytes')


def check_all(
  items: Sequence[Any], check: Callable[[Any], Any], noun: str
) -> Iterator[tuple[Any, Any]]:
  """Yields (item, what `check` finds of it) in order; threads call it."""
  import tqdm

  with (
    futures.ThreadPoolExecutor() as pool,
    tqdm.tqdm(total=len(items), desc=f'Checking {noun}', disable=None) as bar,
  ):
    for first in range(0, len(items), _CHECKED_TOGETHER):
      some = items[first : first + _CHECKED_TOGETHER]
      yield from zip(some, pool.map(check, some), strict=True)
      bar.update(len(some))


def warn_of_skipped(
  skipped: Mapping[str, str], why: str, all_of_them: str, report: Any
) -> None:
  """Warns of examples {name: reason} out of `all_of_them`, '30 images in /a'.

  It names some of them, and `report`, the file that lists all.
  """
  if skipped:
    some = [f'{n} ({reason})' for n, reason in list(skipped.items())[:3]]
    logging.warning(
      'Skipped %d of %s as %s: %s (all are listed in %s)',
      *(len(skipped), all_of_them, why, '; '.join(some), report),
    )


class OtherAxes(ValueError):
  """An error for an array with other axes or channels than the run's."""


class TooShort(ValueError):
  """An error for an array that is smaller than the example."""


class UnreadableKind(ValueError):
  """An intact file of a kind that is not read; the message has a remedy."""


class NoData(ValueError):
  """An error for an example with too much no data; any number is skipped."""


class PartOfSet(ValueError):
  """An error for a file that is part of an example that another stands for."""
