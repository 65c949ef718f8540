"""Sounds of lossy formats, and of other rates and channels."""

import io
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from tests.data.crops_test import draw, open_crops
from tests.data.opening import list_arrays, read_array
from tests.data.sounds_test import content, noise, write
from vaegan_jax.data import arrays, reading, sound_conversion, sounds
from vaegan_jax.data.data_config import DataConfig
from vaegan_jax.data.pictures import Pictures
from vaegan_jax.data.reading import Reading
from vaegan_jax.data.sound_headers import index_frame
from vaegan_jax.errors import UserError
from vaegan_jax.inference import large_files, whole_files

KINDS = {
  'a.ogg': ('OGG', 'VORBIS', 44_100),
  'a.opus': ('OGG', 'OPUS', 48_000),
  'a.mp3': ('MP3', 'MPEG_LAYER_III', 44_100),
  'a.aiff': ('AIFF', 'PCM_24', 44_100),
}


CONVERTED = DataConfig(
  'array_folder', shape=(256,), channels=1, resample=True, mix_channels=True
)


def loud(length, rate=44_100):
  """Returns two tones [T, 2] in noise, which codecs make exceed full scale."""
  rng, time = np.random.default_rng(0), np.arange(length) / rate
  tones = np.sin(2 * np.pi * np.outer(time, (300, 700)))
  return np.clip(1.2 * tones + 0.3 * rng.normal(size=tones.shape), -1, 1)


@pytest.mark.parametrize('name', KINDS)
def test_slices_of_every_format_equal_the_whole(name, tmp_path, monkeypatch):
  kind, subtype, rate = KINDS[name]
  sound, path = loud(60_000, rate), tmp_path / name
  path.write_bytes(content(sound, rate, subtype, kind))
  with path.open('rb') as file:
    assert sounds.is_sound(file) and not sounds.is_sound(file, rules=3)
  decoded = soundfile.read(path, always_2d=True)[0] * 2**15
  whole = read_array(path.read_bytes())
  if kind == 'AIFF':
    assert whole.dtype == np.int32
    np.testing.assert_array_equal(whole, decoded * 2**16)
    with pytest.raises(ValueError, match='truncated'):
      read_array(path.read_bytes()[:-5000])
    for size in (0, 0x7F000024, 2**32 - 1):  # Out of a pipe.
      data = bytearray(path.read_bytes())
      for place in (4, data.index(b'SSND') + 4):
        data[place : place + 4] = size.to_bytes(4)
      np.testing.assert_array_equal(read_array(bytes(data)), whole)
  else:  # What exceeds full scale is clipped, and nothing wraps.
    assert whole.dtype == np.int16 and decoded.max() > 2**15
    clipped = np.clip(decoded, -(2**15), 2**15 - 1)
    np.testing.assert_allclose(whole, clipped, atol=0.51)
  file = sounds.SoundFile(str(path))
  assert (file.shape, file.sample_rate) == (whole.shape, rate)
  firsts = np.random.default_rng(0).integers(0, len(whole) - 300, 20)
  for first in (0, *firsts, *range(len(whole) - 9300, len(whole) - 300, 900)):
    part = file[first : first + 300, :].astype(np.int64)
    # MP3 rounds differently after it has sought.
    np.testing.assert_allclose(part, whole[first : first + 300], atol=1)
    if kind == 'MP3':  # It stays open.
      monkeypatch.setattr(sounds, 'open_sound', None)


def test_an_mp3_of_variable_rate_without_an_index_is_read_to_its_end(tmp_path):
  sound = np.concatenate([np.zeros((88_200, 1)), 0.3 * loud(88_200)[:, :1]])
  path = tmp_path / 'a.mp3'
  with soundfile.SoundFile(
    path, 'w', 44_100, 1, format='MP3', bitrate_mode='VARIABLE'
  ) as file:
    file.write(sound)
  data = path.read_bytes()
  assert index_frame(io.BytesIO(data)) == b''
  without = data[data.index(b'\xff\xfb', 2) :]  # Less the index's own frame.
  path.write_bytes(without)
  assert abs(soundfile.info(path).frames - len(sound)) > 0.1 * len(sound)
  whole = read_array(without)
  # All frames, less the decoder's delay; its start has the encoder's.
  assert (len(whole) + 529) % 1152 == 0 and 0 <= len(whole) - len(sound) < 3000
  np.testing.assert_allclose(
    whole[576 + 88_200 :][:80_000], read_array(data)[88_200:][:80_000], atol=1
  )
  for tag in (b'', b'ID3\4\0\0\0\0\0\x20' + bytes(32)):
    path.write_bytes(tag + without)
    file = sounds.SoundFile(str(path))
    assert file.shape == whole.shape
    part = file[150_000:150_300, :].astype(int)
    np.testing.assert_allclose(part, whole[150_000:150_300], atol=1)


