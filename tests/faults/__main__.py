"""Runs the suite and writes its table; the package shows the commands."""

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

# The processes of the runs import this file too, so its imports are few.

_COLUMNS = ('fault', 'what was done', 'how often', 'what happened', 'ok')
_EPILOG = 'The exit status is 1 if anything was lost.'


def _parse():
  parser = argparse.ArgumentParser('tests.faults', epilog=_EPILOG)
  parser.add_argument(
    '--rows', help='names, separated by commas (default: all)'
  )
  parser.add_argument('--kills', type=int, default=100, help='default: 100')
  parser.add_argument(
    '--list', action='store_true', help='list the rows and exit'
  )
  parser.add_argument(
    '--output',
    type=Path,
    help='file.md for the table; file.json is written beside it',
  )
  parser.add_argument(
    '--folder',
    type=Path,
    help='folder to keep; an interrupted suite resumes its kills',
  )
  arguments = parser.parse_args()
  if arguments.kills < 1:
    parser.error('--kills must be at least 1')
  return parser, arguments


def main() -> int:
  """Returns the exit status: 1 if anything was lost."""
  parser, arguments = _parse()
  with tempfile.TemporaryDirectory() as temporary:
    folder = (arguments.folder or Path(temporary)).resolve()
    os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(folder / 'kept'))
    from tests.faults.lab import Lab
    from tests.faults.rows import create_rows

    rows = create_rows(arguments.kills)
    if arguments.list:
      print('\n'.join(f'{name:20} {row.fault}' for name, row in rows.items()))
      return 0
    names = arguments.rows.split(',') if arguments.rows else list(rows)
    if unknown := set(names) - set(rows):
      parser.error(f'--rows: no {unknown}; there are {", ".join(rows)}')
    lab, results = Lab(folder), []
    for index, name in enumerate(names):
      print(
        f'[{index + 1}/{len(names)}] {name}: {rows[name].fault}', flush=True
      )
      results.append({'name': name} | _do(rows[name], lab))
      _write(results, arguments.output)
  print(_table(results))
  return int(any(result['ok'] == 'NO' for result in results))


def _do(row, lab) -> dict:
  """Runs one row and returns its line of the table."""
  from tests.faults.lab import Loss, Skipped

  start = time.monotonic()
  times, ok = '', 'NO'
  try:
    times, happened = row.do(lab)
    ok = 'yes'
  except Skipped as error:
    happened, ok = f'skipped: {error}', 'skipped'
  except Loss as error:
    happened = f'LOST: {error}'
  except Exception as error:  # The other rows still run.
    traceback.print_exc()
    happened = f'FAILED: {type(error).__name__}: {error}'
  seconds = round(time.monotonic() - start)
  print(f'  {ok}, {times}: {happened} ({seconds} s)', flush=True)
  values = (row.fault, row.done, times, happened, ok)
  return dict(zip(_COLUMNS, values, strict=True)) | {'seconds': seconds}


def _table(results) -> str:
  lines = [_COLUMNS, ['---'] * len(_COLUMNS)]
  lines += [[result[column] for column in _COLUMNS] for result in results]
  clean = (
    [' '.join(cell.split()).replace('|', r'\|')[:1000] for cell in line]
    for line in lines
  )
  return '\n'.join(f'| {" | ".join(line)} |' for line in clean)


def _write(results, output) -> None:
  """Writes the table and the JSON."""
  if not output:
    return
  import jax

  output.parent.mkdir(parents=True, exist_ok=True)
  output.write_text(_table(results) + '\n')
  about = {
    'time': time.strftime('%Y-%m-%d %H:%M:%S'),
    'python': sys.version.split()[0],
    'jax': jax.__version__,
    'cores': os.cpu_count(),
  }
  content = json.dumps({'about': about, 'rows': results}, indent=2)
  output.with_suffix('.json').write_text(content + '\n')


if __name__ == '__main__':
  from tests.processes import in_full

  in_full()
  sys.exit(main())
