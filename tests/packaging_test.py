"""What the package holds, and what it leaves alone."""

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import vaegan_jax
from vaegan_jax.config import defaults

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / 'vaegan_jax'
MODULES = sorted(PACKAGE.rglob('*.py'))

# Flax imports absl, etils and msgpack itself: what counts is what comes on top.
IMPORTING = """
import json, sys
import flax, flax.linen, optax
before = set(sys.modules)
added = {}
for name in sys.argv[1:]:
  __import__(name)
  added[name] = sorted(set(sys.modules) - before)
print(json.dumps(added))
"""


def test_importing_the_library_imports_flax_and_nothing_else():
  names = ['vaegan_jax']
  if (PACKAGE / 'models' / 'vgg.py').exists():
    names.append('vaegan_jax.models.pretrained.vgg')
  result = subprocess.run(
    [sys.executable, '-c', IMPORTING, *names],
    capture_output=True,
    text=True,
    check=True,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
  )
  added = json.loads(result.stdout)
  assert list(added) == names
  for name, modules in added.items():
    assert 'flax.nnx' not in modules, name  # Linen's users need not wait.
    packages = {module.split('.')[0] for module in modules}
    # No TensorFlow, orbax, grain, torch, PIL, ...
    assert packages - set(sys.stdlib_module_names) == {'vaegan_jax'}, name


def test_every_public_name_is_a_documented_function():
  assert len(set(vaegan_jax.__all__)) == len(vaegan_jax.__all__)
  for name in vaegan_jax.__all__:
    assert callable(getattr(vaegan_jax, name))
    assert getattr(vaegan_jax, name).__doc__


def test_every_folder_of_modules_is_packaged():
  pyproject = tomllib.loads((ROOT / 'pyproject.toml').read_text())
  folders = {module.parent.relative_to(ROOT) for module in MODULES}
  expected = {'.'.join(folder.parts) for folder in folders}
  expected.add('vaegan_jax.configs')  # Beside the package in a clone.
  assert set(pyproject['tool']['setuptools']['packages']) == expected
  for folder in folders:
    assert (ROOT / folder / '__init__.py').exists()


def test_an_installed_package_is_whole(tmp_path):
  # `setuptools` does not bear to be imported late, so not `importorskip`.
  if not all(map(importlib.util.find_spec, ('pip', 'setuptools'))):
    pytest.skip('needs pip and setuptools')
  source, target = tmp_path / 'source', tmp_path / 'target'
  shutil.copytree(  # The build leaves files behind.
    PACKAGE, source / 'vaegan_jax', ignore=shutil.ignore_patterns('__pycache__')
  )
  shutil.copytree(
    ROOT / 'configs',
    source / 'configs',
    ignore=shutil.ignore_patterns('__pycache__'),
  )
  shutil.copy(ROOT / 'pyproject.toml', source)
  flags = '--quiet --no-index --no-deps --no-build-isolation --no-compile'
  subprocess.run(
    [
      *(sys.executable, '-m', 'pip', 'install', *flags.split()),
      *(f'--target={target}', source),
    ],
    check=True,
    capture_output=True,
  )
  installed = {path.relative_to(target) for path in target.rglob('*.py')}
  configs = {
    Path('vaegan_jax', path.relative_to(ROOT))
    for path in ROOT.glob('configs/*.py')
  }
  assert installed == {path.relative_to(ROOT) for path in MODULES} | configs
  # Its configuration is this one's, without the clone.
  code = 'from vaegan_jax.config import defaults, validation;'
  code += 'config = defaults.get_config("mse"); validation.validate(config);'
  code += 'print(defaults.PROJECT, config.to_json())'
  result = subprocess.run(
    [sys.executable, '-c', code],
    capture_output=True,
    text=True,
    check=True,
    cwd=tmp_path,
    env=os.environ | {'PYTHONPATH': str(target)},
  )
  wanted = f'{target / "vaegan_jax"} {defaults.get_config("mse").to_json()}'
  assert result.stdout.strip() == wanted


def imported(tree):
  """The absolute names that a module imports, wherever in it."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and not node.level:
      yield node.module


@pytest.mark.parametrize(
  'path', MODULES, ids=lambda path: str(path.relative_to(ROOT))
)
def test_a_module_imports_nothing_that_is_not_installed_with_it(path):
  names = {name.split('.')[0] for name in imported(ast.parse(path.read_text()))}
  # `python -m pytest` finds these in the repository; who installs does not.
  assert not names & {'configs', 'launch', 'main', 'tests'}
