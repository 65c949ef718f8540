"""Sounds in files: every subtype, lengths of their own, damage, writing."""

import dataclasses
import io

import numpy as np
import pytest
import soundfile

from tests.data.opening import (
  everything,
  list_arrays,
  load,
  open_dataset,
  read_array,
)
from vaegan_jax.data import arrays, sounds
from vaegan_jax.data.data_config import DataConfig
from vaegan_jax.data.reading import Reading
from vaegan_jax.data.split import check_examples
from vaegan_jax.errors import UserError


def content(samples, rate=16_000, subtype='PCM_16', kind='WAV'):
  file = io.BytesIO()
  soundfile.write(file, samples, rate, format=kind, subtype=subtype)
  return file.getvalue()


def noise(length=300, channels=1, seed=0):
  shape = (length, channels)
  return np.random.default_rng(seed).integers(-9999, 9999, shape, np.int16)


def write(folder, count=30, length=300, rate=16_000, **options):
  folder.mkdir(exist_ok=True)
  for index in range(count):
    sound = noise(length + index, seed=index)
    data = content(sound, rate, **options)
    (folder / f'{index:02}.wav').write_bytes(data)
  return folder


@pytest.mark.parametrize(
  ('kind', 'subtype', 'dtype'),
  [
    ('WAV', 'PCM_U8', 'int16'),
    ('WAV', 'PCM_16', 'int16'),
    ('WAV', 'PCM_24', 'int32'),
    ('WAV', 'PCM_32', 'int32'),
    ('WAV', 'FLOAT', 'float32'),
    ('WAV', 'DOUBLE', 'float32'),
    ('FLAC', 'PCM_16', 'int16'),
    ('FLAC', 'PCM_24', 'int32'),
  ],
)
def test_samples_keep_their_values(kind, subtype, dtype):
  sound = noise(channels=2)
  sound = sound // 256 * 256 if subtype == 'PCM_U8' else sound
  expected = sound.astype(np.int32) * 2**16 if dtype == 'int32' else sound
  if dtype == 'float32':
    expected = sound = (sound / 2**15).astype(np.float32)
  data = content(sound, 22_050, subtype, kind)
  read, rate = sounds.read_sound(data)
  assert (read.dtype, rate) == (dtype, 22_050)
  np.testing.assert_array_equal(read, expected)
  np.testing.assert_array_equal(read_array(data), expected)


@pytest.mark.parametrize('kind', ['WAV', 'FLAC'])
@pytest.mark.parametrize('part', [0.6, 0.1])
def test_what_is_truncated_is_damaged(kind, part):
  data = content(noise(20_000), kind=kind)
  with pytest.raises(Exception, match=r'truncated|rror'):
    read_array(data[: int(part * len(data))])


@pytest.mark.parametrize(
  'sizes',
  [
    (2**32 - 1, 2**32 - 1),  # ffmpeg
    (0x7FFFF024, 0x7FFFF000),  # sox
    (2**31 + 36, 2**31),  # arecord
    (0, 0),
    (2**32 - 1, 0),
  ],
)
def test_a_wav_out_of_a_pipe_has_no_size_and_is_read(sizes):
  data = bytearray(content(noise()))
  data[4:8], data[40:44] = (size.to_bytes(4, 'little') for size in sizes)
  np.testing.assert_array_equal(read_array(bytes(data)), noise())
  # Metadata before the samples, as ffmpeg writes it.
  note = b'LIST' + (6).to_bytes(4, 'little') + b'INFO\0\0'
  longer = bytes(data[:36]) + note + bytes(data[36:])
  np.testing.assert_array_equal(read_array(longer), noise())


