"""Tests of the counter of FLOPs, and of the update's count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.benchmarks import hlo
from tests.benchmarks import update as benchmark
from tests.benchmarks.minimum import minimum_flops
from tests.processes import call_on_devices


def compiled_text(function, *shapes):
  args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  return jax.jit(function).lower(*args).compile().as_text()


def conv(x, kernel, **options):
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    options.pop('strides', (1, 1)),
    options.pop('padding', 'VALID'),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    **options,
  )


def strided(x, kernel):
  return conv(x, kernel, strides=(2, 2), padding=((1, 1), (1, 1)))


# From 8 to 4 pixels, the first and last output row each miss one row of the 4x4
# kernel: 4 * 4 - 2 = 14 row products. Columns likewise.
STRIDED_FLOPS = 2 * 2 * 3 * 5 * 14 * 14


@pytest.mark.parametrize(
  ('options', 'flops'),
  [
    # 6 x 6 outputs, all 9 kernel elements inside.
    ({}, 2 * 2 * 3 * 5 * 36 * 9),
    # 'SAME': 8 outputs a row, 3 * 8 - 2 products.
    ({'padding': ((1, 1), (1, 1))}, 2 * 2 * 3 * 5 * 22 * 22),
    # Offsets 0, 2, 4 with 3 products each.
    ({'strides': (2, 2)}, 2 * 2 * 3 * 5 * 9 * 9),
    # A dilated kernel: outputs 0..3.
    ({'rhs_dilation': (2, 2)}, 2 * 2 * 3 * 5 * 12 * 12),
    # Inputs at 0, 2, ..., 14; of 13 outputs 7 are even with 2 products, and
    # 6 are odd with 1: 20.
    (
      {'lhs_dilation': (2, 2), 'padding': ((0, 0), (0, 0))},
      2 * 2 * 3 * 5 * 20 * 20,
    ),
  ],
)
def test_convolution_flops_equal_a_count_by_hand(options, flops):
  text = compiled_text(
    lambda x, k: conv(x, k, **options), (2, 8, 8, 3), (3, 3, 3, 5)
  )
  assert hlo.count_flops(text) == flops


def test_rectangles_and_groups_are_counted_by_hand():
  text = compiled_text(
    lambda x, k: conv(
      x, k, padding=((0, 0), (2, 0)), feature_group_count=2, strides=(1, 2)
    ),
    (2, 5, 8, 4),
    (2, 3, 2, 6),
  )
  # Rows: 4 outputs of 2 products. Columns: offsets -2, 0, 2, 4 of 10:
  # 1 + 3 + 3 + 3 products. Each output has its group's 2 features.
  assert hlo.count_flops(text) == 2 * 2 * 6 * 2 * 8 * 10


@pytest.mark.parametrize('argnum', [0, 1])
def test_each_gradient_of_a_convolution_costs_one_forward_pass(argnum):
  shapes = (2, 8, 8, 3), (4, 4, 3, 5)
  assert hlo.count_flops(compiled_text(strided, *shapes)) == STRIDED_FLOPS

  def pull_back(x, kernel, cotangent):
    return jax.vjp(strided, x, kernel)[1](cotangent)[argnum]

  text = compiled_text(pull_back, *shapes, (2, 4, 4, 5))
  assert hlo.count_flops(text) == STRIDED_FLOPS


def test_batch_groups_and_reversed_windows_are_counted_by_hand():
  text = """HloModule m

