"""Color profiles: found, converted to sRGB, counted; and nothing else."""

import numpy as np
import pytest
from PIL import Image, ImageCms

from tests.data import profiles
from tests.data.contents import encode
from tests.data.opening import everything, load, open_dataset
from vaegan_jax.data import color, decode
from vaegan_jax.data.data_config import DataConfig
from vaegan_jax.data.pictures import Pictures

_WARM = (200, 100, 50)


def decoded(data, channels=3, to_srgb=True):
  pixels = decode.decode_image(
    data, channels=channels, image_size=4, to_srgb=to_srgb
  )
  assert (pixels == pixels[0, 0]).all()
  return pixels[0, 0].tolist()


def converted(pixel, name, gamma=0.0):
  """Computes the conversion to sRGB by its formulas."""
  x = np.array(pixel) / 255
  x = (
    x**gamma
    if gamma
    else np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
  )
  x = x @ profiles.PRIMARIES[name] @ np.linalg.inv(profiles.PRIMARIES['sRGB'])
  x = np.clip(x, 0, 1)
  x = np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)
  return 255 * x


@pytest.mark.parametrize('file_format', ('PNG', 'JPEG', 'WEBP', 'TIFF'))
@pytest.mark.parametrize(
  ('name', 'gamma'), [('Display P3', 0), ('Adobe RGB', 563 / 256)]
)
def test_colors_are_converted_to_srgb(name, gamma, file_format):
  image = Image.new('RGB', (8, 8), _WARM)
  profile = profiles.rgb(name, gamma)
  data = encode(image, file_format, icc_profile=profile, lossless=True)
  plain = decoded(data, to_srgb=False)
  np.testing.assert_allclose(plain, _WARM, atol=2)
  want = converted(plain, name, gamma)
  assert np.abs(want - _WARM).max() > 10
  np.testing.assert_allclose(decoded(data), want, atol=1.5)


def test_every_kind_of_srgb_keeps_its_bits():
  noise = Image.effect_noise((64, 64), 60).convert('RGB')
  created = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
  for profile in (None, created, profiles.rgb('sRGB')):
    for image in (noise, noise.convert('L'), noise.convert('P')):
      data = encode(image, icc_profile=profile)
      read = decode.read_image(data)
      assert color.find_profile(read) is None
      assert color.to_srgb(read) is read


def test_channels_that_are_no_color_stay():
  p3 = profiles.rgb('Display P3')
  want = decoded(encode(Image.new('RGB', (4, 4), _WARM), icc_profile=p3))
  see_through = Image.new('RGBA', (4, 4), (*_WARM, 77))
  data = encode(see_through, icc_profile=p3)
  assert decoded(data, 4) == [*want, 77]
  palette = Image.new('P', (4, 4), 1)
  palette.putpalette([0, 0, 0, *_WARM])
  assert decoded(encode(palette, icc_profile=p3)) == want
  data = encode(palette, icc_profile=p3, transparency=1)
  assert decoded(data, 4) == [*want, 0] and decoded(data) == [255] * 3
  dark = profiles.grey(1.0)  # Linear light.
  for mode, pixel, alpha in (('L', 60, []), ('LA', (60, 77), [77])):
    data = encode(Image.new(mode, (4, 4), pixel), icc_profile=dark)
    assert decoded(data, 1 + len(alpha)) == [133, *alpha]
  deep = Image.fromarray(np.full((4, 4), 60 * 256 + 9, np.uint16))
  assert decoded(encode(deep, icc_profile=dark), 1) == [133]


def test_inks_are_converted_by_their_profile():
  image = Image.new('CMYK', (4, 4), (0, 255, 255, 0))
  data = encode(image, 'TIFF')
  assert decoded(data) == [255, 0, 0]  # As without profiles.
  data = encode(image, 'TIFF', icc_profile=profiles.cmyk())
  red, green, blue = decoded(data)  # Half of the inks: L* = 75, without color.
  np.testing.assert_allclose((red, green, blue), 185, atol=25)
  assert max(red, green, blue) - min(red, green, blue) <= 2
  image = Image.effect_noise((16, 16), 60).convert('CMYK')
  data = encode(image, 'JPEG', icc_profile=profiles.cmyk())
  assert np.ptp(decode.decode_image(data, channels=1, image_size=16)) > 9


@pytest.mark.parametrize(
  ('mode', 'profile'),
  [
    ('RGB', b'no profile'),
    ('RGB', profiles.rgb('Display P3')[:300]),
    ('RGB', profiles.grey(1.0)),
    ('L', profiles.rgb('Display P3')),
    ('RGB', profiles.cmyk()),
  ],
)
def test_a_profile_that_cannot_be_used_changes_nothing(mode, profile):
  image = Image.new(mode, (4, 4), _WARM if mode == 'RGB' else 90)
  data = encode(image, icc_profile=profile)
  read = decode.read_image(data)
  assert color.find_profile(read).transform is None
  assert decoded(data) == decoded(encode(image))


