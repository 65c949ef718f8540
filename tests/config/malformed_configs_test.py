"""Configurations that make no sense, in bulk: one sentence each, at once.

Every case goes through the real entry point; `told` asserts exit status 2 and
that nothing was compiled, made or said beside the one sentence.
"""

import json
import os
import signal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configs import default
from vaegan_jax.config.rules import flatten

_DEFAULTS = flatten(default.get_config())
# A field of one of these takes any text, or any that is a path.
_TEXTS = (
  *('init_from', 'data.path', 'data.data_dir', 'data.copy_dir'),
  *('critic.weights', 'data.name'),
)
_SPLITS = ('data.train_split', 'data.eval_split')

# Those of `st.text()`, which would first try to encode each one in UTF-8.
CHARACTERS = st.characters(exclude_categories=('Cs',))
# A tilde makes it no number, no choice and no name that anything here has.
_nonsense = st.text(CHARACTERS, max_size=30).map(lambda text: f'~{text}')
_nested = st.recursive(
  st.sampled_from(('', '1', 'a', 'nan', '{}')),
  lambda inner: st.lists(inner, max_size=3).map(
    lambda items: f'({",".join(items)})~'
  ),
)
_whole = st.one_of(
  st.integers(max_value=-1).map(str),
  st.integers(min_value=2**32).map(str),
  st.floats(min_value=-1e6, max_value=1e6).map(lambda x: f'{x:.3f}'),
  st.sampled_from(('', 'nan', 'inf', '1e3', '1,2', '()', '0b', '1__0')),
)
_fraction = st.one_of(
  st.floats(max_value=-1e-30).map(repr),
  st.floats(min_value=3.5e38).map(repr),
  st.sampled_from(('', 'nan', '-inf', '1e999', '0,5', '1e', '(1,)', '0x1')),
)
_row = st.lists(
  st.sampled_from(('0', '-1', '1.5', 'nan', "'x'", '1e39', '()', '{}', '2**9')),
  min_size=2,
  max_size=6,
).map(lambda items: f'({",".join(items)})')


def _bad_values(field):
  kind = type(_DEFAULTS[field])
  usual = {int: _whole, float: _fraction, tuple: _row}.get(kind, st.just('~'))
  return st.one_of(usual, _nonsense, _nested.map(lambda text: f'~{text}'))


