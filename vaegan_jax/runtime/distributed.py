"""Agreement between the processes that train one network, as on a TPU pod.

Every update waits for all processes. An error or a damaged checkpoint that only
one of them finds must therefore be handled by all at the same point.
`processes.py` starts and ends them. A single process communicates with nothing.
"""

import contextlib
import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from vaegan_jax.errors import UserError, unwritable

_PROBE_SECONDS = 5  # Until a network disk shows a file to another machine.


def is_first() -> bool:
  """Returns whether this is process 0, the only one that writes and prints."""
  return jax.process_index() == 0


def every_process(ok: bool) -> bool:
  """Returns whether `ok` is true in all processes; waits for all."""
  if jax.process_count() == 1:
    return ok
  return bool(np.all(multihost_utils.process_allgather(np.array(ok))))


def gather(text: str) -> list[str]:
  """Returns the texts of all processes, by their index; waits for all."""
  if jax.process_count() == 1:
    return [text]
  encoded = np.frombuffer(text.encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.array(encoded.size, np.int32))
  padded = np.zeros(int(sizes.max()) + 1, np.uint8)
  padded[: encoded.size] = encoded
  rows = multihost_utils.process_allgather(padded)
  return [
    row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)
  ]


@contextlib.contextmanager
def together() -> Iterator[None]:
  """Raises a UserError of one process in all, at the end of the context.

  Within the context, processes must not wait for each other: one that failed
  would never arrive.
  """
  own = None
  try:
    yield
  except UserError as error:
    if jax.process_count() == 1:
      raise
    own = error
  messages = gather(str(own or ''))
  if own:
    raise own
  for index, message in enumerate(messages):
    if message:
      raise UserError(f'Process {index} ended: {message}')


def from_first(compute: Callable[[], Any]) -> Any:
  """Returns the result of process 0, which alone computes it, in JSON types.

  Raises:
    UserError: from `compute`, in all processes.
  """
  if jax.process_count() == 1:
    return compute()
  with together():
    value = compute() if is_first() else None
  return json.loads(gather(json.dumps(value))[0])


@contextlib.contextmanager
def after_first() -> Iterator[None]:
  """Lets the others enter the context once process 0 has left it.

  For anything that is made once and then found, such as a prepared dataset.
  """
  if not is_first():
    every_process(True)
  try:
    yield
  finally:
    if is_first():
      every_process(True)


def check_same(values: Mapping[str, Any], remedy: str) -> None:
  """Checks that all processes have the same values {name: JSON types}.

  Raises:
    UserError: a value differs; raised in all processes, with the remedy.
  """
  texts = gather(json.dumps(values, sort_keys=True))
  first, *others = map(json.loads, texts)
  for index, other in enumerate(others, start=1):
    for name in sorted({*first, *other}):
      a, b = first.get(name), other.get(name)
      if a != b:
        raise UserError(
          f'{name} is {a!r} in process 0 and {b!r} in process {index}: {remedy}'
        )


def check_shared(folder: str) -> None:
  """Checks that all processes see the same folder, which is made if need be.

  Raises:
    UserError: one does not see a file that process 0 writes there.
  """
  if jax.process_count() == 1:
    return
  name = from_first(lambda: _write_probe(folder))
  probe = epath.Path(folder) / name
  deadline = time.monotonic() + _PROBE_SECONDS
  while not (seen := probe.exists()) and time.monotonic() < deadline:
    time.sleep(0.1)
  without = [i for i, text in enumerate(gather('' if seen else '!')) if text]
  if is_first():
    probe.unlink(missing_ok=True)
  if without:
    raise UserError(
      f'--workdir={folder} is not the same folder in process 0 and in '
      f'{", ".join(map(str, without))}: name one that all machines share, such '
      'as --workdir=gs://bucket/runs/first'
    )


def _write_probe(folder: str) -> str:
  name = f'.probe-{secrets.token_hex(8)}'
  try:
    epath.Path(folder).mkdir(parents=True, exist_ok=True)
    (epath.Path(folder) / name).write_text('')
  except OSError as error:
    raise unwritable(folder, error) from error
  return name
