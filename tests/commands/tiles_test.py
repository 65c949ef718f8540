"""Files of any size, in tiles, that come back in their own formats."""

import json

import numpy as np
import pytest
import soundfile
import tifffile
from PIL import Image

import vaegan_jax
from tests import command_line
from tests.finished_run import LATENTS, finish, tell, use
from vaegan_jax.data import pixels, reading
from vaegan_jax.errors import UserError
from vaegan_jax.inference import large_files
from vaegan_jax.setup import memory
from vaegan_jax.setup.finished_run import open_run
from vaegan_jax.setup.modules import create_modules

# Double, ASCII and short tags of GeoTIFF; GDAL's value of no data.
SCALE, TIE, KEYS = (10.0, 10.0, 0.0), (0, 0, 0, 399960.0, 5300040.0, 0.0), 34735
TAGS = [
  (33550, 12, 3, SCALE, True),
  (33922, 12, 6, TIE, True),
  (KEYS, 3, 8, (1, 1, 0, 1, 3072, 0, 1, 32632), True),
  (34737, 2, 0, 'WGS 84 / UTM zone 32N|', True),
  (42112, 2, 0, '<GDALMetadata><Item name="a">b</Item></GDALMetadata>', True),
  (42113, 2, 0, '-9999', True),
]
# Dropped: they are those of other values.
STATISTICS = '<Item name="STATISTICS_MAXIMUM">2999</Item></GDAL'
ARRAYS = ('data.name=array_folder', 'model.latent_shape=map')


def scene(folder):
  """Writes a band-sequential GeoTIFF with no data in a corner, [3, H, W]."""
  rng = np.random.default_rng(0)
  values = rng.integers(0, 3000, (3, 45, 70)).astype(np.int16)
  values[:, :9, :7] = -9999
  tifffile.imwrite(
    folder / 'scene.tif',
    values,
    photometric='minisblack',
    planarconfig='separate',
    extratags=[
      (code, *rest, value.replace('</GDAL', STATISTICS), True)
      if code == 42112
      else (code, *rest, value, True)
      for code, *rest, value, _ in TAGS
    ],
    resolution=(10, 10),
  )
  return values


def sound(folder):
  values = np.random.default_rng(0).integers(-9000, 9000, (203, 2), np.int16)
  soundfile.write(folder / 'sound.wav', values, 8000, subtype='PCM_16')
  return values


def volume(folder):
  """Writes a volume whose first axis has one channel."""
  values = np.random.default_rng(0).normal(size=(1, 13, 30, 8))
  np.savez(folder / 'volume.npz', field=values.astype(np.float32))
  return values


AFFINE = np.array([[0, -2, 0, 9], [3, 0, 0, 8], [0, 0, 4, 7], [0, 0, 0, 1.0]])


def scan(folder):
  """Writes a compressed NIfTI with a scale, and an affine that turns."""
  nibabel = pytest.importorskip('nibabel')
  values = np.random.default_rng(0).integers(0, 4000, (13, 30, 8), np.int16)
  image = nibabel.Nifti1Image(values, AFFINE)
  image.header.set_slope_inter(0.002, -4)
  image.header.set_xyzt_units('mm')
  nibabel.save(image, folder / 'scan.nii.gz')
  return read(folder / 'scan.nii.gz')


# Fields, a tile, the file and its writer, and its axes [*S, C].
FILES = {
  'scene': (
    ('data.shape=(16,16)', 'data.channels=3', 'data.value_range=(0,3000)'),
    '24,32',
    'scene.tif',
    scene,
    (1, 2, 0),
  ),
  'sound': (
    (
      *('data.shape=(32,)', 'data.channels=2', 'data.mid_side=true'),
      'data.value_range=(-9000,9000)',
    ),
    '40',
    'sound.wav',
    sound,
    (0, 1),
  ),
  'volume': (
    ('data.shape=(8,8,8)', 'data.channels=1', 'data.value_range=(-4,4)'),
    '12',
    'volume.npz',
    volume,
    (1, 2, 3, 0),
  ),
}
FILES['scan'] = (*FILES['volume'][:2], 'scan.nii.gz', scan, (0, 1, 2))


