"""Color profiles of images, and the conversion of colors to sRGB.

Pixels without a profile are taken for sRGB, as browsers do. So are those whose
profile cannot be used.
"""

import functools
import io
from typing import NamedTuple

import numpy as np
from PIL import Image

_CACHED = 64  # Profiles; a folder rarely has more.
_SAME = 2  # Levels of 255 by which profiles that are sRGB differ from it.
_SPACES = {'RGB': 'RGB', 'L': 'GRAY', 'CMYK': 'CMYK'}  # Of a profile, by mode.


class Profile(NamedTuple):
  """A color profile other than sRGB."""

  name: str  # Its description.
  transform: object | None  # Pillow's, to sRGB; None if it cannot be used.


def find_profile(image: Image.Image) -> Profile | None:
  """Returns the profile of an image; None if there is none, or it is sRGB."""
  content = image.info.get('icc_profile')
  # A malformed TIFF may have text here.
  if not isinstance(content, bytes) or not content or image.mode == 'LAB':
    return None
  return _read(content, _mode_of(image))


def to_srgb(image: Image.Image) -> Image.Image:
  """Converts the colors of an image with a profile to sRGB.

  Returns:
    RGB, RGBA, L or LA; or the image itself if it needs no conversion, or its
    profile cannot be used.
  """
  profile = find_profile(image)
  if profile is None or profile.transform is None:
    return image
  mode = _mode_of(image)
  colors = image if image.mode == mode else image.convert(mode)
  converted = profile.transform.apply(colors)
  if mode == 'L':  # All three are the same.
    converted = converted.getchannel('G')
  if image.has_transparency_data:
    converted.putalpha(image.convert('RGBA').getchannel('A'))
  return converted


def _mode_of(image: Image.Image) -> str:
  if image.mode in ('1', 'L', 'LA', 'La'):
    return 'L'
  return 'CMYK' if image.mode == 'CMYK' else 'RGB'


@functools.lru_cache(_CACHED)
def _read(content: bytes, mode: str) -> Profile | None:
  """Reads a profile of pixels in `mode`; see `find_profile`."""
  name = 'damaged'
  try:
    from PIL import ImageCms  # A Pillow may be built without it.

    profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
    name = (profile.profile.profile_description or 'unnamed').strip()
    space = profile.profile.xcolor_space.strip()
    usual = ImageCms.createProfile('sRGB')
    # A grey image often keeps the profile of the image that it was made from.
    given = next((m for m, s in _SPACES.items() if s == space), mode)
    transform = ImageCms.buildTransform(profile, usual, given, 'RGB')
    if _is_srgb(transform, given):
      return None
    return Profile(name, transform if given == mode else None)
  except Exception:  # Whatever Pillow raises for a damaged profile.
    return Profile(name, None)


def _is_srgb(transform, mode: str) -> bool:
  """Returns whether a transform to sRGB leaves colors as they are."""
  if mode == 'CMYK':
    return False
  levels = np.linspace(0, 255, 18).round().astype(np.uint8)
  if mode == 'RGB':
    pixels = np.stack(np.meshgrid(levels, levels, levels), -1)
    pixels = pixels.reshape(-1, len(levels), 3)
  else:
    pixels = np.arange(256, dtype=np.uint8)[None]
  converted = np.asarray(transform.apply(Image.fromarray(pixels)), int)
  same = pixels if mode == 'RGB' else pixels[..., None]
  return np.abs(converted - same).max() <= _SAME
