"""Nothing that is read is executed, and nothing is written outside the workdir.

The first tests search the source for calls that execute what they read. The
others read hostile files. Each would create a marker file if it were executed.
A Python file given with --config is a program, and is meant to run.
`weights_test.py` has the hostile weights.
"""

import ast
import builtins
import json
import os
import pathlib
import pickle
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from tests.data.opening import everything, load, names_in, open_folder
from vaegan_jax.config.io import load_config
from vaegan_jax.config.paths import check_data_outside
from vaegan_jax.data import decode, image_files, tfds_dataset
from vaegan_jax.errors import UserError
from vaegan_jax.runtime.checkpoints import Checkpoints

_PROJECT = pathlib.Path(__file__).parents[2]
_SOURCES = (
  _PROJECT / 'main.py',
  *sorted(_PROJECT.glob('configs/*.py')),
  *sorted(_PROJECT.glob('vaegan_jax/**/*.py')),
)
# The last name of the call, from any module.
_FORBIDDEN = {
  *('eval', 'exec', 'compile', '__import__', 'import_module', 'run_module'),
  *('run_path', 'system', 'popen', 'execv', 'execvp', 'spawnv'),
  *('extract', 'extractall', 'unpack_archive', 'unsafe_load', 'full_load'),
}
_UNPICKLERS = {
  *('pickle', 'cPickle', '_pickle', 'cloudpickle', 'dill', 'marshal'),
  *('shelve', 'joblib', 'torch', 'yaml', 'jsonpickle'),
}
_ALLOWED = {
  # The module of a mode, which is one of `cli_flags.MODES`.
  ('vaegan_jax/commands/dispatch.py', 'importlib.import_module'),
  # The project's own configurations and the Python file that --config names,
  # which is code by design.
  ('vaegan_jax/config/io.py', 'runpy.run_path'),
  # A file among the sources, by its name.
  ('vaegan_jax/data/sources/__init__.py', 'importlib.import_module'),
  # An optional library, whose name every caller writes out.
  ('vaegan_jax/data/store.py', 'importlib.import_module'),
  # Allows the globals of a state dict alone; see `weights_test.py`.
  ('vaegan_jax/models/pretrained/torch_files.py', 'pickle.Unpickler'),
}


def _name(node):
  """Returns the dotted name of an expression: `np.load` -> `numpy.load`."""
  if isinstance(node, ast.Attribute):
    return f'{_name(node.value)}.{node.attr}'
  return node.id if isinstance(node, ast.Name) else '?'


def _suspicious(source):
  """Yields the names in a source that may execute what they read."""
  tree = ast.parse(source)
  modules = {}
  for node in ast.walk(tree):
    if isinstance(node, ast.Import | ast.ImportFrom):
      prefix = f'{node.module}.' if isinstance(node, ast.ImportFrom) else ''
      for alias in node.names:
        modules[alias.asname or alias.name] = f'{prefix}{alias.name}'
  for node in ast.walk(tree):
    # Not only calls: a function may be passed on, a class subclassed.
    if isinstance(node, ast.Attribute | ast.Name):
      root, *rest = _name(node).split('.')
      name = '.'.join([modules.get(root, root), *rest])
      first, last = name.split('.')[0], name.split('.')[-1]
      is_variable = '.' not in name and name not in dir(builtins)
      if last in _FORBIDDEN and first != 're' and not is_variable:
        yield name
      if first in _UNPICKLERS and last in ('load', 'loads', 'Unpickler'):
        yield name
    if isinstance(node, ast.Call):
      name = _name(node.func)
      given = {keyword.arg: keyword.value for keyword in node.keywords}
      if name in ('np.load', 'numpy.load'):
        pickles = given.get('allow_pickle', ast.Constant(None))
        if not isinstance(pickles, ast.Constant) or pickles.value is not False:
          yield name
      shell = given.get('shell', ast.Constant(False))
      if not isinstance(shell, ast.Constant) or shell.value:
        yield f'{name}(shell)'


