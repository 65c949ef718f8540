"""Runs that are killed or stopped at random moments and then resumed."""

import collections
import functools
import json
import re
import signal
import time

import numpy as np

from tests.faults.lab import (
  Lab,
  check,
  expect_status,
  use_cache,
  wait_for_step,
)
from tests.processes import read_rows, saved_steps


def kill_randomly(lab: Lab, kills: int) -> tuple[str, str]:
  """Kills runs with SIGKILL `kills` times in total, every second run twice.

  Half of the moments are uniform over the duration of a run, and half over its
  steps. The outcome of every run is appended to `kills.jsonl`, from which an
  interrupted suite resumes.
  """
  lab.same(lab.undisturbed)
  path = lab.folder / 'kills.jsonl'
  lines = path.read_text().splitlines() if path.exists() else []
  moments = [moment for line in lines for moment in json.loads(line)]
  counter = lab.count(kills - len(moments), 'kill')
  trial = len(lines)
  while len(moments) < kills:
    wanted = min(1 + trial % 2, kills - len(moments))
    done = kill_and_resume(lab, f'killed_{trial}', wanted, trial, counter)
    moments += done
    with path.open('a') as file:
      file.write(json.dumps(done) + '\n')
    trial += 1
  counts = ', '.join(
    f'{moments.count(moment)} while {moment}'
    for moment in ('starting', 'compiling', 'training', 'saving', 'ending')
  )
  return (
    f'{len(moments)} kills of {trial} runs',
    f'{counts}; no checkpoint lost, all runs ended with the same bits',
  )


def kill_and_resume(lab, name, kills, seed, counter) -> list[str]:
  """Kills one run several times, resumes it to its end, returns the phases.

  Args:
    lab: the lab, whose undisturbed run the result must equal.
    name: name of the workdir.
    kills: number of kills.
    seed: seed of the random moments.
    counter: iterator that advances with every kill.

  Raises:
    Loss: the result differs, or a kill lost a finished checkpoint.
  """
  rng = np.random.default_rng(seed)
  workdir = lab.new(name)
  moments = []
  while len(moments) < kills:
    before, unfinished = _newest(workdir), _unfinished(workdir)
    process = lab.start(workdir)
    _wait_for_a_moment(lab, workdir, rng)
    status = process.kill()
    check(status in (0, -signal.SIGKILL), f'exit status {status}')
    if status == 0:  # The run had already ended.
      lab.same(workdir)
      workdir = lab.new(name)
      continue
    _check_resumed(process, before)
    moments.append(_moment(lab, process, _unfinished(workdir) - unfinished))
    next(counter, None)
    print(f'    while {moments[-1]}, at {_newest(workdir)}', flush=True)
  before = _newest(workdir)
  _check_resumed(lab.run(workdir), before)
  lab.same(workdir)
  check(not (workdir / 'quarantine').exists(), 'a checkpoint was damaged')
  lab.new(name)
  return moments


def _wait_for_a_moment(lab, workdir, rng) -> None:
  """Waits for a random time or, equally often, for a random step.

  Random times alone would hit few saves on a busy machine.
  """
  rows = read_rows(workdir)
  recorded = rows[-1]['step'] if rows else 0
  if rng.integers(2) or recorded == lab.last_step:
    time.sleep(rng.uniform(0, lab.seconds))
  else:
    wait_for_step(workdir, rng.integers(recorded + 1, lab.last_step + 1))
    time.sleep(rng.uniform(0, 0.1))


def _newest(workdir) -> int:
  return max(saved_steps(workdir), default=0)


def _unfinished(workdir) -> set:
  return set(workdir.glob('checkpoints/*-tmp*'))


def _moment(lab, process, unfinished) -> str:
  """Returns the phase of a process, from its output and its files."""
  if 'compiling takes a moment' not in process.out:
    return 'starting'
  if not re.search(r'^step \d', process.out, re.MULTILINE):
    return 'compiling'
  if unfinished:
    return 'saving'
  return 'ending' if f'step {lab.last_step}/' in process.out else 'training'


def _check_resumed(process, newest: int) -> None:
  """Checks that a process began at the newest saved step."""
  began = re.search(
    r'(Resuming after|Nothing to do:) step (\d+)|Starting;', process.out
  )
  if began:  # Otherwise it was killed before it printed that.
    step = int(began[2] or 0)
    check(step == newest, f'it began at {step} and not at {newest}')