def read(path):
  if path.suffix == '.tif':
    return tifffile.imread(path)
  if path.suffix == '.wav':
    return soundfile.read(path, dtype='int16')[0]
  if path.suffix == '.npz':
    return np.load(path)['field']
  import nibabel

  return np.asarray(nibabel.load(path).dataobj, np.float32)


@pytest.mark.parametrize('kind', FILES)
def test_files_come_back_in_their_format(
  kind, tiny_run, tmp_path, monkeypatch, capsys
):
  fields, tile, name, draw, order = FILES[kind]
  run, inputs = tmp_path / 'run', tmp_path / 'inputs'
  inputs.mkdir()
  rate = ('data.sample_rate=8000',) if kind == 'sound' else ()
  finish(run, tiny_run, *ARRAYS, *fields, *rate)
  original = draw(inputs)
  flags = (f'--input={inputs}', f'--tile={tile}')
  use(run, *flags, mode='reconstruct', output=tmp_path)
  written = read(tmp_path / 'reconstructions' / name)
  # The whole at once, in the order of axes that the file has.
  model = vaegan_jax.load(run)
  known = original > -9999
  x = np.where(known, original, np.nan).astype(np.float32).transpose(order)
  if kind == 'scan':  # It has no axis of channels.
    x = x[..., None]
  x, _ = pixels.fill(x[None])
  data = model.config.data
  x = pixels.to_float(x, data.value_range, data.mid_side)
  whole = np.asarray(model.to_values(model.reconstruct(x)))[0]
  if kind == 'scan':
    whole = whole[..., 0]
  whole = whole.transpose(np.argsort(order))
  if kind == 'scene':  # Read with the bands last, and written so.
    original, known, whole = (
      np.moveaxis(array, 0, -1) for array in (original, known, whole)
    )
  is_float = written.dtype.kind == 'f'
  assert written.shape == whole.shape
  assert written.dtype == original.dtype or is_float
  atol = 1e-4 if is_float else 0.51
  np.testing.assert_allclose(written[known], whole[known], atol=atol)
  assert np.array_equal(written[~known], original[~known])
  np.testing.assert_array_equal(
    read(tmp_path / 'originals' / name), original.astype(written.dtype)
  )
  # In two steps, of which the second has no file to look at.
  latents, decoded = tmp_path / 'latents', tmp_path / 'decoded'
  use(run, *flags, mode='encode', output=latents)
  use(run, mode='decode', input=latents, output=decoded)
  assert [path.name for path in decoded.iterdir()] == [name]
  np.testing.assert_array_equal(read(decoded / name), written)
  for folder in ('reconstructions', 'decoded'):
    _check_facts(tmp_path / folder / name)
  if kind != 'sound':
    return
  # The same, read and written in parts.
  monkeypatch.setattr(reading, 'MAX_BYTES', 100)
  monkeypatch.setattr(large_files, '_PART_BYTES', 200)
  tmp_path /= 'large'
  use(run, *flags, mode='reconstruct', output=tmp_path)
  use(run, mode='decode', input=latents, output=tmp_path)
  for folder in ('reconstructions', '.'):
    np.testing.assert_array_equal(read(tmp_path / folder / name), written)
    _check_facts(tmp_path / folder / name)
  np.testing.assert_array_equal(read(tmp_path / 'originals' / name), original)
  np.savez_compressed(inputs / 'a.npz', original)
  told = tell(capsys, run, '--mode=encode', *flags, f'--output={latents}')
  assert 'save it as .npy, a sound or TIFF without compression' in told


def _check_facts(path):
  """Checks the georeference and the sample rate of a file."""
  if path.suffix == '.wav':
    found = soundfile.info(path)
    assert found.samplerate == 8000 and found.subtype == 'PCM_16'
  if path.suffix == '.gz':
    import nibabel

    image = nibabel.load(path)
    np.testing.assert_array_equal(image.affine, AFFINE)
    assert image.header.get_xyzt_units()[0] == 'mm'
    assert image.get_data_dtype() == np.float32
  if path.suffix == '.tif':
    with tifffile.TiffFile(path) as file:
      tags = {tag.code: tag.value for tag in file.pages[0].tags}
      assert file.pages[0].samplesperpixel == 3
    for code, _, _, value, _ in TAGS:
      assert tags[code] == value
    assert tags[282] == (10, 1)


