"""Sets the clock back by a day, between two runs and within one.

The machine's own clock does not change. A preloaded library returns an earlier
time to the run's processes, C++ included, once a trigger file exists. The disk
keeps the true time, so all files appear to be from tomorrow.
"""

import shutil
import subprocess
import time
from pathlib import Path

from tests.faults.lab import Lab, Skipped, check, wait_for_step

_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long behind(void) {
  const char *file = getenv("CLOCK_SET_BACK");
  return file && access(file, F_OK) == 0 ? 86400 : 0;
}

int clock_gettime(clockid_t clock, struct timespec *out) {
  static int (*next)(clockid_t, struct timespec *);
  if (!next) next = dlsym(RTLD_NEXT, "clock_gettime");
  int status = next(clock, out);
  if (!status && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
    out->tv_sec -= behind();
  return status;
}

int gettimeofday(struct timeval *out, void *zone) {
  static int (*next)(struct timeval *, void *);
  if (!next) next = dlsym(RTLD_NEXT, "gettimeofday");
  int status = next(out, zone);
  if (!status) out->tv_sec -= behind();
  return status;
}

time_t time(time_t *out) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (out) *out = now.tv_sec;
  return now.tv_sec;
}
"""


def _compile(folder: Path) -> Path:
  folder.mkdir()
  library, source = folder / 'clock.so', folder / 'clock.c'
  source.write_text(_SOURCE)
  compiler = shutil.which('cc') or shutil.which('gcc') or shutil.which('clang')
  if not compiler:
    raise Skipped(
      'no C compiler is installed, which the substitute clock needs'
    )
  subprocess.run(
    [compiler, '-shared', '-fPIC', '-o', library, source, '-ldl'], check=True
  )
  return library


def set_back(lab: Lab) -> tuple[str, str]:
  """Sets the clock back in the middle of a run, and between two."""
  lab.same(lab.undisturbed)
  library = _compile(lab.new('clock'))
  trigger = library.with_name('set_back')
  variables = {'LD_PRELOAD': str(library), 'CLOCK_SET_BACK': str(trigger)}

  workdir = lab.new('set_back_within')
  trigger.unlink(missing_ok=True)
  process = lab.run_plain(workdir, **variables)
  wait_for_step(workdir, 5)
  trigger.touch()
  out, _ = process.communicate(timeout=600)
  check(process.returncode == 0, out)
  lab.same(workdir)

  workdir = lab.new('set_back_between')
  half = lab.last_step // 2
  lab.run(workdir, f'--config.num_train_steps={half}')
  process = lab.run_plain(workdir, **variables)
  out, _ = process.communicate(timeout=600)
  check(process.returncode == 0 and f'Resuming after step {half};' in out, out)
  lab.same(workdir)
  events = sorted(workdir.glob('events.out.tfevents.*'))
  times = [int(path.name.split('.')[3]) for path in events]
  check(min(times) < time.time() - 86000, 'the clock was not set back')
  return '2 runs', 'no times are compared; same bits and record'
