"""Inputs larger than the network's, in overlapping tiles."""

import tracemalloc

import jax
import numpy as np
import pytest

import vaegan_jax
from tests import networks
from tests.finished_run import LATENTS, TWO_BLOCKS, finish
from vaegan_jax import models
from vaegan_jax.errors import UserError
from vaegan_jax.inference import tiling
from vaegan_jax.models.tile_grid import Canvas, Grid, Tiles, place_tiles
from vaegan_jax.models.tile_plan import DECODER, ENCODER, TilePlan

_ARRAYS = (
  'data.name=array_folder',
  'data.channels=1',
  'data.value_range=(-2, 2)',
)
_OF_SOUNDS = (
  'model.strides=(2,4)',
  'model.activation=snake',
  'model.kernel_size=7',
  'model.patch_size=2',
  'model.spectral_mask=128',
  'model.spectral_noise=true',
)
# Fields of a run, a tile, and inputs: odd, smaller than a tile in one axis.
EXACT = {
  'sounds': (
    ('data.shape=(16,)', 'model.latent_shape=map', *_OF_SOUNDS),
    1552,
    (2733,),
  ),
  'images': ((*LATENTS['vq'], 'model.norm=batch'), 32, (35, 70)),
  'volumes': (('data.shape=(8,8,8)', 'model.latent_shape=map'), 24, (45, 9, 8)),
}


@pytest.fixture
def load(tiny_run, tmp_path):
  """Returns a function of a run's fields that returns such a model."""

  def load(*fields):
    of_arrays = _ARRAYS if fields[0].startswith('data.shape') else ()
    finish(tmp_path, tiny_run, *TWO_BLOCKS, *of_arrays, *fields)
    return vaegan_jax.load(tmp_path)

  return load


def noise(model, *space):
  return networks.uniform(*space, model.image_shape[-1])


@pytest.mark.parametrize('kind', EXACT)
def test_tiles_of_convolutions_equal_the_whole(kind, load, monkeypatch):
  fields, tile, space = EXACT[kind]
  model = load(*fields)
  x = noise(model, *space)
  tiler = tiling.Tiler(model, (tile,))
  assert tiler.plan.is_exact
  whole = np.asarray(model.reconstruct(x[None]))[0]
  assert whole.std() > 0.02
  np.testing.assert_allclose(tiler.reconstruct(x), whole, atol=1e-5)
  # A latent map is that of the whole input, too, where its sides allow one.
  factor = model.autoencoder.encoder.factor
  even = x[tuple(slice(n - n % factor) for n in space)]
  posterior = model.encode(even[None])
  for name, wanted in vars(posterior).items():
    if wanted is not None:
      found = getattr(tiler.encode(even), name)
      np.testing.assert_allclose(found, wanted[0], atol=1e-5)
  # Less overlap than the convolutions' reach is too little.
  monkeypatch.setattr(TilePlan, '_overlap', lambda *_: 0)
  assert np.abs(tiler.reconstruct(x) - whole).max() > 1e-3


def test_dilated_convolutions_reach_as_far_as_their_kernels_are_wide():
  autoencoder = models.create_autoencoder(
    (16,),
    1,
    **networks.model_fields(
      layout='oobleck',
      network='residual',
      latent_shape='map',
      channel_multipliers=(1, 1),
      strides=(2,),
      width=8,
    ),
  )
  x = jax.ShapeDtypeStruct((1, 16, 1), np.float32)
  shapes = jax.eval_shape(autoencoder.init, jax.random.key(0), x)
  plan = TilePlan(autoencoder, shapes, (16, 1), (200,))
  # Kernels of 7 with dilations 1, 3 and 9, then 4 and 7; two samples a cell.
  inner = 3 * (1 + 3 + 9) + 3 / 2
  assert plan._reaches == {
    ENCODER: 3 + inner + 2 * 1,
    DECODER: 2 * 3 + inner + 3,
  }


@pytest.mark.parametrize(('mask', 'cells'), [(16, 8), (0, 1)])
def test_tiles_begin_where_the_noise_of_a_mask_does(mask, cells):
  """Four windows of 16 samples are eight cells of eight samples."""
  network = networks.autoencoder(
    (128,), 1, latent_shape='map', strides=(2, 4),
    spectral_mask=mask, spectral_noise=True,
  )  # fmt: skip
  x = jax.ShapeDtypeStruct((1, 128, 1), np.float32)
  shapes = jax.eval_shape(network.init, jax.random.key(0), x)
  plan = TilePlan(network, shapes, (128, 1), (800,))
  assert plan._noise_cells == cells
  starts = plan.grid((400,), DECODER).starts[0]
  assert len(starts) > 2
  assert not any(np.mod(starts[:-1], cells))