@pytest.mark.parametrize(
  'source',
  (
    'import pickle\npickle.load(f)',
    'import pickle as p\np.loads(x)',
    'from pickle import loads\nloads(x)',
    'from pickle import Unpickler as U\nclass A(U): pass',
    'import numpy as np\nnp.load(x)',
    'import numpy as np\nnp.load(x, allow_pickle=True)',
    'import numpy as np\nnp.load(x, allow_pickle=flag)',
    'import yaml\nyaml.load(x)',
    'import os\nos.system(x)',
    'import os\nmap(os.system, x)',
    'import subprocess\nsubprocess.run(x, shell=True)',
    'archive.extractall(x)',
    'eval(x)',
    'exec(x)',
    'from runpy import run_path\nrun_path(x)',
    'import importlib\nimportlib.import_module(x)',
  ),
)
def test_the_search_finds(source):
  assert list(_suspicious(source))


@pytest.mark.parametrize(
  'source',
  (
    'import json\njson.loads(x)',
    'import numpy as np\nnp.load(x, allow_pickle=False)',
    'import yaml\nyaml.safe_load(x)',
    "import re\nre.compile('x')",
    "import subprocess\nsubprocess.run(['ls'], shell=False)",
  ),
)
def test_the_search_lets_pass(source):
  assert not list(_suspicious(source))


def test_the_source_executes_nothing_that_it_reads():
  found = {
    (path.relative_to(_PROJECT).as_posix(), name)
    for path in _SOURCES
    for name in _suspicious(path.read_text())
  }
  assert found == _ALLOWED


class _Touch:
  """Object that creates a file when it is unpickled."""

  def __init__(self, marker):
    self._marker = marker

  def __reduce__(self):
    return pathlib.Path.touch, (self._marker,)


@pytest.fixture
def marker(tmp_path):
  """Returns a path at which no file may appear; tests the payload first."""
  marker = tmp_path / 'it_ran'
  pickle.loads(pickle.dumps(_Touch(marker)))
  assert marker.exists()
  marker.unlink()
  yield marker
  assert not marker.exists()


def test_a_checkpoint_of_pickles_is_damaged(marker, tmp_path):
  state = {'kernel': np.arange(6.0, dtype=np.float32)}
  run = {'config': {'seed': 0}, 'data': {'num_images': 3}}
  saved = Checkpoints(tmp_path / 'run')
  assert saved.save(1, state, **run)
  assert saved.wait()
  saved.close()
  payload = pickle.dumps(_Touch(marker))
  files = [
    path.relative_to(tmp_path / 'run')
    for path in (tmp_path / 'run').rglob('*')
    if path.is_file()
  ]
  assert len(files) > 5
  refused = 0
  for index, file in enumerate(files):
    workdir = tmp_path / f'run_{index}'
    shutil.copytree(tmp_path / 'run', workdir)
    (workdir / file).write_bytes(payload)
    try:
      restored, _ = Checkpoints(workdir).restore(state, **run)
    except UserError as error:
      assert 'damaged' in str(error)
      refused += 1
    else:  # A file that is never read.
      np.testing.assert_array_equal(restored['kernel'], state['kernel'])
  assert refused


def test_a_cache_of_pickles_is_replaced(marker, tmp_path, image_folder):
  dataset = open_folder(image_folder, tmp_path)
  expected = everything(load(dataset, 'test'))
  (cache,) = tmp_path.rglob('*.npy')
  payloads = (
    pickle.dumps(_Touch(marker)),
    b'\x93NUMPY\x01\x00\x10\x00__import__("os")',
    cache.read_bytes()[:-1],
    b'',
  )
  for payload in payloads:
    cache.write_bytes(payload)
    np.testing.assert_array_equal(everything(load(dataset, 'test')), expected)
  np.save(cache, np.array([_Touch(marker)] * 5), allow_pickle=True)
  np.testing.assert_array_equal(everything(load(dataset, 'test')), expected)


