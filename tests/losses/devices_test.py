"""The losses over sharded arrays and in a `shard_map`, as in the docs."""

import jax
import numpy as np

from tests.processes import call_on_devices
from tests.readme_test import LIBRARY, run
from vaegan_jax import perceptual_distance
from vaegan_jax.losses import arguments

NUM_DEVICES = 2


def distances(names, axis_name, **options):
  """Returns a distance of the docs' batch, per example, in a `shard_map`."""
  spec = jax.sharding.PartitionSpec('data')

  def part(x, y):
    return perceptual_distance(
      names['critic'],
      names['variables'],
      x,
      y,
      axis_name=axis_name,
      reduction='mean',
      **options,
    )

  mapped = jax.shard_map(
    part, mesh=names['mesh'], in_specs=(spec, spec), out_specs=spec
  )
  return jax.jit(mapped)(names['x'], names['x_recon']).tolist()


def run_all():
  """Returns the docs' losses, and what each misuse gives."""
  logged = []
  arguments.logging.warning = lambda _, message: logged.append(message)
  names = run(LIBRARY, 2)
  scale = np.where(np.arange(8) < 4, 1, 0.01).reshape(-1, 1, 1, 1)
  for name in ('x', 'x_recon'):  # Unlike parts.
    sharding = names[name].sharding
    names[name] = jax.device_put(scale * names[name], sharding)
  found = {
    'devices': jax.local_device_count(),
    'sharding': str(names['x'].sharding.spec),
    **{
      name: names[name](*(names[n] for n in ('variables', 'x', 'x_recon')))
      for name in ('whole', 'in_parts')
    },
    'alone': names['whole'].__wrapped__(
      *(jax.device_get(names[n]) for n in ('variables', 'x', 'x_recon'))
    ),
  }
  found = {k: np.asarray(v).tolist() for k, v in found.items()}
  for normalize in ('none', 'relative', 'batch', 'local'):
    for axis_name in ('data', (), None):
      before = len(logged)
      values = distances(names, axis_name, normalize=normalize)
      key = f'{normalize} {axis_name}'
      found[key] = {'values': values, 'warnings': logged[before:]}
  mesh = jax.make_mesh((1, NUM_DEVICES), ('model', 'data'))
  found['one of two axes'] = []
  for axis_name in ('model', 'data'):
    before = len(logged)
    distances(names | {'mesh': mesh}, axis_name, normalize='local')
    found['one of two axes'].append(logged[before:])
  try:
    jax.jit(names['in_parts'].__wrapped__.__wrapped__)(
      *(names[n] for n in ('variables', 'x', 'x_recon'))
    )
  except ValueError as error:
    found['error'] = str(error)
  return found


def test_a_sharded_batch_is_whole_and_a_shard_map_names_its_axis():
  found = call_on_devices(NUM_DEVICES, run_all)
  assert found['devices'] == NUM_DEVICES
  assert 'data' in found['sharding']
  for name in ('whole', 'in_parts'):
    np.testing.assert_allclose(found[name], found['alone'], rtol=1e-4)
  warnings = []
  for normalize in ('none', 'relative', 'batch', 'local'):
    named, own, absent = (
      found[f'{normalize} {axis}'] for axis in ('data', (), None)
    )
    assert own['values'] == absent['values']
    by_batch = normalize in ('batch', 'local')
    assert np.allclose(own['values'], named['values'], rtol=1e-4) != by_batch
    assert not named['warnings'] and not own['warnings']
    warnings += absent['warnings']
  (warning,) = warnings  # Once.
  assert "give axis_name='data'" in warning and 'axis_name=()' in warning
  (warning,), none = found['one of two axes']
  assert "give axis_name=('data',)" in warning and not none
  assert "axis_name is 'data', and no pmap, vmap or shard_map" in found['error']
  assert 'leave axis_name out under jit' in found['error']
