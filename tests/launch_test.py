"""Tests of the launch scripts, with recorders in place of their programs."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

LAUNCH = Path(__file__).parent.parent / 'launch'
SCRIPTS = sorted([*LAUNCH.glob('*.sh'), LAUNCH / 'slurm.sbatch'])
PLACE = ('--name=faces', '--zone=us-west4-a')
TYPE = '--accelerator_type=v5litepod-16'
WORKDIR = '--workdir=gs://bucket/runs/faces'
# Words that a shell changes unless they are quoted.
WORDS = ["it's", 'two  words', '$HOME', '`id`', '"', '*', '', 'a\nb', '\\', '~']

# Records its arguments and gives the first answer whose key they contain.
RECORDER = """#!/usr/bin/env -S "{python}" -IS
import json, pathlib, sys
folder = pathlib.Path({folder!r})
argv = [pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]
with open(folder / 'calls', 'a') as calls:
  calls.write(json.dumps(argv) + '\\n')
answers = json.loads((folder / 'answers').read_text())
for key, replies in answers.items():
  if key in ' '.join(argv) and replies:
    text, status = replies.pop(0)
    (folder / 'answers').write_text(json.dumps(answers))
    print(text, file=sys.stderr if status else sys.stdout)
    sys.exit(status)
"""


class Machine:
  """Copy of launch/ in a project, with recorders of the commands it calls."""

  def __init__(self, folder: Path):
    self.folder = folder
    self.root = folder / "it's a project"
    shutil.copytree(LAUNCH, self.root / 'launch')
    (self.root / 'main.py').touch()
    (folder / 'bin').mkdir()
    for name in ('gcloud', 'git', 'srun', 'scontrol', 'sleep', 'sudo'):
      self.record(folder / 'bin' / name)
    self.record(folder / 'bin' / 'systemctl')
    self.answer()

  def record(self, program: Path) -> None:
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(
      RECORDER.format(python=sys.executable, folder=str(self.folder))
    )
    program.chmod(0o755)

  def answer(self, **answers) -> None:
    """Sets {part of a command: [(its output, its status), ...]}."""
    (self.folder / 'answers').write_text(json.dumps(answers))

  def calls(self) -> list[list[str]]:
    """Returns the recorded commands and clears the record."""
    path = self.folder / 'calls'
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return [json.loads(line) for line in lines]

  def start(self, *command, **env) -> subprocess.Popen:
    path = f'{self.folder / "bin"}{os.pathsep}{os.environ["PATH"]}'
    return subprocess.Popen(
      ['bash', *map(str, command)],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      cwd=self.root,
      env={'PATH': path, 'HOME': str(self.folder)} | env,
    )

  def run(self, *command, **env) -> subprocess.CompletedProcess:
    process = self.start(*command, **env)
    output, error = process.communicate(timeout=60)
    return subprocess.CompletedProcess(
      command, process.returncode, output, error
    )

  def files(self) -> set[Path]:
    return set(self.root.rglob('*'))


@pytest.fixture
def machine(tmp_path):
  return Machine(tmp_path)


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda script: script.name)
def test_every_script_prints_help_and_does_nothing(script, machine):
  before = machine.files()
  result = machine.run(f'launch/{script.name}', '--help')
  assert result.returncode == 0
  assert f'launch/{script.name}' in result.stdout
  assert '#' not in result.stdout and 'set -' not in result.stdout
  assert not result.stderr and not machine.calls()
  assert machine.files() == before


@pytest.mark.parametrize(
  ('own', 'tunables'),
  [
    ('', 'glibc.malloc.hugetlb=1'),
    ('glibc.malloc.hugetlb=0', 'glibc.malloc.hugetlb=1:glibc.malloc.hugetlb=0'),
  ],
)
def test_local_runs_main_with_large_pages(own, tunables, machine):
  python = machine.root / '.venv' / 'bin' / 'python'
  python.parent.mkdir(parents=True)
  python.write_text("""#!/bin/sh
    case "$1" in */main.py) shift; printf '%s|' "$GLIBC_TUNABLES" "$@"; esac
  """)
  python.chmod(0o755)
  (machine.root / '.venv' / 'installed-before').touch()
  (machine.root / 'requirements.txt').touch()
  args = '--config=it is.py', '--workdir=run'
  result = machine.run('launch/local.sh', *args, GLIBC_TUNABLES=own)
  assert result.stdout == '|'.join((tunables, *args, ''))
  quick = machine.run('launch/local.sh', '--config.seed=1', GLIBC_TUNABLES=own)
  assert quick.stdout.count(f'{tunables}|--') == 3
  assert quick.stdout.count('--config.seed=1|') == 2


def test_shellcheck_reports_nothing():
  if not shutil.which('shellcheck'):
    pytest.skip('shellcheck is not installed')
  ci = LAUNCH.parent / '.ci' / 'run'
  result = subprocess.run(
    ['shellcheck', *SCRIPTS, ci], capture_output=True, text=True, check=False
  )
  assert not result.stdout + result.stderr


@pytest.mark.parametrize(
  ('arguments', 'expected'),
  [
    (
      ('create', *PLACE, '--accelerator_type=v4-32'),
      'gcloud compute tpus tpu-vm create faces --accelerator-type=v4-32 '
      '--version=tpu-ubuntu2204-base --zone=us-west4-a\n',
    ),
    (
      ('create', *PLACE, TYPE, '--spot', '--queued', '--project=p'),
      'gcloud compute tpus queued-resources create faces --node-id=faces '
      '--accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite '
      '--spot --zone=us-west4-a --project=p\n',
    ),
    (
      ('create', *PLACE, '--accelerator_type=v9-8', '--version=new'),
      'gcloud compute tpus tpu-vm create faces --accelerator-type=v9-8 '
      '--version=new --zone=us-west4-a\n',
    ),
    (
      ('delete', *PLACE, '--queued'),
      'gcloud compute tpus queued-resources delete faces --force '
      '--zone=us-west4-a\n',
    ),
    (
      ('run', *PLACE, WORKDIR, '--', "--config.data.path=it's"),
      'gcloud compute tpus tpu-vm ssh faces --worker=all '
      "'--command=vaegan_jax/launch/tpu_worker.sh start "
      r"--workdir=gs://bucket/runs/faces '\''--config.data.path=it'\''\'\'''\''"
      r"s'\''' --zone=us-west4-a"
      '\n',
    ),
  ],
)
def test_a_dry_run_prints_the_commands(arguments, expected, machine):
  verb, *rest = arguments
  result = machine.run('launch/tpu.sh', verb, '--dry_run', *rest)
  assert result.stdout == expected
  assert result.returncode == 0 and not result.stderr


@pytest.mark.parametrize('options', [(), ('--queued', '--spot', '--project=p')])
def test_a_dry_run_prints_the_commands_of_a_run_and_does_nothing(
  options, machine
):
  verbs = {
    'create': (TYPE,),
    'setup': (),
    'run': (WORKDIR, '--', *WORDS),
    'status': (),
    'logs': (),
    'stop': (),
    'delete': (),
  }
  describe = {'queued-resources describe': [('ACTIVE', 0)]}
  for verb, rest in verbs.items():
    arguments = ('launch/tpu.sh', verb, *PLACE, *options)
    before = machine.files()
    dry = machine.run(*arguments, '--dry_run', *rest)
    assert not machine.calls() and machine.files() == before
    machine.answer(**describe)
    assert machine.run(*arguments, *rest).returncode == 0
    done = [call for call in machine.calls() if 'status' not in call]
    machine.run('-euc', dry.stdout)
    assert machine.calls() == done and done, verb
    for call in done:  # The logs come from one machine.
      if {'ssh', 'scp'} & set(call):
        assert f'--worker={0 if verb == "logs" else "all"}' in call


def test_arguments_reach_main_unchanged(machine):
  machine.run('launch/tpu.sh', 'run', *PLACE, WORKDIR, '--', *WORDS)
  [[*_, command, _]] = machine.calls()
  # The shell of a machine reads the command in its user's home.
  (machine.folder / 'vaegan_jax').symlink_to(machine.root)
  machine.record(machine.root / '.venv/bin/python')
  machine.answer(systemctl=[('', 3)] * 2)
  script = f'cd; {command.removeprefix("--command=")}'
  assert machine.run('-c', script).returncode == 0
  [_, service] = machine.calls()
  assert service[:2] == ['sudo', 'systemd-run']
  assert f'--working-directory={machine.folder}/vaegan_jax' in service
  assert service[-2:] == ['bash', 'run.sh']
  assert machine.run('run.sh').returncode == 0
  assert machine.calls() == [['python', 'main.py', WORKDIR, *WORDS]]
  state = machine.run('launch/tpu_worker.sh', 'state')
  assert state.stdout == 'run: finished\n'


def test_a_second_run_is_refused_while_one_is_active(machine):
  result = machine.run('launch/tpu_worker.sh', 'start', WORKDIR)
  assert result.returncode == 1 and 'tpu.sh stop' in result.stderr
  assert [call[0] for call in machine.calls()] == ['systemctl']


@pytest.mark.parametrize(
  ('status', 'state'),
  [('75', 'none'), ('2', 'failed (status 2)'), (None, 'none')],
)
def test_a_machine_reports_the_end_of_its_run(status, state, machine):
  machine.answer(systemctl=[('', 3)])
  if status:
    (machine.root / 'exit_status').write_text(status)
  result = machine.run('launch/tpu_worker.sh', 'state')
  assert result.stdout == f'run: {state}\n'


WATCH = ('launch/tpu.sh', 'run', '--watch', *PLACE, TYPE, '--spot', WORKDIR)


def test_watch_finishes_a_preempted_run(machine):
  missing = ('ERROR: (gcloud) NOT_FOUND: Resource was not found\n- more', 1)
  machine.answer(
    **{
      'describe': [
        missing,
        ('CREATING', 0),
        ('READY', 0),
        ('READY', 0),
        ('no connection', 1),
        ('READY', 0),
        ('READY', 0),
        ('PREEMPTED', 0),
        missing,
        ('READY', 0),
        ('READY', 0),
      ],
      'tpu_worker.sh state': [
        ('run: none\nrun: none', 0),
        ('run: active\nrun: finished', 0),
        ('no connection', 255),
        ('', 0),
        ('run: none\nrun: none', 0),
        ('run: finished\nrun: finished', 0),
      ],
    }
  )
  result = machine.run(*WATCH, '--', 'a b')
  assert result.returncode == 0, result.stderr
  calls = machine.calls()
  names = [
    next(
      name
      for name in ('create', 'delete', 'scp', 'start', 'install', 'archive', '')
      if name in ' '.join(call)
    )
    for call in calls
    if call[0] != 'sleep' and 'status' not in call
  ]
  begun = ['create', 'scp', 'install', 'start']
  # The restarted run uses the commit of the first start.
  assert [name for name in names if name] == [
    *('archive', *begun),
    *('delete', *begun),
  ]
  starts = [call for call in calls if 'sh start' in ' '.join(call)]
  assert starts[0] == starts[1]


def test_watch_ends_when_the_run_fails(machine):
  failed = 'run: finished\nrun: failed (status 2)'
  machine.answer(describe=[('READY', 0)], state=[(failed, 0)])
  result = machine.run(*WATCH)
  assert result.returncode == 1 and 'status 2' in result.stderr
  assert 'scp' not in str(machine.calls())


@pytest.mark.parametrize(
  ('arguments', 'part'),
  [
    ((), "'' is not one of"),
    (('make',), "'make' is not one of create, setup, run"),
    (('create', *PLACE), '--accelerator_type is missing'),
    (
      ('create', *PLACE, '--accelerator_type=a100'),
      '--version=v2-alpha-tpuv6e',
    ),
    (('status', '--zone=z'), '--name= must be lower-case'),
    (('status', '--name=A b', '--zone=z'), '--name=A b must be lower-case'),
    (('status', '--name=a'), '--zone is missing'),
    (('run', *PLACE), '--workdir= must be in a bucket'),
    (('run', *PLACE, '--workdir=runs/a'), '--workdir=runs/a must be in a'),
    (('run', *PLACE, WORKDIR, '--config=x'), 'come after --'),
    (('stop', *PLACE, WORKDIR), 'are for run, not for stop'),
    (('run', *PLACE, '--watch', WORKDIR), '--accelerator_type is missing'),
  ],
)
def test_a_mistake_gives_one_sentence(arguments, part, machine):
  result = machine.run('launch/tpu.sh', *arguments)
  assert_mistake(result, part)
  assert not machine.calls()


def assert_mistake(result, part):
  assert result.returncode == 2 and not result.stdout
  [sentence] = result.stderr.splitlines()
  assert sentence.startswith('error: ') and part in sentence
  assert 'for example' in sentence


@pytest.mark.parametrize(
  ('statuses', 'runs', 'end'),
  [
    ([0], 1, 0),
    ([2], 1, 2),
    ([75, 75, 75, 75, 75, 0], 6, 0),
    ([1, 75, 0], 3, 0),
    ([75, 2], 2, 2),
    ([75, 130], 2, 130),
    ([1, 134, 1, 1, 0], 4, 1),
  ],
)
def test_a_command_restarts_only_where_that_helps(statuses, runs, end, machine):
  program = machine.root / 'main'
  machine.record(program)
  machine.answer(main=[('', status) for status in statuses])
  command = ('launch/restart.sh', '--status_file=status', program, *WORDS)
  result = machine.run(*command)
  assert result.returncode == end
  calls = [call for call in machine.calls() if call[0] == 'main']
  assert calls == [['main', *WORDS]] * runs
  assert (machine.root / 'status').read_text() == f'{end}\n'


def test_signals_are_passed_on_and_end_the_restarts(machine):
  # It saves for a while, as main.py does, and gets a second signal meanwhile.
  saving = (
    'trap "read -t 1 <> <(:); exit 75" TERM; echo ready; while :; do :; done'
  )
  process = machine.start('launch/restart.sh', 'bash', '-c', saving)
  assert process.stdout.readline() == 'ready\n'
  process.send_signal(signal.SIGHUP)
  process.send_signal(signal.SIGTERM)
  output, error = process.communicate(timeout=60)
  assert (process.returncode, output, error) == (75, '', '')
  assert not machine.calls()


def test_slurm_requeues_a_job_only_after_a_preemption(machine):
  env = {'SLURM_JOB_ID': '7', 'SLURM_CPUS_PER_TASK': '6'}
  result = machine.run('launch/slurm.sbatch', *WORDS)
  assert_mistake(result, 'sbatch launch/slurm.sbatch')
  result = machine.run('launch/slurm.sbatch', *WORDS, **env)
  assert_mistake(result, 'launch/setup.sh --jax=cuda13')
  machine.record(machine.root / '.venv/bin/python')
  for status in (0, 1, 2, 75, 134):
    machine.answer(srun=[('', status)])
    result = machine.run('launch/slurm.sbatch', *WORDS, **env)
    assert result.returncode == status
    [step, *then] = machine.calls()
    assert '--cpus-per-task=6' in step and step[-len(WORDS) :] == WORDS
    again = [['scontrol', 'requeue', '7']] if status == 75 else []
    assert then == again
  dry = machine.run('launch/slurm.sbatch', '--dry_run', *WORDS, **env)
  assert not machine.calls()
  machine.run('-c', dry.stdout)
  assert machine.calls() == [step]


def test_setup_adds_jax_for_an_accelerator(machine):
  (machine.root / 'requirements.txt').write_text('jax\n')
  result = machine.run('launch/setup.sh', '--jax=rocm')
  assert_mistake(result, '--jax=tpu, --jax=cuda12 or --jax=cuda13')
  assert not (machine.root / '.venv').exists()
  machine.record(machine.root / '.venv/bin/python')
  (machine.root / '.venv/installed-before').touch()
  for _ in range(2):  # The second call finds it installed.
    assert machine.run('launch/setup.sh', '--jax=tpu').returncode == 0
  [install] = [call for call in machine.calls() if 'pip' in call]
  assert install[-2:] == ['--requirement=requirements.txt', 'jax[tpu]']


def test_kubernetes_ignores_status_75_and_stops_at_status_2():
  jobset = yaml.safe_load((LAUNCH / 'kubernetes.yaml').read_text())
  assert jobset['kind'] == 'JobSet'
  assert jobset['apiVersion'] == 'jobset.x-k8s.io/v1alpha2'
  policy = jobset['spec']['failurePolicy']
  [rule] = policy['rules']
  assert rule['action'] == 'FailJobSet'
  assert rule['onJobFailureReasons'] == ['PodFailurePolicy']
  [job] = jobset['spec']['replicatedJobs']
  job = job['template']['spec']
  assert job['completionMode'] == 'Indexed'
  assert job['completions'] == job['parallelism'] == 4
  pod = job['template']['spec']
  assert pod['restartPolicy'] == 'Never'  # podFailurePolicy requires it.
  [container] = pod['containers']
  actions = {}
  for rule in job['podFailurePolicy']['rules']:
    if 'onExitCodes' in rule:
      codes = rule['onExitCodes']
      assert codes['containerName'] == container['name']
      assert codes['operator'] == 'In'
      actions |= dict.fromkeys(codes['values'], rule['action'])
  assert actions == {2: 'FailJob', 75: 'Ignore'}