@pytest.mark.parametrize(
  ('rate', 'wanted'), [(44_100, 16_000), (16_000, 44_100), (48_000, 16_000)]
)
def test_tones_are_resampled_and_what_is_too_high_is_removed(rate, wanted):
  """Compared with the same tones, sampled at the other rate."""

  def tones(rate, *frequencies):
    times = np.arange(rate) / rate
    return 9000 * np.sin(2 * np.pi * np.outer(times, frequencies)) + 500

  stored = np.rint(tones(rate, 440, 6000)).astype(np.int16)
  how = Reading(sample_rate=wanted)
  converted = sound_conversion.convert(stored, rate, how)
  whole = converted[:, :]
  assert whole.dtype == np.int16 and whole.shape == (wanted, 2)
  inner = slice(1000, -1000)
  expected = tones(wanted, 440, 6000)[inner]
  np.testing.assert_allclose(whole[inner], expected, atol=1.5)
  # A part equals that of the whole, at any place.
  for first in (0, 7, 5000, wanted - 64):
    np.testing.assert_array_equal(
      converted[first : first + 64, :], whole[first : first + 64]
    )
  high = np.rint(tones(rate, 9000)).astype(np.int16)
  if wanted < rate:  # It would be heard at 7 kHz.
    found = sound_conversion.convert(high, rate, how)
    np.testing.assert_allclose(found[:, :][inner], 500, atol=1.5)


def test_rates_with_too_many_filters_name_the_rate_that_is_wanted():
  with pytest.raises(reading.UnreadableKind, match=r'-ar 48001 new\.wav'):
    sound_conversion.convert(noise(), 44_100, Reading(sample_rate=48_001))


def test_channels_are_averaged_or_repeated():
  stereo = noise(channels=2)
  assert sound_conversion.convert(stereo, 8000, Reading(channels=2)) is stereo
  mono = sound_conversion.convert(stereo, 8000, Reading(channels=1))
  assert mono.sample_rate == 8000
  np.testing.assert_array_equal(
    mono[:, :], np.rint(stereo.mean(1, keepdims=True))
  )
  both = sound_conversion.convert(noise(), 8000, Reading(channels=2))
  np.testing.assert_array_equal(both[3:9, :], noise()[3:9].repeat(2, 1))
  with pytest.raises(ValueError, match='has 6 channels'):
    sound_conversion.convert(noise(channels=6), 8000, Reading(channels=2))
  for sound, told in (
    (noise(0), 'axes, none of them empty'),
    (np.full((300, 1), np.nan), 'samples that are infinite or NaN'),
  ):
    with pytest.raises(ValueError, match=told):
      arrays.read_stored(content(sound, 8000, 'FLOAT'), Reading(channels=2))


def npy(*shape, holes=0):
  values = np.zeros(shape, np.float32)
  values[:holes] = np.nan
  return arrays.encode_npy(values)


@pytest.mark.parametrize(
  ('name', 'data', 'fields', 'told'),
  [
    (
      'a.wav',
      content(noise(300), 44_100),
      {},
      r'has 44,100 samples per second, and data\.sample_rate is 16,000: '
      r'resample it, as ffmpeg -i old\.wav -ar 16000 new\.wav does, or, for '
      r'a model of a folder, use --config\.data\.resample=true\)',
    ),
    (
      'a.wav',
      content(noise(300, 2)),
      {},
      r'no axis of \[300, 2\] has 1 channels\): convert it, .*'
      r'--config\.data\.mix_channels=true',
    ),
    # Other sources are not mixed, and three channels are not made two.
    (
      'a.wav',
      content(noise(300, 2)),
      {'name': 'drawn_sounds'},
      r'has 1 channels\): convert it, or leave it out',
    ),
    (
      'a.wav',
      content(noise(300, 3)),
      {'channels': 2, 'mix_channels': True},
      r'it has 3 channels: .*, not 2\): convert it, or leave it out',
    ),
    ('a.npy', npy(200, 1), {}, r'is smaller than \[256\]\): pad it, or .* out'),
    (
      'a.npy',
      npy(256, 1, holes=32),
      {'max_nodata': 0.1},
      r'12\.50% of its values are missing, .*\): cut out a part .* out',
    ),
    (
      'a.npy',
      npy(256, 1)[:-4],
      {},
      r'\): repair or remove it, and run .* again',
    ),
  ],
)
def test_only_a_damaged_file_is_to_be_repaired(
  name, data, fields, told, tmp_path
):
  (tmp_path / name).write_bytes(data)
  usual = {'name': 'array_folder', 'shape': (256,), 'channels': 1}
  used = DataConfig(**usual | fields)
  with pytest.raises(UserError, match=f'as an array .*{told}$'):
    Pictures(str(tmp_path), used)[np.arange(1)]


