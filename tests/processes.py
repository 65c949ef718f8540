"""Runs of main.py in processes of their own, for the tests.

They are forked from one that has imported JAX already. Unless `in_full` is
called, they leave out what takes long: TensorBoard, for which they would import
TensorFlow, the page of the run, and measuring the latents at the end.
"""

import atexit
import contextlib
import json
import logging
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import time
from pathlib import Path

import jax

import main
from tests.environment import (
  check_shapes_untraced,
  draw_initial_weights,
  environment,
  spare_collector,
)
from vaegan_jax.commands import train
from vaegan_jax.report.live import LivePage
from vaegan_jax.runtime import writers
from vaegan_jax.training import loop

MAIN = Path(main.__file__)
SERVER = multiprocessing.get_context('forkserver')
_PRELOADED = [__name__, 'vaegan_jax.commands.train']
SERVER.set_forkserver_preload(_PRELOADED)
_tensorboard_writer = writers._tensorboard_writer
_measure_finished = train.measure_finished
_write_page = LivePage.write
_in_full = False


class Process:
  """`python main.py <args>` with `devices` virtual devices."""

  def __init__(self, workdir, *args, devices=1, name=None, prepare=None):
    """Starts it.

    Args:
      workdir: of the run; its output is kept beside it.
      *args: its flags, which may name another workdir.
      devices: how many virtual ones it has.
      name: of the files beside the workdir; by default that of the workdir.
      prepare: called there first, to break something; a module's function.
    """
    log = workdir.with_name(name or workdir.name)
    self._out = log.with_suffix('.out')
    self._err = log.with_suffix('.err')
    for path in (self._out, self._err):
      path.write_text('')  # Not what the last process said.
    self._process = SERVER.Process(
      target=_become_main,
      args=(
        (f'--workdir={workdir}', *args),
        devices,
        self._out,
        self._err,
        _in_full,
        prepare,
      ),
    )
    self._process.start()

  @property
  def is_alive(self):
    return self._process.is_alive()

  @property
  def out(self):
    return self._out.read_text()

  @property
  def err(self):
    return self._err.read_text()

  def send_signal(self, number):
    os.kill(self._process.pid, number)

  def terminate(self):
    self.send_signal(signal.SIGTERM)

  def kill(self):
    self._process.kill()
    return self.wait()

  def wait(self, seconds=300):
    """Returns the exit status."""
    self._process.join(seconds)
    assert not self._process.is_alive(), self.out + self.err
    return self._process.exitcode


def start_two(workdir, *args, devices=2, prepare=(None, None)):
  """Starts two processes that train together, each prepared in its way."""
  with socket.socket() as sock:
    sock.bind(('127.0.0.1', 0))
    port = sock.getsockname()[1]
  return [
    Process(
      workdir,
      *args,
      f'--coordinator=127.0.0.1:{port}',
      '--num_processes=2',
      f'--process_id={index}',
      devices=devices,
      name=f'{workdir.name}_{index}',
      prepare=prepare[index],
    )
    for index in range(2)
  ]


def call_on_devices(number, function, *args):
  """Returns `function(*args)` of a process with this many virtual devices.

  Args:
    number: how many devices.
    function: a module's function.
    *args: its arguments, and its result, can be pickled.
  """
  receiver, sender = SERVER.Pipe(duplex=False)
  process = SERVER.Process(
    target=_send_result, args=(sender, number, function, args)
  )
  process.start()
  sender.close()
  try:
    return receiver.recv()
  except EOFError:
    raise ChildProcessError(f'{function.__name__} failed; see above') from None
  finally:
    process.join()


def _send_result(sender, number, function, args):
  _have_devices(number)
  sender.send(function(*args))


def _have_devices(number):
  """Gives this process, in which JAX has done nothing, virtual devices."""
  spare_collector()
  check_shapes_untraced()
  draw_initial_weights()
  os.environ.update(environment(number))
  jax.config.update('jax_platforms', 'cpu')  # It was read when imported.


def _become_main(args, devices, out, err, whole, prepare):
  for path, stream in ((out, sys.stdout), (err, sys.stderr)):
    with path.open('wb') as file:
      os.dup2(file.fileno(), stream.fileno())
  _have_devices(devices)
  logging.root.handlers.clear()  # Orbax, loaded before absl, has added one.
  heed_signals()
  if not whole:
    writers._tensorboard_writer = lambda _: None
    train.measure_finished = lambda *_: loop.DONE
    LivePage.write = lambda *_: None
  sys.argv = [str(MAIN), *args]
  if prepare:
    prepare()
  try:
    runpy.run_path(str(MAIN), run_name='__main__')
  finally:  # As Python does at its end, but multiprocessing does not.
    atexit._run_exitfuncs()


def in_full():
  """Lets the processes that are started from now on do everything."""
  global _in_full
  _in_full = True
  imported = ('tensorflow', 'clu.metric_writers')
  SERVER.set_forkserver_preload([*_PRELOADED, *imported])


def do_everything():
  """Prepares one process that leaves nothing out."""
  writers._tensorboard_writer = _tensorboard_writer
  train.measure_finished = _measure_finished
  LivePage.write = _write_page


def heed_signals():
  """Undoes what `nohup` and a shell's `&` do to the processes they start."""
  for number in (signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)


def read_rows(workdir):
  """The lines of the run's metrics that are whole by now."""
  path = workdir / 'metrics.jsonl'
  lines = path.read_bytes().splitlines() if path.exists() else []
  rows = []
  for line in lines:
    with contextlib.suppress(ValueError):  # Being written just now.
      rows.append(json.loads(line))
  return rows


def saved_steps(workdir):
  """The steps that have a checkpoint."""
  return sorted(int(path.name) for path in workdir.glob('checkpoints/*[0-9]'))


def crc32s(workdir, step):
  """The CRC32 of every leaf of a checkpoint."""
  meta = workdir / 'checkpoints' / str(step) / 'meta' / 'metadata'
  return json.loads(meta.read_text())['content']['crc32s']


def wait_for(condition):
  """Waits until `condition` holds."""
  deadline = time.monotonic() + 300
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.005)


def wait_for_step(workdir, step):
  """Waits until a step is in the record."""
  wait_for(lambda: (rows := read_rows(workdir)) and rows[-1]['step'] >= step)
