"""Two processes that train together, and other numbers of devices."""

import functools
import time

from tests.faults.damage import METHODS, needed_file
from tests.faults.lab import Lab, check, expect_status, slowly, wait_for_step
from tests.processes import saved_steps
from vaegan_jax.runtime import checkpoints


def terminate_one(lab: Lab) -> tuple[str, str]:
  """Sends SIGTERM to one process, then to the other."""
  lab.same(lab.undisturbed)
  workdir = lab.new('two_stopped')
  steps = []
  for index in (1, 0):
    processes = lab.start_two(workdir, prepare=(slowly, slowly))
    wait_for_step(workdir, (steps[-1] if steps else 0) + 7)
    processes[index].terminate()
    expect_status(processes, 75)
    steps.append(saved_steps(workdir)[-1])
    check(f'stopped after step {steps[-1]}' in processes[0].out, 'not reported')
  lab.run_two(workdir)
  lab.same(workdir, lab.undisturbed_two)
  return '2 runs', f'both ended with 75, steps {steps} saved; same bits'


def kill_one(lab: Lab) -> tuple[str, str]:
  """Sends SIGKILL to the second process, then to the first (coordinator)."""
  workdir = lab.new('two_killed')
  seconds = []
  for index in (1, 0):
    processes = lab.start_two(workdir, prepare=(slowly, slowly))
    wait_for_step(workdir, 7 if index else 20)
    processes[index].kill()
    start = time.monotonic()
    status = processes[1 - index].wait(60)
    seconds.append(time.monotonic() - start)
    check(status not in (0, 75), f'the survivor ended with {status}')
    check(seconds[-1] < 35, f'the survivor took {seconds[-1]:.0f} s')
  lab.run_two(workdir)
  lab.same(workdir, lab.undisturbed_two)
  took = ' and '.join(f'{second:.0f} s' for second in seconds)
  return '2 runs', f'the survivor ended after {took}; same bits'


def damage_the_newest(lab: Lab) -> tuple[str, str]:
  """Damages the newest checkpoint; both must use the one before."""
  for method in ('cut in half', 'one byte flipped'):
    workdir = lab.copy('two_damaged', lab.undisturbed_two)
    newest = workdir / 'checkpoints' / str(lab.last_step)
    METHODS[method](needed_file(newest))
    first, _ = lab.run_two(workdir)
    check(f'Resuming after step {lab.last_step - 2};' in first.out, first.out)
    check(
      (workdir / 'quarantine' / str(lab.last_step)).is_dir(), 'not quarantined'
    )
    lab.same(workdir, lab.undisturbed_two)
  return '2 runs', 'both used the same earlier step; same bits'


def _cannot_read(step: int) -> None:
  load = checkpoints.load_checkpoint

  def fail(path, **options):
    return None if path.name == str(step) else load(path, **options)

  checkpoints.load_checkpoint = fail


def fail_one_read(lab: Lab) -> tuple[str, str]:
  """Makes one of the two fail to read the newest checkpoint."""
  workdir = lab.copy('two_unreadable', lab.undisturbed_two)
  blind = functools.partial(_cannot_read, lab.last_step)
  first, _ = lab.run_two(workdir, prepare=(None, blind))
  check(f'Resuming after step {lab.last_step - 2};' in first.out, first.out)
  lab.same(workdir, lab.undisturbed_two)
  return '1 run', 'both used the same earlier step; same bits'


def move(lab: Lab) -> tuple[str, str]:
  """Resumes with other numbers of devices and of processes."""
  middle = lab.last_step // 2
  half = f'--config.num_train_steps={middle}'
  lab.run(four := lab.new('on_four'), half, devices=4)
  for devices in (1, 2, 8):
    workdir = lab.copy('moved', four)
    process = lab.run(workdir, devices=devices)
    check(f'Resuming after step {middle};' in process.out, process.out)
    lab.close(workdir)
  lab.run_two(two := lab.new('on_two'), half)
  lab.run(workdir := lab.copy('moved', two))
  lab.close(workdir)
  lab.run_two(workdir := lab.copy('moved', four))
  lab.close(workdir)
  return (
    '4 to 1, 2, 8 devices; 2 to 1 and 1 to 2 processes',
    'continued; all logged values agree to 1e-5',
  )
