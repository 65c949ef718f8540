"""The start of several processes, and their end.

All must start, and one that fails ends the others. Their agreement in between
is in `distributed.py`, and SIGTERM in `preemption.py`.
"""

import contextlib
import importlib.util
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from absl import logging

from vaegan_jax.errors import UserError
from vaegan_jax.runtime.distributed import is_first
from vaegan_jax.runtime.preemption import INTERRUPTED

_START_SECONDS = 300  # Until all processes must have started.
_HEARTBEAT_SECONDS = 30  # Until a dead process is noticed and the others end.
_REPORT_SECONDS = 2  # For the others to report the same error.
_FLAGS = '--coordinator=10.0.0.1:1234 --num_processes=2 --process_id=0'
_COMPILER = 'jax._src.compiler'  # Of JAX 0.10 to 0.12.
# JAX's name of a launcher -> variable with its number of processes.
_LAUNCHERS = {'slurm': 'SLURM_STEP_NUM_TASKS', 'ompi': 'OMPI_COMM_WORLD_SIZE'}


def initialize(
  coordinator: str = '', num_processes: int = 0, process_id: int = 0
) -> None:
  """Connects this process to the others, if there are any.

  Call it before anything uses a device. Without arguments, JAX finds the others
  on a Cloud TPU, and under SLURM and Open MPI if these started more than one.
  Anywhere else nothing happens.

  Args:
    coordinator: 'host:port' of process 0, a free port; '': none.
    num_processes, process_id: how many there are, and this one's index.

  Raises:
    UserError: they could not be connected, or have different numbers of
      devices. If some never start, the process ends with status 1.
  """
  if coordinator:
    if process_id == 0:
      _check_port(coordinator)
    method = 'deactivate'
    where = {
      'coordinator_address': coordinator,
      'num_processes': num_processes,
      'process_id': process_id,
    }
  else:
    method, where = launched_by(), {}
  if method:
    _connect(method, where)


def _connect(method: str, where: Mapping[str, Any]) -> None:
  """Waits for the others, and checks that all have as many devices."""
  timer = threading.Timer(_START_SECONDS, _give_up_waiting)
  timer.daemon = True
  timer.start()
  try:
    jax.distributed.initialize(
      **where,
      cluster_detection_method=None if method == 'tpu' else method,
      # Its own timeout aborts with a page of C++: the timer comes first.
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
  """Checks that the port is free: otherwise JAX aborts."""
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


def launched_by() -> str | None:
  """Returns JAX's name of what started several processes, or 'tpu', or None."""
  for method, variable in _LAUNCHERS.items():
    count = os.environ.get(variable, '')
    if count.isdecimal() and int(count) > 1:
      return method
  # JAX sets this variable when it is imported where there is no TPU.
  on_tpu = 'TPU_SKIP_MDS_QUERY' not in os.environ or any(
    ',' in os.environ.get(f'TPU_{name}', '')
    for name in ('PROCESS_ADDRESSES', 'WORKER_HOSTNAMES')
  )
  on_tpu = on_tpu and jax.config.jax_platforms != 'cpu'
  return 'tpu' if on_tpu and importlib.util.find_spec('libtpu') else None


def _give_up_waiting() -> None:
  print(
    f'error: Not all processes started within {_START_SECONDS} s: start all of '
    'them at the same time, with the same --coordinator, which every machine '
    f'must reach, and the same --num_processes: for example, {_FLAGS}',
    file=sys.stderr,
    flush=True,
  )
  os._exit(1)  # The main thread is in JAX's C++, which raises nothing.


@contextlib.contextmanager
def only_first_prints() -> Iterator[None]:
  """Drops the stdout of all processes but the first; stderr is kept."""
  with contextlib.ExitStack() as stack:
    if not is_first():
      nowhere = stack.enter_context(open(os.devnull, 'w'))
      stack.enter_context(contextlib.redirect_stdout(nowhere))
    yield


@contextlib.contextmanager
def ending_interrupted_libraries() -> Iterator[None]:
  """Ends the process at once if a signal interrupted an import or compilation.

  Both may crash when Python ends: an import of TensorFlow, for example, and a
  compilation, because it goes on in a thread. Otherwise Python ends as usual.
  """
  try:
    yield
  except (SystemExit, KeyboardInterrupt) as error:
    if jax.distributed.is_initialized() or not _is_in_library(error):
      raise
    _flush()
    os._exit(error.code if isinstance(error, SystemExit) else 130)


def _is_in_library(error: BaseException | None) -> bool:
  """Returns whether a signal's exception was raised in one of those two."""
  while error:
    if isinstance(error, (SystemExit, KeyboardInterrupt)):
      for frame, _ in traceback.walk_tb(error.__traceback__):
        name = frame.f_globals.get('__name__')
        if name == _COMPILER:
          return True
        if frame.f_code.co_name == '<module>' and name != '__main__':
          return True
    error = error.__context__
  return False


def _flush() -> None:
  sys.stdout.flush()
  sys.stderr.flush()
  logging.flush()


@contextlib.contextmanager
def reporting_errors() -> Iterator[None]:
  """Prints a UserError as one line and exits with status 2."""
  try:
    yield
  except (UserError, KeyboardInterrupt) as error:
    mistake = isinstance(error, UserError)
    message = f'error: {error}' if mistake else 'Stopped by Ctrl-C.'
    status = 2 if mistake else INTERRUPTED
    print(message, file=sys.stderr)
    leave(status)
    sys.exit(status)
  except Exception as error:
    leave(1, error)
    raise


def leave(status: int, error: Exception | None = None) -> None:
  """Ends this process at once if there are others, and thereby ends those.

  Python's own end would wait for them, and they for this one's next update.
  """
  if not jax.distributed.is_initialized() or jax.process_count() == 1:
    return
  if error:
    traceback.print_exception(error)
    print(
      f'Process {jax.process_index()} ends because of the error above, and so '
      'do the others.',
      file=sys.stderr,
    )
  _flush()
  if is_first():  # The others abort as soon as it has ended.
    time.sleep(_REPORT_SECONDS)
  os._exit(status)
