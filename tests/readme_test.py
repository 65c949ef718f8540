"""Runs the Python code of README.md and docs/, and checks the rest of them."""

import re
import shlex
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import save_file

import vaegan_jax
from tests import command_line
from vaegan_jax.models.pretrained import vgg

PROJECT = Path(__file__).resolve().parents[1]
README = PROJECT / 'README.md'
LIBRARY = PROJECT / 'docs' / 'library.md'
USE = PROJECT / 'docs' / 'use.md'  # `use_page_test.py` runs its code.
PAGES = (README, *sorted(PROJECT.glob('docs/*.md')))


def snippets(page):
  return re.findall(r'^```python\n(.*?)^```$', page.read_text(), re.S | re.M)


def prose(page):
  """Returns a page's text without its code, where brackets are not links."""
  return re.sub(r'^```.*?^```$', '', page.read_text(), flags=re.S | re.M)


def anchors(page):
  """Returns the anchors that GitHub makes from a page's titles."""
  titles = re.findall(r'^#+ (.*)$', prose(page), re.M)
  return {re.sub(r'[^\w\- ]', '', t.lower()).replace(' ', '-') for t in titles}


@pytest.fixture
def in_a_folder_with_weights(tmp_path, monkeypatch, vgg16_file):
  """Writes the weight files that the VGG snippet reads, with random values."""
  (tmp_path / 'vgg16.pth').symlink_to(vgg16_file)
  heads = {
    f'lin{i}.model.1.weight': np.full((1, width, 1, 1), 0.1, np.float32)
    for i, width in enumerate(vgg.WIDTHS)
  }
  save_file(heads, tmp_path / 'lpips_vgg.pth')
  monkeypatch.chdir(tmp_path)


def run(page, index, **names):
  names['__name__'] = 'snippet'
  exec(compile(snippets(page)[index], str(page), 'exec'), names)
  return names


def take_linen_step(names):
  state = names['params'], names['opt_state']
  *state, loss = names['train_step'](*state, names['x'])
  names['params'], names['opt_state'] = state
  return loss


def take_nnx_step(names):
  return names['train_step'](
    *(names[n] for n in ('autoencoder', 'critic', 'optimizers', 'x'))
  )


@pytest.mark.parametrize(
  ('page', 'index', 'take_step'),
  [(README, 0, take_linen_step), (LIBRARY, 1, take_nnx_step)],
  ids=['linen', 'nnx'],
)
def test_the_training_steps_train(page, index, take_step, capsys):
  names = run(page, index)
  assert np.isfinite(float(capsys.readouterr().out))
  before = float(names['loss'])
  for _ in range(20):
    loss = take_step(names)
  assert float(loss) != before
  assert np.isfinite(float(loss))


def test_the_parts_of_the_loss_are_used_as_shown():
  public = {name: getattr(vaegan_jax, name) for name in vaegan_jax.__all__}
  names = run(README, 0) | public | {'optax': optax}
  variables = {'params': names['params']['critic']}
  names |= {'variables': variables, 'x_recon': 0.9 * names['x']}
  logged = run(LIBRARY, 0, **names)['logged']
  assert sorted(logged) == ['adversarial', 'features', 'image']
  assert sorted(logged['features']) == ['conv_0', 'conv_1']
  sizes = {name: jnp.ones(()) for name in logged['features']}
  after = run(LIBRARY, 4, **names, sizes=sizes)
  assert np.isfinite(after['distance']).all()
  assert (after['sizes']['conv_0'] < 1).all()


def test_the_frozen_networks_give_distances(in_a_folder_with_weights, capsys):
  names = run(LIBRARY, 3)
  x, x_recon = names['x'], names['x_recon']
  for distance in capsys.readouterr().out.strip().split(']\n['):
    values = np.fromstring(distance.strip('[]\n'), sep=' ')
    assert values.shape == (2,) and (values > 0).all()
  gradient = jax.grad(
    lambda y: names['distance'](names['variables'], x, y).sum()
  )(x_recon)
  assert np.isfinite(gradient).all() and gradient.any()


def test_every_snippet_is_tested():
  counts = {page: len(snippets(page)) for page in PAGES}
  expected = {README: 1, LIBRARY: 5, USE: 4}
  assert counts == dict.fromkeys(PAGES, 0) | expected
  fences = sum(page.read_text().count('```python') for page in PAGES)
  assert fences == sum(expected.values())


def test_every_command_that_trains_is_accepted():
  text = '\n'.join(page.read_text() for page in PAGES).replace('\\\n', ' ')
  commands = re.findall(
    r'^ *python main\.py (--config=configs/.*)$', text, re.M
  )
  assert len(commands) > 10
  for command in commands:
    args = shlex.split(command.replace('$objective', 'mse'), comments=True)
    command_line.parse(*args)


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
  for link in re.findall(r'\]\(([^)\s]+)\)', prose(page)):
    if re.match(r'\w+://', link):
      continue
    path, _, anchor = link.partition('#')
    target = (page.parent / path).resolve() if path else page
    assert target.is_relative_to(PROJECT) and target.exists(), link
    assert not anchor or anchor in anchors(target), link


def test_every_page_is_linked_from_the_readme():
  linked = re.findall(r'\]\((docs/\w+\.md)\)', prose(README))
  assert set(linked) == {str(page.relative_to(PROJECT)) for page in PAGES[1:]}


def test_the_readme_is_short():
  assert len(README.read_text().splitlines()) < 180