def test_no_image_is_passed_to_another_program(marker, tmp_path, monkeypatch):
  # Pillow passes PostScript to the program gs; this one creates the marker.
  program = tmp_path / 'bin' / 'gs'
  program.parent.mkdir()
  program.write_text(f'#!/bin/sh\ntouch {marker}\n')
  program.chmod(0o755)
  monkeypatch.setenv('PATH', f'{program.parent}:{os.environ["PATH"]}')
  monkeypatch.setattr('PIL.EpsImagePlugin.gs_binary', None)
  box = '%%BoundingBox: 0 0 10 10\n%%EndComments\n'
  drawing = f'%!PS-Adobe-3.0 EPSF-3.0\n{box}showpage\n%%EOF\n'.encode()
  with pytest.raises(Exception, match='cannot identify'):
    decode.read_image(drawing)


def test_names_of_images_are_only_names(marker, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)  # The folder of the marker.
  folder = tmp_path / 'images'
  folder.mkdir()
  names = [
    f'{text}.png' for text in ('$(touch it_ran)', '`touch it_ran`', '|x')
  ]
  names += ['a ... .png', '{0.__class__}.png', '%s%n.png']
  for shade, name in enumerate(names):
    Image.new('RGB', (4, 4), (shade, 0, 0)).save(folder / name)
  dataset = open_folder(folder, tmp_path / 'data')
  load(dataset)
  assert names_in(dataset) == set(names)


def test_links_to_the_outside_are_read_and_never_written(tmp_path):
  outside = tmp_path / 'outside'
  outside.mkdir()
  for index in range(3):
    Image.new('RGB', (4, 4)).save(outside / f'{index}.png')
  before = {path: path.stat().st_mtime_ns for path in outside.iterdir()}
  folder = tmp_path / 'images'
  folder.mkdir()
  (folder / 'there').symlink_to(outside)
  (folder / 'secret.png').symlink_to('/etc/passwd')
  images = image_files.ImageFiles(str(folder))
  assert 'there/0.png' in images.names
  with pytest.raises(UserError, match='1 of 4 images are damaged') as caught:
    images.find_damaged()
  assert 'root:' not in str(caught.value)  # Its content is not revealed.
  assert {p: p.stat().st_mtime_ns for p in outside.iterdir()} == before


@pytest.mark.parametrize(
  'name',
  (
    *('../../escaped', '/tmp/escaped', 'mnist/../../escaped', 'mnist/..'),
    *('mnist/data_dir=/tmp/escaped', 'mnist:../x', 'mnist/x/../../y'),
    # TFDS would download and run the code of these.
    *(
      'huggingface:mnist',
      'kaggle:mnist',
      'mlds:mnist',
      'a_name-space:mnist/x',
    ),
  ),
)
def test_a_name_of_a_dataset_is_no_path_and_no_code(
  name, told, tiny_run, tmp_path
):
  data = [f'--config.data.data_dir={tmp_path / "data"}', '--config.data.path=']
  assert 'data.name' in told(*tiny_run, *data, f'--config.data.name={name}')
  assert not (tmp_path / 'data').exists()


def _features(name):
  """Returns `features.json` for a class, in each form that TFDS reads."""
  image = {'pythonClassName': name, 'image': {'encodingFormat': 'png'}}
  inner = json.dumps({'image': image})
  known = 'tensorflow_datasets.core.features.features_dict.FeaturesDict'
  legacy = 'tensorflow_datasets.core.features.sequence_feature.Sequence'
  return (
    {'pythonClassName': known, 'featuresDict': {'features': {'image': image}}},
    {'type': known, 'content': {'image': {'type': name, 'content': {}}}},
    {'type': known, 'content': {'image': {'python_class_name': name}}},
    {
      'type': legacy,
      'content': json.dumps({'feature': image, 'length': 2}),
      'proto_cls': 'tensorflow_datasets.Sequence',
    },
    {'pythonClassName': known, 'jsonFeature': {'json': inner}},
  )


