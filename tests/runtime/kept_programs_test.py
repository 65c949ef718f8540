"""Compiled programs are kept where a later process finds them."""

from unittest import mock

import jax
import jax.numpy as jnp
import pytest

from tests.processes import call_on_devices
from vaegan_jax.runtime.kept_programs import keep_programs

_HITS = '/jax/compilation_cache/cache_hits'


def compile_twice(workdir, home, backend, num_processes=1):
  """Compiles one program; returns (folder, number of hits, result)."""
  hits = []
  jax.monitoring.register_event_listener(
    lambda event, **_: event == _HITS and hits.append(event)
  )
  jax.config.update('jax_compilation_cache_dir', None)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  with (
    mock.patch.dict('os.environ', {'XDG_CACHE_HOME': home}),
    mock.patch.object(jax, 'default_backend', lambda: backend),
    mock.patch.object(jax, 'process_count', lambda: num_processes),
  ):
    keep_programs(workdir)
  result = jax.jit(lambda x: jnp.sin(x) @ x)(jnp.arange(9.0).reshape(3, 3))
  return jax.config.jax_compilation_cache_dir, len(hits), result.tolist()


def test_a_second_process_compiles_nothing_again(tmp_path):
  args = str(tmp_path / 'run'), str(tmp_path / 'home'), 'tpu'
  folder, hits, result = call_on_devices(1, compile_twice, *args)
  assert folder == f'{tmp_path}/home/vaegan_jax/compiled'
  assert hits == 0
  again, hits, same = call_on_devices(1, compile_twice, *args)
  assert (again, same) == (folder, result)
  assert hits > 0


@pytest.mark.parametrize(
  ('workdir', 'home', 'backend', 'num_processes', 'folder'),
  [
    ('/runs/a', '{}', 'cpu', 1, None),
    ('/runs/a', '{}', 'gpu', 1, '{}/vaegan_jax/compiled'),
    ('/runs/a', '{}', 'tpu', 4, '/runs/a/compiled'),
    ('gs://b/a', '{}', 'tpu', 1, 'gs://b/a/compiled'),
    ('/runs/a', '{}/file', 'tpu', 1, '/runs/a/compiled'),
  ],
)
def test_the_folder(
  workdir, home, backend, num_processes, folder, tmp_path, monkeypatch
):
  (tmp_path / 'file').touch()
  monkeypatch.setenv('XDG_CACHE_HOME', home.format(tmp_path))
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)
  monkeypatch.setattr(jax, 'process_count', lambda: num_processes)
  caches = 'jax_persistent_cache_enable_xla_caches'
  old = jax.config.jax_compilation_cache_dir, getattr(jax.config, caches)
  try:
    keep_programs('/runs/other')  # A folder of the user's own stays.
    assert jax.config.jax_compilation_cache_dir == old[0]
    jax.config.update('jax_compilation_cache_dir', None)
    keep_programs(workdir)
    found = jax.config.jax_compilation_cache_dir
    assert found == (folder and folder.format(tmp_path))
  finally:
    jax.config.update('jax_compilation_cache_dir', old[0])
    jax.config.update(caches, old[1])