@pytest.mark.parametrize(
  'fields',
  [
    LATENTS['fsq'],
    (*LATENTS['gaussian_map'], 'model.norm=group'),
    (*LATENTS['vq'], 'model.network=residual', 'model.depth=1'),
  ],
)
def test_blended_tiles_have_no_seams(fields, load):
  """Jumps across the edges of tiles are no larger than those elsewhere."""
  model = load(*fields)
  tiler = tiling.Tiler(model, (16,))
  assert not tiler.plan.is_exact
  side = 52
  axis = np.linspace(-1, 1, side, dtype=np.float32)
  x = np.stack(np.broadcast_arrays(axis, axis[:, None], 0.3), -1)
  found = tiler.reconstruct(x)
  assert found.shape == x.shape and np.isfinite(found).all()
  jumps = np.abs(np.diff(found, axis=1)).mean((0, 2))  # From j to j + 1.
  factor = 1 if tiler.plan.is_flat else model.autoencoder.encoder.factor
  starts = (
    tiler.plan.grid((side // factor,) * 2, DECODER).scaled(factor).starts[1]
  )
  edges = {s - 1 for s in starts[1:]} | {s + 15 for s in starts[:-1]}
  across = max(jumps[j] for j in edges)
  within = max(jumps[j] for j in range(side - 1) if j not in edges)
  assert len(starts) == 4 and 0 < across <= within


def test_tiles_of_other_brightness_are_blended():
  """Tiles that differ by 1 meet in small steps, the smallest at the edges."""
  grid = place_tiles((40,), (16,), (8,))
  steps = {}
  for smooth in (False, True):
    canvas = Canvas(grid, smooth)
    for index in range(4):
      canvas.add(index, np.full((16, 1), index, np.float32))
    result = canvas.result((40,))[:, 0]
    steps[smooth] = np.abs(np.diff(result))
    assert result[0] == 0 and result[-1] == 3
  edges = [7, 15, 23, 31]
  assert steps[False].max() == 1
  assert steps[True].max() < 0.2 and steps[True][edges].max() < 0.05


def test_small_and_batched_inputs_keep_their_shape(load):
  model = load(*LATENTS['gaussian'])
  x = noise(model, 5, 40)
  assert model.reconstruct_tiled(x[None], 16).shape == (1, 5, 40, 3)
  # Padded to the training's shape by repetition, and cut again.
  padded = np.concatenate([x[:, :16], *[x[-1:, :16]] * 11])
  np.testing.assert_allclose(
    model.reconstruct_tiled(x[None, :, :16], (16, 16))[0],
    model.reconstruct(padded[None])[0, :5],
    atol=1e-6,
  )


@pytest.mark.parametrize(
  ('kind', 'tiles'),
  [
    (
      'gaussian_map',
      {
        (30,): 'tile=30 must be a multiple of 4, and at least 20',
        (8,): 'example, tile=20$',
        (32, 48, 32): 'tile=32,48,32 must have 1 or 2 sides',
      },
    ),
    ('gaussian', {(32,): 'shape of the training.*example, tile=16$'}),
  ],
)
def test_tiles_that_do_not_fit_give_one_message(kind, tiles, load):
  model = load(*LATENTS[kind])
  for tile, told in tiles.items():
    with pytest.raises(UserError, match=told):
      tiling.Tiler(model, tile)


@pytest.mark.parametrize('smooth', [False, True])
@pytest.mark.parametrize('length', [3, 8, 9, 10, 23, 40])
def test_weights_sum_to_one(length, smooth):
  """Also where the last tile is moved back over two others."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(length, 7, 2)).astype(np.float32)
  grid = place_tiles(x.shape[:2], (8, 5), (3, 2))
  tiles, canvas = Tiles(x, grid), Canvas(grid, smooth)
  for index in range(len(tiles)):
    canvas.add(index, tiles[np.array([index])][0])
  np.testing.assert_allclose(canvas.result(x.shape[:2]), x, atol=1e-6)
  for axis, starts in enumerate(grid.starts):
    for place in range(len(starts)):
      weights = grid.weights(axis, place, smooth)
      assert weights.min() >= 0
      assert smooth or set(weights) <= {0, 1}


def test_the_weights_of_many_tiles_need_no_memory():
  grid = place_tiles((10**7,), (1000,), (100,))
  tracemalloc.start()
  for place in range(len(grid.starts[0])):
    grid.weights(0, place, True)
  assert tracemalloc.get_traced_memory()[1] < 10**6
  tracemalloc.stop()


def test_hard_tiles_meet_in_the_middle_of_their_overlap():
  grid = Grid(((0, 4),), (8,))
  first, second = (grid.weights(0, place, False) for place in range(2))
  np.testing.assert_array_equal(first, [1, 1, 1, 1, 1, 1, 0, 0])
  np.testing.assert_array_equal(second, [0, 0, 1, 1, 1, 1, 1, 1])


def test_only_one_shape_of_tiles_is_computed(load):
  model = load(*LATENTS['gaussian_map'])
  tiler = tiling.Tiler(model, (20,), batch_size=4)
  shapes = []
  encode = type(model).encode

  def record(self, x):
    shapes.append(x.shape)
    return encode(self, x)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(type(model), 'encode', record)
    tiler.encode(noise(model, 57, 90))
  number = -(-4 * 16 * 16 // (20 * 20)) - 1
  assert set(shapes) == {(jax.local_device_count() * number, 20, 20, 3)}