def mixed_folder(tmp_path):
  """Writes 30 sounds of 16 kHz, and 4 others of which one is silent."""
  folder = write(tmp_path / 'a', length=700)
  for index in range(3):
    sound = noise(2400, 2, seed=index)
    data = content(sound, 48_000, 'PCM_16', 'FLAC')
    (folder / f'x{index}.flac').write_bytes(data)
  (folder / 'quiet.wav').write_bytes(content(np.zeros((800, 1), np.int16)))
  (folder / 'short.wav').write_bytes(content(noise(500), 48_000))
  return folder


@pytest.mark.parametrize('crop', ['center', 'random'])
def test_a_folder_of_several_rates_needs_a_word_to_be_converted(crop, tmp_path):
  folder = mixed_folder(tmp_path)
  fields = {'shape': (256,), 'crop': crop}
  told = (
    r"4 are not, such as '.*convert or remove these: "
    r'--config\.data\.resample=true '
    r'--config\.data\.sample_rate=16000 --config\.data\.mix_channels=true'
  )
  with pytest.raises(UserError, match=told):
    open_crops(folder, tmp_path, **fields)
  fields |= {'resample': True, 'mix_channels': True}
  *splits, lines = open_crops(folder, tmp_path, **fields)
  assert any(
    '3 of 34 sounds are converted to 16,000 Hz and 1 channel: 3 of 48,000 Hz, '
    '2 channels.' in line
    for line in lines
  )
  (told,) = (line for line in lines if 'silent throughout' in line)
  assert "1 of 34 sounds are silent throughout, such as 'quiet.wav'" in told
  if crop == 'center':
    return
  wholes = []
  for path in sorted(folder.iterdir()):
    stored, rate = sounds.read_sound(path.read_bytes())
    how = Reading(sample_rate=16_000, channels=1)
    wholes.append(sound_conversion.convert(stored, rate, how)[:, :])
  windows = [
    np.lib.stride_tricks.sliding_window_view(w[:, 0], 256)
    for w in wholes
    if len(w) >= 256
  ]
  known = {row.tobytes() for rows in windows for row in rows}
  for split in splits:
    assert {crop[:, 0].tobytes() for crop in draw(split, 16)} <= known


def test_runs_of_earlier_versions_read_the_same_files(tmp_path):
  folder = write(tmp_path / 'a')
  (folder / 'b.mp3').write_bytes(
    content(loud(5000), 44_100, 'MPEG_LAYER_III', 'MP3')
  )
  assert 'b.mp3' in list_arrays(folder).names
  assert len(list_arrays(folder, folder_rules=3).names) == 30


def test_a_large_recording_is_converted_in_parts(tmp_path, monkeypatch):
  monkeypatch.setattr(reading, 'MAX_BYTES', 200_000)
  path = tmp_path / 'a.flac'
  path.write_bytes(content(loud(60_000), 44_100, 'PCM_16', 'FLAC'))
  whole = large_files.open_large(str(path), CONVERTED)
  assert isinstance(whole.values, large_files.LargeArray)
  assert whole.values.shape == (21_769, 1)
  monkeypatch.undo()
  expected = whole_files.read_whole(path.read_bytes(), CONVERTED).values
  places = np.arange(20_000, 21_000)
  found = whole.values[places,]
  np.testing.assert_array_equal(found, expected[places])
  assert whole.form.facts['sample_rate'] == 16_000


def test_a_lossy_file_is_written_as_a_wav_at_the_models_rate():
  data = content(loud(44_100), 44_100, 'VORBIS', 'OGG')
  whole = whole_files.read_whole(data, CONVERTED)
  assert whole.values.shape == (16_000, 1)
  wav = whole_files.write_whole(whole.values, whole.form, CONVERTED)
  read, rate = sounds.read_sound(wav)
  assert rate == 16_000
  np.testing.assert_array_equal(read, whole.values)
  assert sounds.output_name('b/a.Ogg') == 'b/a.wav'
  assert sounds.output_name('a.flac') == 'a.flac'


def test_open_mp3s_are_closed_before_the_library_goes(tmp_path):
  """Else Python's end prints tracebacks of the library."""
  (tmp_path / 'a.mp3').write_bytes(
    content(loud(5000), 44_100, 'MPEG_LAYER_III', 'MP3')
  )
  script = """
import atexit, sys
atexit.register(lambda: print(len(sounds._KEPT_OPEN._kept)))
from vaegan_jax.data import sounds
print(sounds.SoundFile(sys.argv[1])[:9, :].shape)
"""
  command = [sys.executable, '-c', script, str(tmp_path / 'a.mp3')]
  run = subprocess.run(command, capture_output=True, text=True, check=True)
  assert run.stdout.split('\n')[:2] == ['(9, 2)', '0'] and not run.stderr