def test_photographs_are_taken_whole_with_flat_latents(
  tiny_run, tmp_path, capsys
):
  run, photos, latents = (tmp_path / n for n in ('run', 'photos', 'latents'))
  photos.mkdir()
  finish(run, tiny_run, *LATENTS['fsq'])
  rng = np.random.default_rng(0)
  for name, shape in (('a.jpg', (20, 37, 3)), ('b.png', (9, 16, 3))):
    pixels = rng.integers(0, 256, shape, np.uint8)
    Image.fromarray(pixels).save(photos / name)
  Image.fromarray(pixels).save(photos / 'c.tif')
  flags = (f'--input={photos}', '--tile=16')
  use(run, *flags, mode='encode', output=latents)
  manifest = json.loads((latents / 'manifest.json').read_text())
  assert manifest['num_images'] == 3 and manifest['format'] == 2
  # Tiles of 16 that overlap by 4: two times three, and one.
  shapes = [part['arrays']['indices']['shape'] for part in manifest['parts']]
  assert [shape[0] for shape in shapes] == [6, 1, 1]
  # The same command again encodes nothing; another tile would.
  capsys.readouterr()
  stamps = [path.stat().st_mtime_ns for path in latents.glob('*.npy')]
  use(run, *flags, mode='encode', output=latents)
  assert stamps == [path.stat().st_mtime_ns for path in latents.glob('*.npy')]
  use(run, mode='decode', input=latents, output=tmp_path / 'decoded')
  use(run, *flags, mode='reconstruct', output=tmp_path)
  for name, size in (('a.png', (37, 20)), ('b.png', (16, 9)), ('c.tif', 0)):
    image = Image.open(tmp_path / 'decoded' / name)
    assert not size or image.size == size
    np.testing.assert_array_equal(
      image, Image.open(tmp_path / 'reconstructions' / name)
    )
  model = vaegan_jax.load(run)
  x = np.asarray(Image.open(photos / 'a.jpg')) / np.float32(127.5) - 1
  found = np.asarray(Image.open(tmp_path / 'reconstructions' / 'a.png'))
  np.testing.assert_allclose(
    found / 127.5 - 1, model.reconstruct_tiled(x[None], 16)[0], atol=1 / 127
  )


@pytest.fixture(scope='module')
def wrong(tiny_run, tmp_path_factory):
  """Returns paths: a run with flat latents, and what it cannot take."""
  root = tmp_path_factory.mktemp('wrong')
  run, tiled, cut = (root / name for name in ('run', 'tiled', 'cut'))
  finish(run, tiny_run)
  np.save(root / 'flat.npy', np.zeros((2, 4), np.float32))
  for folder in (tiled, cut):
    folder.mkdir()
    np.save(folder / 'mean-00000.npy', np.zeros((1, 4), np.float32))
  tiles = {'tile': [16], 'space': [9, 9], 'output': 'a.png'}
  tiles['form'] = {'kind': 'sh', 'shape': [9, 9, 3], 'dtype': 'uint8'}
  part = {'images': '', 'num_images': 1, 'arrays': {'mean': {}}, 'tiles': tiles}
  manifest = {'format': 2, 'step': 1, 'complete': True, 'parts': [part]}
  manifest['model'] = vaegan_jax.load(run).fingerprint
  (tiled / 'manifest.json').write_text(json.dumps(manifest))
  del tiles['space']
  (cut / 'manifest.json').write_text(json.dumps(manifest))
  return {'run': run, 'tiled': tiled, 'cut': cut, 'flat': root / 'flat.npy'}