_overrides = st.sampled_from(
  [field for field in _DEFAULTS if field not in (*_TEXTS, *_SPLITS)]
).flatmap(
  lambda field: _bad_values(field).map(lambda text: f'--config.{field}={text}')
)
_in_bulk = settings(
  derandomize=True,
  database=None,
  deadline=None,
  suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(autouse=True)
def never_hangs():
  def fail(*_):
    raise TimeoutError('it hangs')

  before = signal.signal(signal.SIGALRM, fail)
  signal.alarm(60)
  yield
  signal.alarm(0)
  signal.signal(signal.SIGALRM, before)


@settings(_in_bulk, max_examples=200)
@given(override=_overrides)
def test_any_field_with_any_nonsense(override, told):
  field = override.removeprefix('--config.').partition('=')[0]
  sentence = told('--config=configs/default.py', override, alone=True)
  assert field in sentence


@settings(_in_bulk, max_examples=40)
@given(field=st.sampled_from((*_SPLITS, 'data.name')), value=_nonsense)
def test_names_of_datasets_and_splits(field, value, told, tiny_run):
  args = ['--config.data.path='] if field == 'data.name' else []
  # Above the sentence is how the images were prepared, the first time.
  sentence = told(*tiny_run, *args, f'--config.{field}={value}')
  assert field in sentence


@pytest.mark.parametrize(
  'override',
  (
    *(f'{field}=/{"x" * 300}' for field in _TEXTS[:5]),
    *(f'{field}={"x/" * 3000}' for field in _TEXTS[:5]),
    *(f'{field}=\0' for field in _TEXTS),
    *(f'data.data_dir={scheme}://a/b' for scheme in ('s3', 'http')),
    *('data.path=', 'data.path= ', 'data.path=/dev/null', 'data.path=gs://'),
    *('data.path=gs://a/../b', 'data.data_dir=gs://a//b'),
    *('data.data_dir=gs://', 'data.data_dir=gs:///b'),
    'data.copy_dir=gs://a/b',
    'data.path=gs://a/b --config.data.data_dir=gs://a/b/c',
    *('data.path=/proc/self/fd', 'data.path=$NOWHERE/~', 'data.path=a\nb'),
    *('data.path=\x1b[31m', 'data.path=\u202egnp', 'data.path=\udcff'),
    *('data.train_split=train[:0]', 'data.eval_split=test[9999:]'),
    *('data.train_split=train[5:2]', 'data.train_split=train[::2]'),
    f'data.train_split=train[{"9" * 400}:]',
    *('data.image_size=1073741824', 'batch_size=2147483647'),
    *('model.width=2147483647', 'model.latent_dim=2147483647'),
    'model.channel_multipliers=1,99999999999999999999',
    *('model.channel_multipliers=1,2,3', 'model.depth=12', 'model.depth=3'),
    *(f'loss.layers={"(1," * 200}', f'loss.layers={"[" * 5000}'),
    *('loss.layers=block_0,block_0', 'loss.layer_weights=1,2,3'),
    'loss.layer_weights=0,0',
    *(
      'seed',
      'seed=' + '9' * 5000,
      'seed=\uff11\uff12~',
      f'seed={"x" * 100_000}',
    ),
    *('optimizer.warmup_steps=21', 'loss.adversarial_ramp_steps=21'),
    *('critic.network=vgg16', 'critic.weights=vgg.pth'),
    *('loss.adaptive_weight=true --config.loss.adversarial_weight=0',),
    *('critic.weight_clip=1 --config.critic.spectral_norm=true',),
    *('critic.norm=batch --config.critic.r1_weight=1',),
    *('critic.num_steps=3 --config.critic.long_round_steps=4',),
    *('seed=1 --config.seed=x', 'seed=x --config.seed=1'),
  ),
)
def test_values_that_cannot_be_together_or_at_all(override, told, tiny_run):
  assert told(*tiny_run, *f'--config.{override}'.split(' --'), alone=False)


@pytest.mark.parametrize(
  'args',
  (
    *('stray', '-', '--=', '--mode', '--mode=', '--mode=Train', '--mode=\0'),
    *('--config.', '--config.=1', '--config..seed=1', '--config.data=1'),
    *('--config.data.path.x=1', '--config.SEED=1', '--config.sèed=1'),
    *('--config.seed\n=1', '--config.__class__=1', '--config.lock=1'),
    *('--noconfig', '--noconfig.seed', '--config.batchsize=8', '--lr=1'),
    *('--flagfile=/nowhere', '--verbosity=loud', '--study.seeds=1'),
    *('--workdirs=a,b', '--workdir=', '--workdir=\0', '--workdir=s3://a/b'),
    *(f'--workdir={"x" * 300}', f'--workdir={"x/" * 3000}', '--workdir=://'),
    *('--workdir=/dev/null', '--workdir=/etc/passwd/run'),
    *(f'--mode={mode}' for mode in ('evaluate', 'compare', 'style', 'sample')),
    *(f'--mode=compare --workdirs={runs}' for runs in (',', 'a', 'a,a', 'a,b')),
    '--mode=compare --config.seed=1',
    '--mode=compare --workdirs=\0,b',
    *(f'--mode=study --study.seeds={x}' for x in ('x', '-1', '1,1', '1.5')),
    *(f'--mode=study --study.objectives={x}' for x in ('ms', 'mse,mse')),
    '--mode=study --config.seed=1',
    '--mode=study --study.seed=1',
  ),
)
def test_flags(args, told):
  told(*args.split(' '), alone=True)


@pytest.mark.parametrize(
  'name',
  (
    *('', '.', '/', ':', ':mse', 'configs', '/dev/null', '/dev/zero'),
    *('missing.py', 'configs/celba.py', 'README.md', 'tests/tiny_run.py'),
    *('configs/default.py:nope', 'x' * 300),
    *('x/' * 3000, 'a\0b', 'a\nb.py', '\udcff.py', 'http://x/y.py'),
  ),
)
def test_names_of_configuration_files(name, told):
  told(f'--config={name}', alone=True)


_START = """
import ml_collections
from configs import default
config = default.get_config().unlock()
def get_config(objective=''):
  with config.ignore_type():
"""


@pytest.mark.parametrize(
  'text',
  (
    *('', 'def (', '\0', 'import missing', 'raise RuntimeError("a\\nb")'),
    *('get_config = 3', 'def get_config(a, b): pass', 'import sys; sys.exit()'),
    *('def get_config(): raise SystemExit(0)', 'raise MemoryError'),
    'def get_config(): return get_config()',
    *(f'def get_config(): return {x}' for x in ('None', '{}', '3', 'open')),
    _START + '    return config.to_dict()',
    _START + '    config.seed = None; return config',
    _START + '    config.seed = object(); return config',
    _START + '    config.data = 3; return config',
    _START + '    config.extra = 3; return config',
    _START + '    del config.seed; return config',
    _START + '    config.self = config; return config',
    _START + '    config.seed = ml_collections.config_dict.placeholder(int)\n'
    '    return config',
  ),
)
def test_configuration_files(text, told, tmp_path):
  path = tmp_path / 'config.py'
  path.write_bytes(text.encode('latin-1'))
  told(f'--config={path}', alone=True)


def _saved(**changes):
  saved = json.loads(json.dumps(default.get_config().to_dict()))
  for name, value in changes.items():
    section, _, field = name.rpartition('__')
    (saved[section] if section else saved)[field] = value
  return json.dumps(saved)


_WHOLE = _saved()


@pytest.mark.parametrize(
  'text',
  (
    *(_WHOLE[: len(_WHOLE) * tenths // 10] for tenths in range(10)),
    *('[]', 'null', '3', '"text"', 'NaN', '{}', '\0', '\ufeff' + _WHOLE),
    *('[' * 100_000, '{"a":' * 100_000, '{"a":' * 500 + '1' + '}' * 500),
    *(_WHOLE + ' ' * 2**21, '{"seed": ' + '9' * 5000 + '}'),
    *(_saved(extra=1), _saved(data=3), _saved(model=[]), _saved(health=None)),
    *(_saved(seed=x) for x in (None, '0', 0.5, True, [0], {}, 10**30)),
    *(_saved(loss__kl_weight=x) for x in (float('nan'), 10**400, 1e300, '1')),
    *(_saved(data__path=x) for x in ('\ud800', 'a\0b', 3, ['a'])),
    *(_saved(model__channel_multipliers=x) for x in ([], [[1]], [1e9] * 4)),
    *(_saved(loss__layer_weights=x) for x in ([10**400], [None], ['1'])),
    *(_saved(objective=x) for x in ('../../x', ['mse'], '', 'mse\0')),
  ),
  ids=lambda text: text[:12],
)
def test_what_a_run_has_saved(text, told, tmp_path):
  for run in ('a', 'b'):
    (tmp_path / run).mkdir()
    (tmp_path / run / 'config.json').write_text(text)
  told('--mode=evaluate', f'--workdir={tmp_path / "a"}', alone=True)
  runs = f'{tmp_path / "a"},{tmp_path / "b"}'
  told('--mode=compare', f'--workdirs={runs}', alone=True)


@pytest.mark.parametrize('kind', ('directory', 'pipe', 'loop', 'device'))
def test_what_a_run_has_saved_is_no_file(kind, told, tmp_path):
  path = tmp_path / 'config.json'
  {
    'directory': path.mkdir,
    'pipe': lambda: os.mkfifo(path),
    'loop': lambda: path.symlink_to(path),
    'device': lambda: path.symlink_to('/dev/zero'),
  }[kind]()
  told('--mode=evaluate', f'--workdir={tmp_path}', alone=True)
