"""`setup` turns a configuration into a run, and compiles nothing."""

import jax
import numpy as np
import pytest

from tests.finished_run import parse
from vaegan_jax.errors import UserError
from vaegan_jax.setup.resume import init_state
from vaegan_jax.setup.run import setup


@pytest.fixture(scope='module')
def config(tiny_run, tmp_path_factory):
  r1 = '--config.critic.r1_weight=1'
  return parse(tmp_path_factory.mktemp('run'), *tiny_run, r1).config


@pytest.fixture(scope='module')
def run(config):
  """The run of `config`; the fixture fails if setting it up compiles."""
  compiled = []

  def listen(event, *_, **__):
    if event.endswith('backend_compile_duration'):
      compiled.append(event)

  jax.clear_caches()  # Other files' programs would hide a compilation.
  jax.monitoring.register_event_duration_secs_listener(listen)
  run = setup(config)
  jax.monitoring.unregister_event_duration_listener(listen)
  assert not compiled
  return run


def test_a_run_has_the_parts_that_its_configuration_names(run):
  assert set(run.modules) == set(run.optimizers) == {'autoencoder', 'critic'}
  assert run.identity['data']['num_images'] == len(run.images) == 38
  assert run.identity['config'] == run.config.to_dict()
  assert run.plan.num_train_steps == run.config.num_train_steps
  assert run.initial is None


def test_the_template_has_the_shapes_of_the_state(run):
  shapes = [(x.shape, x.dtype) for x in jax.tree.leaves(run.template)]
  state = init_state(run)
  assert [(x.shape, x.dtype) for x in jax.tree.leaves(state)] == shapes
  assert int(state.step) == 0


def test_batches_depend_on_the_step_alone(run):
  first, second = (next(run.batches(step)) for step in (0, 1))
  resumed = run.batches(0)
  np.testing.assert_array_equal(next(resumed), first)
  np.testing.assert_array_equal(next(resumed), second)
  assert (np.asarray(first) != np.asarray(second)).any()


def test_regularized_steps_share_one_update(run):
  every = run.config.critic.r1_every_steps
  assert run.update_for(1) is run.update_for(2)
  assert run.update_for(every) is run.update_for(2 * every)
  assert run.update_for(1) is not run.update_for(every)


def test_a_new_run_must_see_contrast_and_a_resumed_one_need_not(config):
  config = config.copy_and_resolve_references()
  config.critic.norm = 'group'
  with pytest.raises(UserError, match=r'critic\.norm'):
    setup(config)
