"""The layers of the package: imports go down only, and files stay small.

Imports are read from the source, at any place in a file.
"""

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / 'vaegan_jax'
# A wing (folder) may import itself and those of lower floors; `main` is on top.
FLOORS = (
  {'names', 'errors'},
  {'losses'},
  {'data', 'models', 'runtime'},
  {'config'},
  {'evaluation'},
  {'training', 'report'},
  {'setup'},
  {'inference'},
  {'commands'},
  {'main'},
)
FLOOR = {wing: floor for floor, wings in enumerate(FLOORS) for wing in wings}
MAX_LINES, MAX_FUNCTION = 350, 60
# One drawing, part by part, and one table, a row a field.
LONG = {
  'vaegan_jax/data/sources/drawn_faces.py',
  'vaegan_jax/config/schema.py',
}


def name_of(path, root=ROOT):
  """Returns the module name of a file: 'vaegan_jax.losses.perceptual'."""
  parts = path.relative_to(root).with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


@functools.cache
def import_nodes(source):
  """Returns the import statements of a source, wherever they are in it."""
  kinds = ast.Import, ast.ImportFrom
  return [n for n in ast.walk(ast.parse(source)) if isinstance(n, kinds)]


def imports_of(source, name, modules):
  """Yields those of `modules` that a source imports.

  A name imported from a package may be one of its modules.
  """
  package = name if name in modules.packages else name.rpartition('.')[0]
  for node in import_nodes(source):
    if isinstance(node, ast.Import):
      found = [alias.name for alias in node.names]
    else:
      base = node.module or ''
      if node.level:
        above = package.split('.')[: len(package.split('.')) - node.level + 1]
        base = '.'.join([*above, *filter(None, [node.module])])
      found = [f'{base}.{alias.name}' for alias in node.names]
      found = [f if f in modules else base for f in found]
    yield from (f for f in found if f in modules)


class Modules(dict):
  """Sources by module name, and the names of the packages."""

  def __init__(self, sources, packages):
    super().__init__(sources)
    self.packages = frozenset(packages)

  def imports(self):
    """Returns {module: names of the modules that it imports}."""
    return {
      name: set(imports_of(source, name, self)) - {name}
      for name, source in self.items()
    }


def wing_of(name):
  """Returns the wing of a module, 'losses'; '' for the package itself."""
  return name if name == 'main' else f'{name}.'.split('.')[1]


def faults_of(modules):
  """Returns a message for each forbidden import."""
  faults = []
  for name, imported in modules.imports().items():
    for other in sorted(imported):
      here, there = wing_of(name), wing_of(other)
      if here == there or not there:
        continue
      # The public API is the library and, imported late, `load`.
      allowed = {'losses', 'inference'} if not here else FLOORS_BELOW[here]
      if there not in allowed:
        faults.append(f'{name} imports {other}')
  return faults


FLOORS_BELOW = {
  wing: {below for below in FLOOR if FLOOR[below] < floor}
  for wing, floor in FLOOR.items()
}


def circles_of(modules):
  """Returns modules that import themselves through others."""
  imports = modules.imports()
  circular, done = [], set()

  def visit(name, path):
    if name in path:
      circular.append(' -> '.join([*path[path.index(name) :], name]))
    elif name not in done:
      for other in sorted(imports[name]):
        visit(other, [*path, name])
      done.add(name)

  for name in imports:
    visit(name, [])
  return circular


@pytest.fixture(scope='module')
def house():
  paths = [ROOT / 'main.py', *sorted(PACKAGE.rglob('*.py'))]
  return Modules(
    {name_of(path): path.read_text() for path in paths},
    {name_of(path) for path in paths if path.name == '__init__.py'},
  )


def test_every_wing_has_a_floor_and_says_what_it_owns(house):
  wings = {wing_of(name) for name in house} - {''}
  assert wings == set(FLOOR)
  for name in house.packages - {'vaegan_jax'}:
    docstring = ast.get_docstring(ast.parse(house[name]))
    assert 'Owns' in docstring or 'the one room' in docstring.lower(), name
    assert 'May import: ' in docstring, name


