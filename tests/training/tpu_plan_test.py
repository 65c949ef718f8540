"""The reader of a TPU's plan, its roofline, and what bad input gets."""

import contextlib
import importlib.metadata
import io
import json

import jax
import pytest

from tests.benchmarks import chips, hlo, plan, tpu
from tests.processes import call_on_devices

# Of 64 and 3 the inner axis is filled up to 128 and the other to 8.
ROWS = 'f32[64,3]{1,0:T(8,128)}'
COLUMNS = 'bf16[64,3]{0,1:T(8,128)(2,1)}'


@pytest.mark.parametrize(
  ('text', 'logical', 'padded', 'main'),
  [
    (ROWS, 64 * 3 * 4, 64 * 128 * 4, 64 * 128 * 4),
    # In the other order 3 becomes 8 and 64 becomes 128, outside main memory.
    (COLUMNS.replace('}', 'S(1)}'), 64 * 3 * 2, 8 * 128 * 2, 0),
    # The axes outside the tile are not padded.
    ('f32[5,3,64]{2,1,0:T(4,128)}', 960 * 4, 5 * 4 * 128 * 4, 5 * 4 * 128 * 4),
    # A scalar takes a whole tile, a truth value a byte, a token nothing.
    (
      '(f32[]{:T(128)}, pred[9]{0}, /*index=2*/token[])',
      4 + 9,
      128 * 4 + 9,
      128 * 4 + 9,
    ),
    ('s4[7]{0}', 4, 4, 4),
  ],
)
def test_bytes_of_a_layout_by_hand(text, logical, padded, main):
  assert plan.size_of(text) == (logical, padded, main)


PROGRAM = """HloModule m, is_scheduled=true

%add (u: f32[], v: f32[]) -> f32[] {
  %u = f32[] parameter(0)
  %v = f32[] parameter(1)
  ROOT %sum = f32[] add(%u, %v)
}

%body (p: (s32[], f32[64,3])) -> (s32[], f32[64,3]) {
  %p = (s32[]{:T(128)}, ROWS) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %x = ROWS get-tuple-element(%p), index=1
  %y = ROWS negate(%x)
  ROOT %t = (s32[]{:T(128)}, ROWS) tuple(%i, %y)
}

%condition (p.1: (s32[], f32[64,3])) -> pred[] {
  %p.1 = (s32[]{:T(128)}, ROWS) parameter(0)
  %limit = s32[]{:T(128)} constant(7)
  %i.1 = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  ROOT %less = pred[]{:T(512)} compare(%i.1, %limit), direction=LT
}

ENTRY %main (a: f32[64,3]) -> f32[64,3] {
  %a = ROWS parameter(0)
  %s = (ROWS, FAST, u32[]{:S(2)}) copy-start(%a)
  %d = FAST copy-done(%s)
  %r = FAST all-reduce(%d), to_apply=%add
  %zero = s32[]{:T(128)} constant(0)
  %w = (s32[]{:T(128)}, ROWS) tuple(%zero, %a)
  %l = (s32[]{:T(128)}, ROWS) while(%w), condition=%condition, body=%body
  ROOT %o = ROWS get-tuple-element(%l), index=1
}
""".replace('ROWS', ROWS).replace('FAST', ROWS.replace('}', 'S(1)}'))


def test_traffic_and_collectives_of_a_program_by_hand():
  logical, padded = 64 * 3 * 4, 64 * 128 * 4
  # The copy and the reduction read and write one array each, and so does each
  # of seven iterations; the condition's bytes are those of three scalars.
  scalars = 7 * (512 + 512 + 512), 7 * (4 + 4 + 1)
  size = plan.traffic(PROGRAM)
  assert size.logical == (2 + 2 + 14) * logical + scalars[1]
  assert size.padded == (2 + 2 + 14) * padded + scalars[0]
  assert size.main == (1 + 0 + 14) * padded + scalars[0]
  assert plan.collectives(PROGRAM) == {
    'all-reduce': {'count': 1, 'bytes': logical}
  }
  computations, _ = hlo.parse(PROGRAM)
  unknown = next(i for i in computations['main'] if i.opcode == 'while')
  with pytest.raises(ValueError, match='unknown number'):
    hlo.count_iterations(unknown, computations | {'condition': []})


