"""Tests of the package's contents and of its imports."""

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import vaegan_jax
from vaegan_jax.config.io import load_config_file

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / 'vaegan_jax'
MODULES = sorted(PACKAGE.rglob('*.py'))

# Flax imports absl, etils and msgpack itself, so only additions are counted.
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


def run_python(code, *args, path, cwd):
  """Returns the output of Python code in its own process."""
  result = subprocess.run(
    [sys.executable, '-c', code, *args],
    capture_output=True,
    text=True,
    check=True,
    cwd=cwd,
    env=os.environ | {'PYTHONPATH': str(path)},
  )
  return result.stdout


def test_importing_the_library_imports_flax_and_nothing_else(tmp_path):
  names = ['vaegan_jax', 'vaegan_jax.models.pretrained.vgg']
  added = json.loads(run_python(IMPORTING, *names, path=ROOT, cwd=tmp_path))
  assert list(added) == names
  for name, modules in added.items():
    assert 'flax.nnx' not in modules, name  # Its import takes seconds.
    packages = {module.split('.')[0] for module in modules}
    # No TensorFlow, orbax, grain, torch, PIL, ...
    allowed = {'vaegan_jax'} | (
      {'safetensors'} if name != 'vaegan_jax' else set()
    )
    assert packages - set(sys.stdlib_module_names) == allowed, name


def test_every_public_name_is_a_documented_function():
  assert len(set(vaegan_jax.__all__)) == len(vaegan_jax.__all__)
  for name in vaegan_jax.__all__:
    assert callable(getattr(vaegan_jax, name))
    assert getattr(vaegan_jax, name).__doc__


def test_the_changelog_begins_with_this_version():
  text = (ROOT / 'docs' / 'changelog.md').read_text()
  headings = re.findall(r'^## (0\.\d+)$', text, re.M)
  assert f'{headings[0]}.' in vaegan_jax.__version__
  assert headings == [f'0.{n}' for n in range(len(headings), 0, -1)]


def test_every_folder_of_modules_is_a_package():
  for folder in {module.parent for module in MODULES}:
    assert (folder / '__init__.py').exists(), folder


def test_an_installed_package_is_complete(tmp_path):
  # `setuptools` must be imported before the packages it replaces, so
  # `importorskip` cannot be used.
  if not all(map(importlib.util.find_spec, ('pip', 'setuptools'))):
    pytest.skip('needs pip and setuptools')
  source, target = tmp_path / 'source', tmp_path / 'target'
  shutil.copytree(  # The build leaves files behind.
    PACKAGE, source / 'vaegan_jax', ignore=shutil.ignore_patterns('__pycache__')
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
  assets = {path.name for path in (PACKAGE / 'report' / 'assets').iterdir()}
  for name in ('py.typed', *(f'report/assets/{name}' for name in assets)):
    assert (target / 'vaegan_jax' / name).exists(), name
  assert {'page.html', 'page.css', 'report.js'} <= assets
  name = f'vaegan_jax-{vaegan_jax.__version__}.dist-info'
  assert (target / name).is_dir()
  # Its configuration equals this one, without the clone.
  code = """
from vaegan_jax.config import io, validation
config = io.load_config_file('configs/default.py:mse')
validation.validate(config)
print(io.PROJECT, config.to_json())
"""
  printed = run_python(code, path=target, cwd=tmp_path)
  config = load_config_file('configs/default.py:mse')
  wanted = f'{target / "vaegan_jax"} {config.to_json()}'
  assert printed.strip() == wanted


def imported(tree):
  """Yields the absolute names that a module imports, wherever in it."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and not node.level:
      yield node.module


def test_no_module_imports_what_is_not_installed_with_it():
  # `python -m pytest` finds these in the repository; an installation lacks
  # them.
  absent = {'configs', 'launch', 'main', 'tests'}
  for path in MODULES:
    tree = ast.parse(path.read_text())
    names = {name.split('.')[0] for name in imported(tree)}
    assert not names & absent, path
