"""Several processes that train one network together, as on a TPU pod.

Owns how they find each other, agree, and end: what one of them alone finds out
(a mistake, a damaged checkpoint), all of them act on at the same point, because
each of their updates waits for all. SIGTERM is the business of `preemption.py`.
In a process by itself everything here is plain Python that asks nobody.
"""

import contextlib
import dataclasses
import importlib.util
import json
import os
import secrets
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from vaegan_jax.errors import UserError

_START_SECONDS = 300  # For all processes to be there.
_HEARTBEAT_SECONDS = 30  # Until one that died is missed, and all others end.
_LAST_WORDS_SECONDS = 2  # For the others to tell the same mistake.
_PROBE_SECONDS = 5  # For a network disk to show a file to another machine.
_FLAGS = '--coordinator=10.0.0.1:1234 --num_processes=2 --process_id=0'
# What each launcher that JAX knows says of the number of its processes.
_LAUNCHERS = {'slurm': 'SLURM_STEP_NUM_TASKS', 'ompi': 'OMPI_COMM_WORLD_SIZE'}


@dataclasses.dataclass(frozen=True)
class Processes:
  """Where this process stands among all, as its flags say.

  Attributes:
    coordinator: 'host:port' of process 0, free to be listened on.
    num_processes: how many there are.
    process_id: which this is, from 0.
  """

  coordinator: str
  num_processes: int
  process_id: int


# How it begins.


def parse_flags(
  coordinator: str, num_processes: str, process_id: str
) -> Processes | None:
  """Checks the three flags that connect processes.

  Args:
    coordinator: 'host:port'; '' takes JAX_COORDINATOR_ADDRESS, as JAX does.
    num_processes: a number, or ''.
    process_id: a number, or ''.

  Returns:
    What they say; None without any of them.

  Raises:
    UserError: some are missing, or one is wrong.
  """
  if not (coordinator or num_processes or process_id) and _launched_by():
    return None  # JAX reads the variable itself.
  coordinator = coordinator or os.environ.get('JAX_COORDINATOR_ADDRESS', '')
  given = (coordinator, num_processes, process_id)
  if not any(given):
    return None
  names = ('--coordinator', '--num_processes', '--process_id')
  missing = [n for n, value in zip(names, given, strict=True) if not value]
  if missing:
    raise UserError(
      f'{" and ".join(missing)} must be given too, because several processes '
      f'are connected by all three: for example, {_FLAGS}'
    )
  host, _, port = coordinator.rpartition(':')
  if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
    raise UserError(
      f'--coordinator={coordinator} must be a host and a port from 1 to 65535: '
      'for example, --coordinator=10.0.0.1:1234'
    )
  if not num_processes.isdecimal() or not int(num_processes):
    raise UserError(
      f'--num_processes={num_processes} must be a whole number from 1: for '
      'example, --num_processes=2'
    )
  if not process_id.isdecimal() or int(process_id) >= int(num_processes):
    raise UserError(
      f'--process_id={process_id} must be from 0 to '
      f'{int(num_processes) - 1}, one less than --num_processes='
      f'{num_processes}: for example, --process_id=0'
    )
  return Processes(coordinator, int(num_processes), int(process_id))


def initialize(processes: Processes | None) -> None:
  """Connects this process to the others, if there are any.

  Call it before anything uses a device. Without flags JAX finds the others by
  itself on a Cloud TPU, and under SLURM and Open MPI where these started more
  than one; anywhere else nothing happens.

  Args:
    processes: from `parse_flags`.

  Raises:
    UserError: they could not be connected, or have not as many devices each.
      If others are missing, the process ends with that sentence and status 1.
  """
  method = _launched_by()
  if processes:
    if processes.process_id == 0:
      _check_port(processes.coordinator)
    where = dataclasses.asdict(processes)
    where['coordinator_address'] = where.pop('coordinator')
    method = 'deactivate'
  elif method:
    where = {}
  else:
    return
  timer = threading.Timer(_START_SECONDS, _give_up_waiting)
  timer.daemon = True
  timer.start()
  try:
    jax.distributed.initialize(
      **where,
      cluster_detection_method=None if method == 'tpu' else method,
      # Its own end is an abort with a page of C++: the timer comes first.
      initialization_timeout=_START_SECONDS + 60,
      heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
      shutdown_timeout_seconds=_HEARTBEAT_SECONDS,
    )
  except (RuntimeError, ValueError) as error:
    raise UserError(
      f'The processes could not be connected ({" ".join(str(error).split())}): '
      f'say where they are, for example, with {_FLAGS}'
    ) from error
  finally:
    timer.cancel()
  here, all_devices = jax.local_device_count(), jax.device_count()
  if here * jax.process_count() != all_devices:
    raise UserError(
      f'Process {jax.process_index()} has {here} of all {all_devices} devices, '
      f'but each of {jax.process_count()} processes must have as many: start '
      'them on equal machines, or choose with, for example, '
      'JAX_LOCAL_DEVICE_IDS=0,1'
    )


def _check_port(coordinator: str) -> None:
  """Tells a port that cannot be listened on: JAX dies of it."""
  try:
    with socket.socket() as sock:
      sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      sock.bind(('', int(coordinator.rpartition(':')[2])))
  except OSError as error:
    raise UserError(
      f'--coordinator={coordinator} names a port that process 0 cannot listen '
      f'on ({error.strerror}): name another one for all processes, such as '
      '--coordinator=10.0.0.1:1235'
    ) from error


