"""The modes that use a trained model: encode, decode, reconstruct, sample."""

import json
import os
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import vaegan_jax
from tests.data import profiles
from tests.finished_run import LATENTS, STEP, finish, tell, use
from tests.processes import Process
from vaegan_jax.data.data_config import DataConfig
from vaegan_jax.data.pictures import png_names
from vaegan_jax.data.split import load_splits
from vaegan_jax.inference import encode

KINDS = ('gaussian', 'none', 'vq')


@pytest.fixture(scope='module')
def runs(tiny_run, tmp_path_factory):
  """Returns {kind of latent: workdir}."""
  runs = {}
  for kind in KINDS:
    runs[kind] = tmp_path_factory.mktemp('runs') / kind
    finish(runs[kind], tiny_run, *LATENTS[kind])
  return runs


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
  """Returns a folder of seven images of various sizes and kinds.

  One lies on its side, and another has a color profile.
  """
  folder = tmp_path_factory.mktemp('photos')
  rng = np.random.default_rng(0)
  for index in range(7):
    pixels = rng.integers(0, 256, (20 + index, 30, 3), np.uint8)
    name = f'sub/{index}.jpg' if index % 2 else f'{index}.png'
    (folder / name).parent.mkdir(exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = 6 if index == 1 else 1
    profile = profiles.rgb('Display P3') if index == 2 else None
    Image.fromarray(pixels).save(folder / name, exif=exif, icc_profile=profile)
  (folder / 'notes.txt').write_text('no image')
  return folder


def manifest(folder):
  return json.loads((folder / 'manifest.json').read_text())


def arrays(folder, name):
  return np.concatenate(
    [np.load(path) for path in sorted(folder.glob(f'{name}-*.npy'))]
  )


@pytest.mark.parametrize('kind', KINDS)
def test_a_folder_is_encoded_and_decoded(kind, runs, photos, tmp_path):
  workdir, latents, pictures = runs[kind], tmp_path / 'l', tmp_path / 'p'
  use(workdir, mode='encode', input=photos, output=latents)
  model = vaegan_jax.load(workdir)
  names = arrays(latents, 'names').tolist()
  assert names == sorted(
    ['0.png', '2.png', '4.png', '6.png', 'sub/1.jpg', 'sub/3.jpg', 'sub/5.jpg']
  )
  x = model.preprocess([Image.open(photos / name) for name in names])
  posterior = model.encode(x)
  kept = {
    'gaussian': ('mean', 'logvar'),
    'vq': ('indices',),
    'none': ('latents',),
  }[kind]
  for name in kept:
    np.testing.assert_allclose(
      arrays(latents, name), getattr(posterior, name), atol=1e-5
    )
  facts = manifest(latents)
  assert facts['complete'] and facts['arrays'] == sorted([*kept, 'names'])
  assert facts['model'] == model.fingerprint and facts['step'] == STEP
  assert facts['latent_shape'] == list(model.latent_shape)
  np.testing.assert_allclose(
    facts['statistics']['mean'],
    np.asarray(posterior.latents).reshape(-1, 4).mean(0),
    atol=1e-4,
  )
  use(workdir, mode='decode', input=latents, output=pictures)
  wanted = np.asarray(model.reconstruct(x))
  for name, want in zip(png_names(names), wanted, strict=True):
    pixels = np.asarray(Image.open(pictures / name))
    np.testing.assert_allclose(pixels / 127.5 - 1, want, atol=1.01 / 127.5)
  # One array of latents or of indices suffices.
  np.save(tmp_path / 'some.npy', arrays(latents, kept[0])[:2])
  use(
    workdir, mode='decode', input=tmp_path / 'some.npy', output=tmp_path / 'two'
  )
  two = sorted((tmp_path / 'two').iterdir())
  assert [path.name for path in two] == ['00000000.png', '00000001.png']
  first = np.asarray(Image.open(two[0]))
  np.testing.assert_array_equal(
    first, np.asarray(Image.open(pictures / '0.png'))
  )


def test_interrupted_encoding_resumes(
  runs, photos, tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(encode, 'PART', 2)
  args = ('--mode=encode', f'--input={photos}')
  use(runs['gaussian'], *args, output=tmp_path / 'whole')
  written = []
  write = encode.LatentWriter.write

  def stop_after_two(self, part, *rest):
    written.append(part)
    if part == 2:
      raise KeyboardInterrupt
    write(self, part, *rest)

  output = f'--output={tmp_path / "stopped"}'
  with monkeypatch.context() as patch:
    patch.setattr(encode.LatentWriter, 'write', stop_after_two)
    with pytest.raises(KeyboardInterrupt):
      use(runs['gaussian'], *args, output)
  assert not manifest(tmp_path / 'stopped')['complete']
  sentence = tell(
    capsys, runs['gaussian'], '--mode=decode', f'--input={tmp_path}/stopped'
  )
  assert 'is not complete: run the same --mode=encode again' in sentence
  written.clear()
  monkeypatch.setattr(
    encode.LatentWriter,
    'write',
    lambda self, part, *rest: written.append(part) or write(self, part, *rest),
  )
  use(runs['gaussian'], *args, output)
  assert written == [2, 3]
  assert '2 of 4 parts are there already' in capsys.readouterr().out
  assert manifest(tmp_path / 'stopped') == manifest(tmp_path / 'whole')
  for name in ('mean', 'logvar', 'names'):
    np.testing.assert_array_equal(
      arrays(tmp_path / 'stopped', name), arrays(tmp_path / 'whole', name)
    )
  # A part whose images have changed is encoded again, and so are later parts.
  changed = tmp_path / 'changed'
  shutil.copytree(photos, changed)
  written.clear()
  use(runs['gaussian'], output, mode='encode', input=changed)
  assert written == []  # Copies keep their times.
  (changed / '4.png').unlink()
  use(runs['gaussian'], output, mode='encode', input=changed)
  assert written == [1, 2]
  assert manifest(tmp_path / 'stopped')['num_images'] == 6


def test_several_devices_encode_as_one(runs, photos, tmp_path):
  args = ['--mode=encode', f'--input={photos}', '--config.batch_size=4']
  use(runs['vq'], *args, output=tmp_path / 'one')
  output = f'--output={tmp_path / "three"}'
  process = Process(runs['vq'], *args, output, devices=3)
  assert process.wait() == 0, process.err
  np.testing.assert_array_equal(
    arrays(tmp_path / 'one', 'indices'), arrays(tmp_path / 'three', 'indices')
  )


def test_a_split_is_encoded_and_an_older_run_is_measured(runs, tmp_path):
  workdir = tmp_path / 'run'
  shutil.copytree(runs['gaussian'], workdir)
  assert not (workdir / 'latents.json').exists()
  use(workdir, mode='encode', split='train')
  model = vaegan_jax.load(workdir)
  (images,) = load_splits(DataConfig(**model.config.data), ['train_split'])
  posterior = model.encode(model.preprocess(images[np.arange(len(images))]))
  folder = workdir / 'latents'
  np.testing.assert_allclose(arrays(folder, 'mean'), posterior.mean, atol=1e-5)
  facts = manifest(folder)
  assert facts['num_images'] == 38 == model.statistics.num_images
  np.testing.assert_allclose(facts['statistics']['std'], model.latent_std)


def test_reconstructions_are_written_with_originals(runs, photos, tmp_path):
  args = (f'--input={photos}', f'--output={tmp_path}')
  use(runs['gaussian'], *args, mode='reconstruct')
  model = vaegan_jax.load(runs['gaussian'])
  for name in ('0.png', 'sub/1.png'):
    original = photos / name.replace('1.png', '1.jpg')
    x = model.preprocess(Image.open(original))
    pair = {'originals': x, 'reconstructions': model.reconstruct(x)}
    for folder, want in pair.items():
      pixels = np.asarray(Image.open(tmp_path / folder / name))
      np.testing.assert_allclose(pixels / 127.5 - 1, want[0], atol=1 / 127)
  assert len(list((tmp_path / 'originals').rglob('*.png'))) == 7


def test_samples_depend_on_the_seed(runs, tmp_path):
  args = ('--mode=sample', '--num_samples=10', '--config.seed=3')
  use(runs['vq'], *args, output=tmp_path)
  model = vaegan_jax.load(runs['vq'])
  wanted = model.sample(jax.random.key(3), 10)
  for index in (0, 9):
    pixels = np.asarray(Image.open(tmp_path / f'{index:08}.png'))
    np.testing.assert_allclose(pixels / 127.5 - 1, wanted[index], atol=1 / 127)
  assert (tmp_path / 'samples.png').exists()
  assert len(os.listdir(tmp_path)) == 11


def test_file_names_are_uniform_and_unique():
  assert png_names(['a.jpg', 'b/c.png', 'd']) == ['a.png', 'b/c.png', 'd.png']
  assert png_names(['a.jpg', 'a.png']) == ['a.jpg.png', 'a.png.png']


@pytest.mark.parametrize(
  ('args', 'told'),
  [
    (['--mode=encode', '--input=/nowhere'], 'does not exist: name a file'),
    (['--mode=encode', '--input={empty}'], 'has no image: name a folder'),
    (['--mode=encode', '--input={damaged}'], 'damaged.png cannot be read as'),
    (['--mode=decode', '--input={empty}'], 'is not a folder of latents'),
    (['--mode=decode', '--input={other}'], 'latents of another model'),
    (['--mode=decode', '--input={npy}'], 'they are of another model'),
    (['--mode=decode', '--input={text}'], 'cannot be read as a .npy file'),
    (['--mode=decode', '--input={objects}'], 'cannot be read as a .npy file'),
    (['--mode=decode', '--input={outside}'], 'written outside of --output'),
    (['--mode=encode', '--split=eval', '--output={other}'], 'another model'),
    (['--mode=export', '--output={run}'], 'is --workdir itself'),
    (['--mode=export', '--output={second}'], 'is a run itself'),
  ],
)
def test_a_mistake_gives_one_message(args, told, runs, tmp_path, capsys):
  run = runs['gaussian']
  places = {
    name: tmp_path / name
    for name in ('empty', 'damaged', 'other', 'outside', 'second')
  }
  for path in places.values():
    path.mkdir()
  places |= {
    name: tmp_path / f'{name}.npy' for name in ('npy', 'text', 'objects')
  }
  places['run'] = run
  (places['damaged'] / 'damaged.png').write_bytes(b'\x89PNG\r\n\x1a\n no more')
  (places['second'] / 'checkpoints').mkdir()
  np.save(places['npy'], np.zeros((3, 7), np.float32))
  np.save(places['objects'], np.array([{}], object), allow_pickle=True)
  places['text'].write_text('no array')
  facts = {'format': 1, 'step': 1, 'complete': True}
  arrays = {name: {'shape': [1, 4]} for name in ('mean', 'names')}
  parts = [{'images': 'any', 'num_images': 1, 'arrays': arrays, 'moments': []}]
  for name, model in (
    ('other', 'another'),
    ('outside', vaegan_jax.load(run).fingerprint),
  ):
    content = facts | {'model': model, 'parts': parts}
    (places[name] / 'manifest.json').write_text(json.dumps(content))
  np.save(places['outside'] / 'mean-00000.npy', np.zeros((1, 4), np.float32))
  np.save(places['outside'] / 'names-00000.npy', np.array(['../../evil.png']))
  args = [arg.format(**places) for arg in args]
  assert told in tell(capsys, run, *args)
  assert not (tmp_path.parent / 'evil.png').exists()
