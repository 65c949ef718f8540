"""Two trainers with the same workdir."""

import json
import socket

from tests.faults.lab import Lab, check, expect_status, slowly, wait_for_step
from tests.processes import read_rows


def train_twice(lab: Lab) -> tuple[str, str]:
  """Starts a second trainer during a run, and another after a kill."""
  lab.same(lab.undisturbed)
  workdir = lab.new('shared')
  first = lab.start(workdir, prepare=slowly)
  wait_for_step(workdir, 3)
  holder = json.loads((workdir / 'lock').read_text())
  message = f'process {holder["pid"]} on {socket.gethostname()}'
  for index in range(2):
    lab.refused(workdir, message, name=f'refused_{index}')
  step = read_rows(workdir)[-1]['step']
  wait_for_step(workdir, step + 2)  # It still trains.
  first.kill()
  check((workdir / 'lock').exists(), 'the lock went with a killed process')
  process = lab.run(workdir)
  check('Resuming after step' in process.out, process.out)
  lab.same(workdir)
  check(not (workdir / 'lock').exists(), 'the lock outlived its run')
  return (
    '3 trainers',
    'the second refused with a message that names host and process; the lock '
    'of the killed one taken over at once; same bits',
  )


def leave_a_lock(lab: Lab) -> tuple[str, str]:
  """Leaves a lock that no process holds: a living process's, or garbage."""
  lab.same(lab.undisturbed)
  living = json.dumps({'host': socket.gethostname(), 'pid': 1})
  left = (living, '', '\0\0')
  for content in left:
    workdir = lab.new('left')
    workdir.mkdir()
    (workdir / 'lock').write_text(content)
    expect_status([lab.start(workdir)], 0)
    lab.same(workdir)
  return f'{len(left)} runs', 'taken over at once; same bits'