def test_imports_run_down_the_floors_only(house):
  assert faults_of(house) == []


def test_configurations_are_read_from_setup_up(house):
  """Below it, everything takes plain arguments."""
  readers = {'config', *(w for w in FLOOR if FLOOR[w] >= FLOOR['setup'])}
  below = [name for name in house if wing_of(name) not in readers]
  assert [name for name in below if 'ml_collections' in house[name]] == []


def test_no_imports_run_in_a_circle(house):
  assert circles_of(house) == []


@pytest.mark.parametrize(
  ('name', 'source'),
  [
    ('losses.new', 'from vaegan_jax.models import critic'),
    ('losses.new', 'import vaegan_jax.training.update'),
    ('losses.new', 'def f():\n  from vaegan_jax import runtime'),
    ('losses.new', 'from ..config import rules'),
    ('losses.new', 'from .. import data'),
    ('evaluation.new', 'from vaegan_jax.training import loop'),
    ('data.new', 'from vaegan_jax.models import critic'),
    ('training.new', 'from vaegan_jax.commands.train import train'),
    ('commands.new', 'import main'),
    ('', 'from vaegan_jax.models import critic'),
  ],
)
def test_a_wrong_import_is_noticed(house, name, source):
  name = f'vaegan_jax.{name}' if name else 'vaegan_jax'
  extended = Modules(house | {name: source}, house.packages)
  assert len(faults_of(extended)) == 1


def test_an_import_of_below_or_beside_is_no_fault(house):
  source = 'from vaegan_jax.losses import perceptual\nfrom . import update'
  extended = Modules(
    house | {'vaegan_jax.training.new': source}, house.packages
  )
  assert faults_of(extended) == []


def test_a_circle_is_noticed(house):
  # Within a wing, where no floor forbids it.
  changed = {
    'vaegan_jax.losses.penalties': 'from vaegan_jax.losses import new',
    'vaegan_jax.losses.new': 'import vaegan_jax.losses.penalties',
  }
  (circle,) = circles_of(Modules(house | changed, house.packages))
  assert circle.count('penalties') == 2 or circle.count('new') == 2


def test_files_and_functions_are_short():
  long = []
  for path in [ROOT / 'main.py', *PACKAGE.rglob('*.py')]:
    relative = str(path.relative_to(ROOT))
    source = path.read_text()
    limit = 150 if path.name == 'main.py' else MAX_LINES
    if source.count('\n') > limit and relative not in LONG:
      long.append(f'{relative}: {source.count(chr(10))} lines')
    for node in ast.walk(ast.parse(source)):
      if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        size = node.end_lineno - node.lineno + 1
        if size > MAX_FUNCTION:
          long.append(f'{relative}: {node.name} has {size} lines')
  assert long == []


def is_set(node):
  """Returns whether an expression is a set, whose order differs by process."""
  if isinstance(node, ast.BinOp):  # Such as `a.keys() - b`.
    return any(
      is_set(side)
      or (isinstance(side, ast.Call) and ast.unparse(side).endswith('.keys()'))
      for side in (node.left, node.right)
    )
  if isinstance(node, ast.Call):
    return ast.unparse(node.func) in ('set', 'frozenset')
  return isinstance(node, (ast.Set, ast.SetComp))


def test_no_traced_program_depends_on_the_order_of_a_set():
  """The processes of a run must compile the same programs."""
  found = []
  for folder in ('losses', 'models', 'training'):
    for path in (PACKAGE / folder).rglob('*.py'):
      for node in ast.walk(ast.parse(path.read_text())):
        if is_set(getattr(node, 'iter', None)):
          found.append(f'{path.relative_to(ROOT)}: {ast.unparse(node.iter)}')
  assert found == []