def test_a_wav_of_gigabytes_ends_where_it_says(tmp_path):
  """Its size is one that pipes write, and metadata follow the samples."""
  head, note = content(noise())[:40], b'LIST\4\0\0\0INFO'
  size, path = 2**31 + 600, tmp_path / 'a.wav'
  with open(path, 'wb') as file:
    whole = 36 + size + len(note)
    file.write(head[:4] + whole.to_bytes(4, 'little') + head[8:])
    file.write(size.to_bytes(4, 'little'))
    file.seek(size - 600, 1)  # Zeros, which need no disk.
    file.write(noise().tobytes() + note)
  sound = sounds.SoundFile(str(path))
  assert sound.shape == (size // 2, 1)
  np.testing.assert_array_equal(sound[size // 2 - 300 :, :], noise())
  with open(path, 'ab') as file:  # Out of a pipe, samples are the last.
    file.write(bytes(2**10))
  assert sounds.SoundFile(str(path)).shape == ((size + 12 + 2**10) // 2, 1)


def without_length(flac):
  """Returns a FLAC whose header states no number of samples."""
  data = bytearray(flac)
  data[21] &= 0xF0
  data[22:26] = bytes(4)
  return bytes(data)


@pytest.mark.parametrize('length', [1, 4096, 70_000])
def test_a_flac_out_of_a_pipe_is_read_to_its_end(length, tmp_path):
  sound = noise(length, channels=2)
  data = without_length(content(sound, kind='FLAC'))
  tag = b'ID3\4\0\0\0\0\0\7' + bytes(7)
  for start in (b'', tag):
    np.testing.assert_array_equal(read_array(start + data), sound)
  (tmp_path / 'a.flac').write_bytes(tag + data)
  file = sounds.SoundFile(str(tmp_path / 'a.flac'))
  assert file.shape == (length, 2)
  middle = slice(length // 2, length // 2 + 300)
  np.testing.assert_array_equal(file[middle, :], sound[middle])
  assert sounds.read_format(io.BytesIO(data))['format'] == 'FLAC'


def test_a_flac_may_have_a_tag_before_it():
  data = content(noise(), kind='FLAC')
  for size, flags, footer in ((300, 0, b''), (300, 16, bytes(10))):
    coded = bytes([0, 0, size >> 7, size & 127])
    tag = b'ID3\4\0' + bytes([flags]) + coded + bytes(size) + footer
    np.testing.assert_array_equal(read_array(tag + data), noise())
    with pytest.raises(ValueError, match='its content is no'):
      arrays.read_stored(tag + data, Reading(rules=2))


def test_a_bw64_is_an_rf64_of_another_name():
  data = content(noise(channels=2), kind='RF64', subtype='PCM_24')
  read = read_array(b'BW64' + data[4:])
  np.testing.assert_array_equal(read, read_array(data))
  assert read.shape == (300, 2)


def test_other_sounds_beside_are_mentioned(tmp_path):
  folder = write(tmp_path / 'a')
  for index in range(3):
    (folder / f'{index}.m4a').write_bytes(b'ID3' + bytes(100))
  (folder / 'notes.txt').write_text('a')
  lines = open_folder(folder, tmp_path).report(DataConfig('array_folder'))
  told = 'Warning: the folder also has 3 .m4a (ffmpeg converts them to .wav)'
  assert any(line.startswith(told) for line in lines)
  assert not any('.txt' in line for line in lines)


def open_folder(folder, tmp_path):
  return open_dataset(
    'array_folder', tmp_path / 'data', path=folder, shape=(256,)
  )


def test_lengths_differ_and_the_middle_is_cut(tmp_path):
  builder = open_folder(write(tmp_path / 'a'), tmp_path)
  assert (builder.shape, builder.dtype) == ((300, 1), np.int16)
  split = load(
    builder, 'train+test', shape=(256,), channels=1, cache_images=False
  )
  found = everything(split)
  wanted = {
    arrays.to_example(
      noise(300 + i, seed=i), channels=1, shape=(256,)
    ).tobytes()
    for i in range(30)
  }
  assert {example.tobytes() for example in found} == wanted


def test_sounds_that_are_too_short_are_counted_and_named(tmp_path, caplog):
  folder = write(tmp_path / 'a')
  (folder / 'short.wav').write_bytes(content(noise(255)))
  (folder / 'empty.wav').write_bytes(content(noise(0)))
  files = list_arrays(folder, shape=(256,), channels=1)
  damaged = files.find_damaged()
  assert set(damaged) == {'short.wav', 'empty.wav'}
  assert 'it has 255 samples, and at least 256 are needed' in str(damaged)
  assert 'Skipped 2 of 32 arrays' in caplog.text
  assert set(list_arrays(folder).find_damaged()) == {'empty.wav'}
  told = r'damaged, such as.*take less of each: --config.data.shape="\(256,\)"'
  with pytest.raises(UserError, match=told):
    list_arrays(folder, shape=(310,), channels=1).find_damaged()


@pytest.mark.parametrize(
  ('other', 'told'),
  [
    (content(noise(), 8_000), 'channels=1 and sample_rate=8000'),
    (content(noise(channels=2)), 'channels=2 and sample_rate=16000'),
    (content(noise(), subtype='PCM_24'), 'int32 sounds.*-c:a pcm_s16le new'),
    (arrays.encode_npy(noise()), r'int16 \[300, 1\]'),
  ],
)
def test_sounds_that_are_not_alike_are_one_sentence(other, told, tmp_path):
  folder = write(tmp_path / 'a')
  (folder / 'other.wav').write_bytes(other)
  files = list_arrays(folder, shape=(256,), channels=1)
  with pytest.raises(
    UserError, match=rf"1 are not, such as 'other\.wav'.*{told}"
  ):
    files.find_damaged()


def test_another_sample_rate_is_one_sentence(tmp_path):
  builder = open_folder(write(tmp_path / 'a', rate=44_100), tmp_path)
  fields = {'name': 'array_folder', 'shape': (256,)}
  told = r'data\.sample_rate=16000 must be 44100.*--config\.data\.sample_rate='
  with pytest.raises(UserError, match=told):
    check_examples(builder, DataConfig(**fields, sample_rate=16_000))
  mono = DataConfig(**fields, sample_rate=44_100, channels=1)
  check_examples(builder, mono)
  told = r'data\.channels=3 must be 1.*or --config\.data\.mix_channels=true'
  with pytest.raises(UserError, match=told):
    check_examples(builder, dataclasses.replace(mono, channels=3))
  data = content(noise(), 44_100)
  with pytest.raises(ValueError, match='has 44,100 samples per second'):
    arrays.decode_array(data, channels=1, shape=(256,), sample_rate=16_000)


@pytest.mark.parametrize(
  ('value_range', 'full'),
  [((-1, 1), 1), ((-1.2, 0.9), 1), ((-900, 800), 2**15), ((0, 2**30), 2**31)],
)
def test_a_wav_has_full_scale_at_1(value_range, full):
  values = np.linspace(*value_range, 50)[:, None]
  assert sounds.can_encode(value_range)
  data = sounds.encode_wav(values, sample_rate=8_000, value_range=value_range)
  read, rate = sounds.read_sound(data)
  assert (read.dtype, rate) == (np.float32, 8_000)
  np.testing.assert_allclose(read, values / full, rtol=1e-6)
  assert not sounds.can_encode((0, 1e12))