@pytest.mark.parametrize('way', range(5))
@pytest.mark.parametrize('version', ('', ':1.0.0'))
def test_prepared_data_imports_no_other_code(
  way, version, marker, tmp_path, monkeypatch
):
  (tmp_path / 'evil.py').write_text(
    f'import pathlib\npathlib.Path({str(marker)!r}).touch()\n'
  )
  monkeypatch.syspath_prepend(tmp_path)
  # TFDS imports no module twice.
  monkeypatch.delitem(sys.modules, 'evil', raising=False)
  features = json.dumps(_features('evil.Image')[way])
  info = {'name': 'faces', 'version': '1.0.0', 'moduleName': 'evil'}
  folder = tmp_path / 'faces' / '1.0.0'
  folder.mkdir(parents=True)
  (folder / 'features.json').write_text(features)
  (folder / 'dataset_info.json').write_text(json.dumps(info))
  with pytest.raises(UserError, match=r"names the class 'evil\.Image'"):
    tfds_dataset.create_builder('Faces' + version, data_dir=str(tmp_path))
  # Nor if TFDS is redirected outside the checked folder.
  (tmp_path / 'a').mkdir()
  folder.rename(tmp_path / 'a' / '1.0.0')
  default = tmp_path / 'faces' / '.config' / 'metadata.json'
  default.parent.mkdir()
  default.write_text(json.dumps({'default_config_name': '../a'}))
  with pytest.raises(UserError, match=r"names the folder '\.\./a'"):
    tfds_dataset.create_builder('faces' + version, data_dir=str(tmp_path))


def test_a_run_holds_no_data_of_its_own(told, tmp_path, monkeypatch):
  from configs import default

  workdir = tmp_path / 'run_of_somebody'
  (workdir / 'cats').mkdir(parents=True)
  (tmp_path / 'link').symlink_to(workdir)
  monkeypatch.chdir(workdir)
  saved = json.loads(json.dumps(default.get_config().to_dict()))
  saved['data'] |= {'name': 'image_folder', 'path': str(tmp_path)}

  def refused(*args, **data):
    content = json.dumps(saved | {'data': saved['data'] | data})
    (workdir / 'config.json').write_text(content)
    return told(*args)

  evaluate = '--mode=evaluate', f'--workdir={workdir}'
  for path in ('.', 'cats', str(workdir / 'cats'), str(tmp_path / 'link/cats')):
    for field in ('path', 'data_dir'):
      sentence = f"has data.{field}='{path}', which is in that run"
      assert sentence in refused(*evaluate, **{field: path})
  # The dataset's folder, whose name is the run's.
  name = {'name': 'run_of_somebody:1.0.0', 'path': ''}
  assert 'in that run' in refused(*evaluate, data_dir=str(tmp_path), **name)
  saved_path = {'path': 'cats'}
  two = f'{workdir},{tmp_path / "other"}'
  compare = '--mode=compare', f'--workdirs={two}'
  assert 'in that run' in refused(*compare, **saved_path)
  # The command line is the user's own.
  config = load_config(workdir / 'config.json')
  flag = f'--config.data.path={config.data.path}'
  check_data_outside(config, str(workdir), [flag])


def test_a_tampered_run_writes_nowhere_else(told, tmp_path):
  from configs import default

  workdir = tmp_path / 'deep' / 'run_of_somebody'
  workdir.mkdir(parents=True)
  saved = json.loads(json.dumps(default.get_config().to_dict()))
  texts = ('objective', 'update_order')
  for path in (
    '../../escaped',
    '/tmp/escaped',
    '$(touch it_ran)',
    '__import__',
  ):
    for name in texts:
      (workdir / 'config.json').write_text(json.dumps(saved | {name: path}))
      assert name in told('--mode=evaluate', f'--workdir={workdir}')
  assert [path.name for path in tmp_path.iterdir()] == ['deep']
  assert os.listdir(workdir) == ['config.json']