def test_malformed_profiles_never_raise():
  rng = np.random.default_rng(0)
  image = Image.new('RGB', (4, 4), _WARM)
  p3 = profiles.rgb('Display P3')
  for _ in range(60):
    content = bytearray(p3[: rng.integers(1, len(p3))])
    content[rng.integers(len(content))] = rng.integers(256)
    image.info['icc_profile'] = bytes(content)
    assert color.to_srgb(image).size == (4, 4)
  image.info['icc_profile'] = 'text'
  assert color.find_profile(image) is None


def write(folder, profile_of):
  """Writes 20 files, with the profile that `profile_of` returns for each."""
  folder.mkdir()
  for index in range(20):
    image = Image.new('RGB', (8, 8), (200, 10 * index, 50))
    profile = profile_of(index)
    image.save(folder / f'{index:02}.png', icc_profile=profile)
  return folder


def test_a_folder_is_converted_counted_and_told(tmp_path):
  p3 = profiles.rgb('Display P3')
  kinds = {0: p3, 1: p3, 2: profiles.rgb('Adobe RGB', 2.2), 3: b'none'}
  folder = write(tmp_path / 'images', kinds.get)
  data = DataConfig('image_folder', path=str(folder), image_size=8)
  opened = {
    rules: open_dataset(
      'image_folder', tmp_path / 'data', path=folder, folder_rules=rules
    )
    for rules in (2, 3, 3)
  }
  lines = opened[3].report(data)  # From the index, too.
  assert (
    '3 of 20 images are converted to sRGB from their color profiles: '
    'Display P3 (2), Adobe RGB (1).' in lines
  )
  assert (
    "1 of 20 images have a color profile that cannot be used, such as '03.png',"
    ' and are read as sRGB.' in lines
  )
  old, new = (load(opened[rules], 'train+test') for rules in (2, 3))
  assert old.fingerprint != new.fingerprint
  names = [n for key in ('train', 'test') for n in opened[3]._names[key]]
  order = np.argsort(names)
  before, after = everything(old)[order], everything(new)[order]
  np.testing.assert_array_equal(before[:, 0, 0, 1], 10 * np.arange(20))
  np.testing.assert_array_equal(before[3:], after[3:])
  assert (before[:3] != after[:3]).any((1, 2, 3)).all()
  np.testing.assert_allclose(
    after[1, 0, 0], converted((200, 10, 50), 'Display P3'), atol=1.5
  )
  # Files that a finished model reads are decoded as in its training.
  for rules, want in ((3, after), (2, before)):
    data = DataConfig(
      'image_folder', path='/gone', image_size=8, folder_rules=rules
    )
    pictures = Pictures(str(folder), data)
    np.testing.assert_array_equal(pictures[np.arange(20)], want)


def test_without_profiles_nothing_is_decoded_again(tmp_path, monkeypatch):
  folder = write(tmp_path / 'images', lambda index: None)
  opened = [
    open_dataset('image_folder', tmp_path / 'data', path=folder, folder_rules=2)
  ]
  want = everything(load(opened[0]))
  opened.append(open_dataset('image_folder', tmp_path / 'data', path=folder))
  assert not opened[1].to_srgb
  monkeypatch.setattr(decode, 'to_size', None)  # Would fail.
  np.testing.assert_array_equal(everything(load(opened[1])), want)


def test_small_images_and_strips_are_counted(folder, tmp_path):
  sizes = [(16, 12)] * 2 + [(40, 20), (4000, 5)] + [(64, 64)] * 5 + [(90, 70)]
  for index, size in enumerate(sizes):
    Image.new('RGB', size, (index, 0, 0)).save(folder / f'{index}.png')
  for _ in range(2):  # After the check, and from the index.
    dataset = open_dataset('image_folder', tmp_path / 'data', path=folder)
    data = DataConfig('image_folder', image_size=(32, 64))
    assert dataset.report(data)[2:] == [
      'Warning: 4 of 10 images are smaller than the 64 x 32 pixels that are '
      "read, and are enlarged; the smallest is 4000 x 5 ('3.png').",
      'Warning: 1 of 10 images are strips, of which the crop keeps less than a '
      "quarter, such as '3.png' (4000 x 5).",
    ]
    data = DataConfig('image_folder', image_size=12)
    assert [line for line in dataset.report(data) if 'enlarged' in line] == [
      'Warning: 1 of 10 images are smaller than the 12 x 12 pixels that are '
      "read, and are enlarged; the smallest is 4000 x 5 ('3.png')."
    ]
    data = DataConfig('image_folder', image_size=12, center_crop=10)
    assert '10 of 10 images are smaller' in ' '.join(dataset.report(data))
    assert len(dataset.report(DataConfig('image_folder', image_size=4))) == 3