ENTRY %main (a: f32[4,6,6,2], b: f32[4,4,4,4]) -> f32[3,3,2,4] {
  %a = f32[4,6,6,2]{3,2,1,0} parameter(0)
  %b = f32[4,4,4,4]{3,2,1,0} parameter(1)
  ROOT %c = f32[3,3,2,4]{3,2,1,0} convolution(%a, %b), window={size=4x4 rhs_reversal=1x1}, dim_labels=f01b_i01o->01bf, batch_group_count=1
}
"""  # noqa: E501
  # 3 x 3 outputs for each of 2 images and 4 features; 4 inputs, 16 products.
  assert hlo.count_flops(text) == 2 * (3 * 3 * 2 * 4) * 4 * 16
  # Half of the batch for each half of the features.
  text = text.replace('f32[3,3,2,4]', 'f32[3,3,1,4]')
  text = text.replace('batch_group_count=1', 'batch_group_count=2')
  assert hlo.count_flops(text) == 2 * (3 * 3 * 1 * 4) * 4 * 16


def test_dot_flops_equal_a_count_by_hand():
  text = compiled_text(lambda a, b: a @ b, (3, 40), (40, 50))
  assert hlo.count_flops(text) == 2 * 3 * 40 * 50
  text = compiled_text(
    lambda a, b: jnp.einsum('bij,bkj->bik', a, b), (2, 30, 40), (2, 50, 40)
  )
  assert hlo.count_flops(text) == 2 * 2 * 30 * 40 * 50


def test_work_in_a_loop_is_counted_for_each_iteration():
  def loop(x, kernel):
    return jax.lax.fori_loop(0, 7, lambda _, x: jnp.tanh(x @ kernel), x)

  text = compiled_text(loop, (30, 40), (40, 40))
  assert hlo.count_flops(text) == 7 * 2 * 30 * 40 * 40


def test_operations_of_unknown_cost_are_errors():
  def loop(x, kernel):
    return jax.lax.while_loop(
      lambda x: x.sum() < 1, lambda x: jnp.tanh(x @ kernel), x
    )

  with pytest.raises(ValueError, match='unknown number'):
    hlo.count_flops(compiled_text(loop, (30, 40), (40, 40)))
  text = """HloModule m

ENTRY %main (a: f32[2,3]) -> f32[2,3] {
  %a = f32[2,3]{1,0} parameter(0)
  ROOT %c = f32[2,3]{1,0} custom-call(%a), custom_call_target="__gemm"
}
"""
  with pytest.raises(ValueError, match='__gemm'):
    hlo.count_flops(text)
  with pytest.raises(ValueError, match='entry'):
    hlo.count_flops('')


def test_an_asynchronous_all_reduce_counts_once():
  text = """HloModule m

ENTRY %main (a: f32[2]) -> f32[2] {
  %a = f32[2]{0} parameter(0)
  %b = f32[2]{0} all-reduce(%a), to_apply=%add
  %s = (f32[2]{0}, /*index=1*/f32[2]{0}) all-reduce-start(f32[2]{0} %b)
  ROOT %d = f32[2]{0} all-reduce-done((f32[2]{0}, f32[2]{0}) %s)
}
"""
  assert hlo.count_all_reduces(text) == 2


def test_host_callbacks_are_counted():
  def call_host(x):
    return jax.pure_callback(np.sin, jax.ShapeDtypeStruct((3,), x.dtype), x)

  assert hlo.count_host_transfers(compiled_text(call_host, (3,))) == 1
  assert hlo.count_host_transfers(compiled_text(jnp.sin, (3,))) == 0


def test_the_minimum_is_the_count_of_separately_compiled_layers():
  config = benchmark.small_config()
  config.loss.layers = ()
  config.loss.adversarial_weight = 0.0
  batch, side, width = 8, 32, 8  # small_config's.
  first, second = (
    hlo.count_flops(compiled_text(strided, (batch, s, s, i), (4, 4, i, o)))
    for s, i, o in [(side, 3, width), (side // 2, width, 2 * width)]
  )
  head = 2 * batch * (side // 4) ** 2 * 2 * width
  critic_step = 2 * (3 * (first + second + head) - first)
  perceptual_step = 3 * (first + second)
  alternating = minimum_flops(config, 'alternating', batch)
  simultaneous = minimum_flops(config, 'simultaneous', batch)
  assert alternating - simultaneous == 2 * perceptual_step // 3
  config.objective = 'mse'
  autoencoder = minimum_flops(config, 'alternating', batch)
  assert alternating - autoencoder == critic_step + perceptual_step


@pytest.fixture(scope='module')
def programs():
  """Returns the benchmark's report of small updates on 8 devices."""
  args = benchmark.parse_args(['--small'])
  return call_on_devices(8, benchmark.count_programs, args)


@pytest.mark.parametrize(
  ('order', 'most', 'all_reduces'),
  # The last is of the scales that `loss.normalize` divides by.
  [('alternating', 1.01, 3), ('simultaneous', 1.06, 2)],
)
def test_the_update_has_minimal_flops_and_few_all_reduces(
  programs, order, most, all_reduces
):
  program = programs[order]
  assert 0.99 <= program['ratio'] <= most
  assert program['all_reduces'] == all_reduces
  assert program['host_transfers'] == 0