def test_the_roofline_by_hand():
  chip = chips.Chip(1e12, 1e9, 1e11, 4e10, '', devices=2)
  # Each device has half of the chip. Of 4 devices each sends 3/4 twice, over
  # the half of the connection that sends.
  assert chips.roofline(
    chip, 3e9, plan.Size(main=10**9), 10**8, 4
  ) == pytest.approx(
    {'compute': 6e-3, 'main_memory': 20e-3, 'interconnect': 15e-3}
  )
  found = chips.describe_plan(PROGRAM, chip, 4, 8)
  assert found['bound_by'] == 'main_memory'
  seconds = 2 * plan.traffic(PROGRAM).main / 1e11
  assert found['images_per_second_per_chip'] == round(2 * 8 / seconds)
  assert found['padded_over_logical_bytes'] > 40


def test_the_peaks_are_the_makers():
  # As the pages of the table say: TFLOPs, GiB of memory, and GB a second.
  assert {name: chip[:3] for name, chip in chips.CHIPS.items()} == {
    'v5e': (197e12, 16 * 1024**3, 819e9),
    'v5p': (459e12, 95 * 1024**3, 2765e9),
    'v6e': (918e12, 32 * 1024**3, 1638e9),
    'v7x': (2307e12, 192 * 1024**3, 7380e9),
  }


def _told(capsys, *args) -> str:
  assert tpu.main([*args]) == 2
  return capsys.readouterr().err.removeprefix('error: ').removesuffix('\n')


def test_bad_input_gets_one_sentence(capsys, monkeypatch):
  for wrong in ('v9:2x2', 'v5e', 'v5e:4'):
    told = _told(capsys, f'--topology={wrong}')
    assert told.startswith(f'--topology={wrong} must be a chip and a shape')
  told = _told(capsys, '--config.model.remat=2')
  assert told.startswith('--config.model.remat=2 must be true or false')
  halves = '--config.optimizer.accumulate_steps=2'
  told = _told(capsys, '--batch_size=3', halves)
  assert told.startswith('batch_size=3 must be divisible by 2')
  found = {'libtpu': '0.0.1'}
  version = importlib.metadata.version

  def fake(name):
    if name == 'libtpu' and name not in found:
      raise importlib.metadata.PackageNotFoundError
    return found.get(name) or version(name)

  monkeypatch.setattr(importlib.metadata, 'version', fake)
  assert 'libtpu is 0.0.1, and jax' in _told(capsys)
  found.clear()
  told = _told(capsys)
  assert 'compiler is missing: install it, pip install "libtpu==' in told


def test_a_program_that_does_not_fit_is_a_users_mistake():
  error = RuntimeError(
    'RESOURCE_EXHAUSTED: Ran out of memory. Used 20.50G of 15.75G hbm.\nat'
  )
  told = str(tpu.not_fitting(error, 'update', 64, 'v5e:2x2'))
  assert told.startswith('update of 64 examples does not fit a device of v5e')
  assert '(20.50G of 15.75G): lower --batch_size' in told
  other = RuntimeError('INTERNAL: a bug')
  assert tpu.not_fitting(other, 'update', 64, 'v5e:2x2') is other


def plan_tiny_encoding():
  """Returns what the program prints, and its exit status."""
  jax.config.update('jax_enable_compilation_cache', False)
  sizes = [
    f'--config.{network}.{field}'
    for network in ('model', 'critic')
    for field in ('width=4', 'depth=1', 'channel_multipliers=(1,)')
  ]
  flags = '--programs=encode', '--batch_size=2', '--config.data.image_size=8'
  with contextlib.redirect_stdout(io.StringIO()) as printed:
    status = tpu.main([*flags, *sizes])
  return printed.getvalue(), status


def test_the_compiler_plans_a_tiny_encoding():
  pytest.importorskip('libtpu', reason='pip install "jax[tpu]" compiles for it')
  printed, status = call_on_devices(1, plan_tiny_encoding)
  found = json.loads(printed)
  assert (status, found['devices'], found['hosts']) == (0, 4, 1)
  encode = found['programs']['encode']
  assert encode['fits'] and encode['collectives'] == {}
  # 4 x 4 positions of 14 x 14 / 16 kernel positions, 3 to 4 channels; then a
  # dense layer to the mean and the variance of 128 entries.
  assert encode['flops'] == 2 * 2 * (14 * 14 * 3 * 4 + 64 * 256)
