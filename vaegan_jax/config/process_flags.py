"""The flags that connect several processes: what they may say.

Connecting them is the business of `runtime/processes.py`.
"""

import dataclasses
import os

from vaegan_jax.errors import UserError

_EXAMPLE = '--coordinator=10.0.0.1:1234 --num_processes=2 --process_id=0'


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


def parse_flags(
  coordinator: str, num_processes: str, process_id: str, *, launched: bool
) -> Processes | None:
  """Checks the three flags that connect processes.

  Args:
    coordinator: 'host:port'; '' takes JAX_COORDINATOR_ADDRESS, as JAX does.
    num_processes: a number, or ''.
    process_id: a number, or ''.
    launched: whether a launcher started several processes, which JAX knows how
      to connect: then it reads that variable itself.

  Returns:
    What they say; None without any of them.

  Raises:
    UserError: some are missing, or one is wrong.
  """
  if not (coordinator or num_processes or process_id) and launched:
    return None
  coordinator = coordinator or os.environ.get('JAX_COORDINATOR_ADDRESS', '')
  given = (coordinator, num_processes, process_id)
  if not any(given):
    return None
  names = ('--coordinator', '--num_processes', '--process_id')
  missing = [n for n, value in zip(names, given, strict=True) if not value]
  if missing:
    raise UserError(
      f'{" and ".join(missing)} must be given too, because several processes '
      f'are connected by all three: for example, {_EXAMPLE}'
    )
  _check_values(coordinator, num_processes, process_id)
  return Processes(coordinator, int(num_processes), int(process_id))


def _check_values(
  coordinator: str, num_processes: str, process_id: str
) -> None:
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