def terminate_randomly(lab: Lab) -> tuple[str, str]:
  """Sends SIGTERM at random moments; the last finished step must be saved."""
  lab.same(lab.undisturbed)
  rng = np.random.default_rng(1)
  steps = []
  for _ in lab.count(8, 'SIGTERM'):
    workdir = lab.new('stopped')
    process = lab.start(workdir)
    _wait_for_a_moment(lab, workdir, rng)
    process.terminate()
    # -15: it was still importing. 0: it had ended.
    expect_status([process], 75, 0, -signal.SIGTERM)
    found = re.search(r'SIGTERM: stopped after step (\d+)', process.out)
    if found:
      step = int(found[1])
      check(_newest(workdir) == step, f'{step} was not saved')
      check(read_rows(workdir)[-1]['step'] == step, 'the record is not as long')
      steps.append(step)
    lab.run(workdir)
    lab.same(workdir)
  check(steps, 'no run was stopped while it trained')
  saved = ', '.join(map(str, sorted(steps)))
  return (
    '8 runs',
    f'{len(steps)} were training and saved the last finished step ({saved}), '
    'the others had not begun or had ended; same bits',
  )


def interrupt_randomly(lab: Lab, times: int) -> tuple[str, str]:
  """Sends Ctrl-C at random moments, and resumes until a run has ended.

  Every fifth signal is SIGHUP, as of a closed terminal. Every seventh is
  followed by a second Ctrl-C.
  """
  lab.same(lab.undisturbed)
  rng = np.random.default_rng(3)
  workdir = lab.new('interrupted')
  seen = collections.Counter()
  for index in lab.count(times, 'Ctrl-C'):
    if _newest(workdir) == lab.last_step:
      lab.run(workdir)  # The signal may have interrupted its last evaluation.
      lab.same(workdir)
      workdir = lab.new('interrupted')
    hung_up, twice = index % 5 == 4, index % 7 == 6
    process = lab.run_plain(workdir)
    _wait_for_a_moment(lab, workdir, rng)
    number = signal.SIGHUP if hung_up else signal.SIGINT
    process.send_signal(number)
    if twice:
      process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=600)
    status = process.returncode
    # Negative: Python itself was starting. 0: it had ended.
    check(status in (0, 75, 130, -number), f'exit status {status}: {out}')
    check('Fatal' not in out and 'rror:' not in out, out)
    found = re.search(r'(Ctrl-C|SIGHUP): stopped after step (\d+)', out)
    if found:
      step = int(found[2])
      check(_newest(workdir) == step, f'{step} was not saved')
      check(status == (75 if hung_up else 130), f'exit status {status}')
    seen[_moment_of(lab, out, status)] += 1
  lab.run(workdir)
  lab.same(workdir)
  check(seen['training'], f'no run was stopped while it trained: {seen}')
  counts = ', '.join(f'{n} while {moment}' for moment, n in seen.items())
  return (
    f'{times} signals',
    f'{counts}; the last finished step saved with status 130 (75 after '
    'SIGHUP), no crash, same bits',
  )


def _moment_of(lab, out, status) -> str:
  if status == 0:
    return 'ending'
  if 'compiling takes a moment' not in out:
    return 'starting'
  return (
    'training' if re.search(r'^step \d', out, re.MULTILINE) else 'compiling'
  )


def close_output(lab: Lab) -> tuple[str, str]:
  """Closes the output after three lines, as `| head -3` does."""
  lab.same(lab.undisturbed)
  process = lab.run_plain(workdir := lab.new('closed_output'))
  for _ in range(3):
    process.stdout.readline()
  process.stdout.close()
  status = process.wait(600)
  check(status == 0, f'exit status {status}')
  lab.same(workdir)
  return '1 run', 'ended with status 0; same bits and record'


def run_again(lab: Lab) -> tuple[str, str]:
  """Repeats the run, once with and once without the compilation cache."""
  lab.run(again := lab.new('again'))
  lab.same(again)
  cache = functools.partial(use_cache, lab.new('empty_cache'))
  lab.run(cold := lab.new('cold'), prepare=cache)
  lab.same(cold)
  return '3 runs', 'same bits and record, with cached and with new compilations'