def _launched_by() -> str | None:
  """What started several processes, by JAX's name for it; 'tpu': a TPU did."""
  for method, variable in _LAUNCHERS.items():
    count = os.environ.get(variable, '')
    if count.isdecimal() and int(count) > 1:
      return method
  # JAX sets the variable, when imported, where it finds no chips of a TPU.
  on_tpu = 'TPU_SKIP_MDS_QUERY' not in os.environ or any(
    ',' in os.environ.get(f'TPU_{name}', '')
    for name in ('PROCESS_ADDRESSES', 'WORKER_HOSTNAMES')
  )
  on_tpu = on_tpu and jax.config.jax_platforms != 'cpu'
  return 'tpu' if on_tpu and importlib.util.find_spec('libtpu') else None


def _give_up_waiting() -> None:
  print(
    f'error: Not all processes were there after {_START_SECONDS} s: start all '
    'of them at once, with the same --coordinator, which every machine must '
    f'reach, and the same --num_processes: for example, {_FLAGS}',
    file=sys.stderr,
    flush=True,
  )
  os._exit(1)


def is_first() -> bool:
  """Whether this is process 0, which alone writes and prints."""
  return jax.process_index() == 0


@contextlib.contextmanager
def only_first_prints() -> Iterator[None]:
  """Drops what the other processes write to stdout; their errors are kept."""
  with contextlib.ExitStack() as stack:
    if not is_first():
      nowhere = stack.enter_context(open(os.devnull, 'w'))
      stack.enter_context(contextlib.redirect_stdout(nowhere))
    yield


# How they agree.


def every_process(ok: bool) -> bool:
  """Returns whether `ok` holds in all processes, which wait for each other."""
  if jax.process_count() == 1:
    return ok
  return bool(np.all(multihost_utils.process_allgather(np.array(ok))))


def gather(text: str) -> list[str]:
  """Returns the texts of all processes, by their index; they wait for it."""
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
  """A context whose UserErrors are raised in all processes, at its end.

  Within it the processes must not wait for each other: one that fails would
  not come.
  """
  mistake = None
  try:
    yield
  except UserError as error:
    if jax.process_count() == 1:
      raise
    mistake = error
  told = gather(str(mistake or ''))
  if mistake:
    raise mistake
  for index, message in enumerate(told):
    if message:
      raise UserError(f'Process {index} ended: {message}')


def from_first(compute: Callable[[], Any]) -> Any:
  """Returns what process 0 computes.

  Args:
    compute: called there alone; what it returns must be JSON.

  Raises:
    UserError: `compute` raised it.
  """
  if jax.process_count() == 1:
    return compute()
  with together():
    value = compute() if is_first() else None
  return json.loads(gather(json.dumps(value))[0])


@contextlib.contextmanager
def after_first() -> Iterator[None]:
  """A context that the others enter when process 0 has left it.

  For what is made once and then found, such as a prepared dataset.
  """
  if not is_first():
    every_process(True)
  try:
    yield
  finally:
    if is_first():
      every_process(True)


def check_same(values: Mapping[str, Any], remedy: str) -> None:
  """Tells what the processes do not have in common.

  Args:
    values: name -> what JSON can hold.
    remedy: the end of the sentence: what to do, with an example.

  Raises:
    UserError: a value differs; in every process.
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
  """Makes sure that all processes see the same folder.

  Args:
    folder: local or `gs://...`; made if need be.

  Raises:
    UserError: one does not see what process 0 writes there.
  """
  if jax.process_count() == 1:
    return
  name = from_first(lambda: _write_probe(folder))
  probe = epath.Path(folder) / name
  deadline = time.monotonic() + _PROBE_SECONDS
  while not (seen := probe.exists()) and time.monotonic() < deadline:
    time.sleep(0.1)
  blind = [i for i, text in enumerate(gather('' if seen else '!')) if text]
  if is_first():
    probe.unlink(missing_ok=True)
  if blind:
    raise UserError(
      f'--workdir={folder} is not the same folder in process 0 and in '
      f'{", ".join(map(str, blind))}: name one that all machines share, such '
      'as --workdir=gs://bucket/runs/first'
    )


def _write_probe(folder: str) -> str:
  name = f'.probe-{secrets.token_hex(8)}'
  try:
    epath.Path(folder).mkdir(parents=True, exist_ok=True)
    (epath.Path(folder) / name).write_text('')
  except OSError as error:
    raise UserError(
      f'--workdir={folder} cannot be written ({error}): name another, such as '
      '--workdir=runs/first'
    ) from error
  return name


# How it ends.


def leave(status: int, error: Exception | None = None) -> None:
  """Ends this process now if there are others; they end by that.

  Python's own exit would wait for them, and they for this one's next update.

  Args:
    status: the exit status.
    error: to be shown with its traceback, if it is no user's mistake.
  """
  if not jax.distributed.is_initialized() or jax.process_count() == 1:
    return
  if error:
    traceback.print_exception(error)
    print(
      f'Process {jax.process_index()} ends, because of the error above, and '
      'the others with it.',
      file=sys.stderr,
    )
  sys.stdout.flush()
  sys.stderr.flush()
  logging.flush()
  if is_first():  # The others abort at once when it has gone.
    time.sleep(_LAST_WORDS_SECONDS)
  os._exit(status)
