"""Damages each file of a checkpoint in every way, and checks the recovery."""

import collections
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.faults.lab import Lab, check, snapshot


def _rewrite(change):
  return lambda path: path.write_bytes(change(path.read_bytes()))


def _flip(content: bytes) -> bytes:
  at = len(content) // 2
  return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


# Orbax writes arrays there. Files it has merged elsewhere remain unread.
_DATA = ('state/d/', 'state/ocdbt.process_0/d/')
METHODS = {
  'deleted': os.remove,
  'emptied': _rewrite(lambda content: b''),
  'cut in half': _rewrite(lambda content: content[: len(content) // 2]),
  'one byte flipped': _rewrite(_flip),
  'zeros': _rewrite(lambda content: bytes(len(content))),
}


def needed_file(checkpoint: Path) -> Path:
  """Returns a file of arrays that every restore reads.

  The largest file may hold only what Orbax has merged elsewhere.
  """
  (path,) = checkpoint.glob('state/d/*')
  return path


def cases(checkpoint: Path) -> Iterator[tuple[str, str]]:
  """Yields (file, method): each file relative to the checkpoint."""
  for path in sorted(checkpoint.rglob('*')):
    if path.is_file():
      for method in METHODS:
        yield str(path.relative_to(checkpoint)), method


def damage_each_file(lab: Lab) -> tuple[str, str]:
  """Damages one file of the newest checkpoint, and resumes."""
  every = list(cases(lab.undisturbed / 'checkpoints' / str(lab.last_step)))
  seen = collections.Counter()
  unread = collections.Counter()
  for index in lab.count(len(every), 'damaged file'):
    file, method = every[index]
    workdir = lab.copy('damaged')
    METHODS[method](workdir / 'checkpoints' / str(lab.last_step) / file)
    process = lab.run(workdir)
    aside = (workdir / 'quarantine' / str(lab.last_step)).is_dir()
    what = f'{file} {method}: {process.out}'
    if aside:
      check('is damaged' in process.err, f'not reported: {what}')
      check(f'Resuming after step {lab.last_step - 2};' in process.out, what)
    else:  # Restoring needs neither that file nor that byte.
      check(f'Nothing to do: step {lab.last_step}' in process.out, what)
      name = Path(file).name
      unread['data files' if file.startswith(_DATA) else name] += 1
    lab.same(workdir)  # Reads every leaf and compares its CRC32.
    seen[aside] += 1
  happened = f'{seen[True]} were detected, quarantined and the step before used'
  if unread:
    happened += (
      f'; {seen[False]} change nothing that is restored, and every leaf was '
      f'verified ({", ".join(f"{n} of {k}" for k, n in unread.items())})'
    )
  return f'{len(every)} cases', f'{happened}; same bits in the end'


def damage_whole_checkpoints(lab: Lab) -> tuple[str, str]:
  """Empties a checkpoint, removes `meta` or `state`, and damages two."""

  def empty(path):
    shutil.rmtree(path)
    path.mkdir()

  ways = {
    'emptied': empty,
    'without meta': lambda path: shutil.rmtree(path / 'meta'),
    'without state': lambda path: shutil.rmtree(path / 'state'),
    'an empty later one': lambda path: path.with_name('99').mkdir(),
  }
  for name, damage in ways.items():
    workdir = lab.copy('damaged')
    newest = workdir / 'checkpoints' / str(lab.last_step)
    damage(newest)
    process = lab.run(workdir)
    check((workdir / 'quarantine').is_dir(), f'{name}: {process.out}')
    lab.same(workdir)
  workdir = lab.copy('damaged')
  steps = sorted((workdir / 'checkpoints').iterdir(), key=lambda p: int(p.name))
  for path, damage in zip(
    steps[1:], (empty, ways['without meta']), strict=True
  ):
    damage(path)
  process = lab.run(workdir)
  check(f'Resuming after step {steps[0].name};' in process.out, process.out)
  lab.same(workdir)
  return f'{len(ways) + 1} cases', 'quarantined, an earlier one used; same bits'


def rename_checkpoints(lab: Lab) -> tuple[str, str]:
  """Renames the oldest to be the newest, and the newest to be the oldest."""
  lab.same(lab.undisturbed)
  last, before = lab.last_step, lab.last_step - 2
  renamed = {
    (last - 4, last + 99): f'Nothing to do: step {last}',
    (last, 1): f'Resuming after step {before};',
  }
  for (step, name), message in renamed.items():
    workdir = lab.copy('renamed')
    folder = workdir / 'checkpoints'
    (folder / str(step)).rename(folder / str(name))
    process = lab.run(workdir)
    check(message in process.out, f'{step} as {name}: {process.out}')
    check((workdir / 'quarantine' / str(name)).is_dir(), 'not quarantined')
    check(f'it holds step {step}' in process.err, process.err)
    lab.same(workdir)
  return (
    f'{len(renamed)} cases',
    'quarantined, and the newest of the others used and kept; same bits',
  )


def damage_all(lab: Lab) -> tuple[str, str]:
  """Damages every checkpoint; the run must report it and change nothing."""
  workdir = lab.copy('all_damaged')
  for path in (workdir / 'checkpoints').rglob('*'):
    if path.is_file():
      METHODS['zeros'](path)
  before = snapshot(workdir)
  for _ in range(2):
    lab.refused(workdir, 'does not begin afresh over them')
  check(snapshot(workdir) == before, 'the refused run has changed something')
  return '2 runs', 'refused with a message and status 2; nothing was changed'