@pytest.mark.parametrize(
  ('args', 'told'),
  [
    (['--mode=encode', '--tile=none'], 'must be whole numbers from 1'),
    (['--mode=encode', '--tile=0'], 'for example, --tile=256'),
    (['--mode=encode', '--tile=16,16,16'], 'must have 1 or 2 sides'),
    (['--mode=reconstruct', '--tile=8'], 'shape of the training'),
    (['--mode=encode', '--tile=16', '--split=eval'], 'is for files'),
    (['--mode=sample', '--tile=16'], 'is for --mode=encode or'),
    (['--mode=decode', '--tile=16'], 'leave --tile out'),
    (['--mode=decode', '--input={tiled}'], 'damaged format of a file'),
    (['--mode=decode', '--input={cut}'], 'damaged entries under "tiles"'),
  ],
)
def test_a_wrong_tile_gives_one_message(args, told, wrong, capsys):
  args = [arg.format(**wrong) for arg in args]
  if not any(arg.startswith(('--input', '--split')) for arg in args):
    args.append(f'--input={wrong["flat"]}')
  assert told in tell(capsys, wrong['run'], *args)


def test_an_evaluation_in_tiles_is_that_of_whole_images(
  tiny_run, tmp_path, monkeypatch
):
  config = finish(tmp_path, tiny_run, *LATENTS['gaussian_map'])
  shapes, encoder = set(), type(create_modules(config)['autoencoder'].encoder)
  call = encoder.__call__
  monkeypatch.setattr(
    encoder,
    '__call__',
    lambda self, x, *args: shapes.add(x.shape) or call(self, x, *args),
  )

  def open_at(batch_size, tile):
    args = ('--mode=evaluate', f'--config.batch_size={batch_size}')
    args += (f'--config.evaluation.tile_size={tile}',)
    args += ('--config.data.image_size=44', f'--workdir={tmp_path}')
    return open_run(command_line.parse(*args).config, str(tmp_path))

  def evaluate(batch_size, tile):
    shapes.clear()
    evaluator, variables, _ = open_at(batch_size, tile)
    found = evaluator.evaluate(variables).scores
    assert found.pop('distance') is None  # Its critic has one logit an image.
    figures = evaluator.plot(variables)
    of_batches = {shape for shape in shapes if shape[0] > 1}
    return found, figures, of_batches, evaluator.protocol

  scores, figures, shape, protocol = evaluate(2, 0)
  assert shape == {(2, 44, 44, 3)} and 'tiles' not in protocol
  # 8 tiles have as many pixels as 8 * 24 * 24 / (44 * 44) images.
  found, others, shape, protocol = evaluate(8, 24)
  assert shape == {(2, 24, 24, 3)}
  assert 'tiles of 24x24: all values are those of whole examples' in protocol
  assert found == pytest.approx(scores, rel=1e-4)
  assert figures.keys() == others.keys() and len(figures) == 3
  for name, figure in figures.items():
    difference = figure.astype(int) - others[name]
    assert figure.std() > 5 and np.abs(difference).max() <= 1
  with pytest.raises(UserError, match=r'tile_size=22 must .*tile_size=24'):
    open_at(8, 22)
  monkeypatch.setattr(memory, '_available', lambda: 10**5)
  with pytest.raises(UserError, match=r'8 .* 44x44 .*tile_size=20$'):
    open_at(8, 0)
  open_at(8, 20)


def test_blended_tiles_are_those_of_files(tiny_run, tmp_path):
  """An evaluation shows what --mode=reconstruct --tile writes."""
  config = finish(tmp_path, tiny_run, *LATENTS['vq'], 'model.norm=group')
  with config.unlocked(), config.ignore_type():
    config.data.image_size, config.evaluation.tile_size = (28, 44), 16
  evaluator, variables, _ = open_run(config, str(tmp_path))
  x, x_recon, latents = evaluator.reconstruct(variables, range(3))
  assert 'tiles of 16x16, which are blended' in evaluator.protocol
  wanted = vaegan_jax.load(tmp_path).reconstruct_tiled(x, 16, batch_size=4)
  assert x_recon.shape == (3, 28, 44, 3) and latents.shape == (3, 14, 22, 4)
  assert wanted.std() > 0.02
  np.testing.assert_allclose(x_recon, wanted, atol=1e-5)
