"""Counts files of a folder that are not read, and names what reads them."""

import collections
import os
import pathlib
from collections.abc import Collection

from vaegan_jax.data.file_lists import list_files

_MAX_KINDS = 5  # That are named.
_CONVERT = 'ffmpeg converts them to .wav'
_SOURCE = '--config.data.name={} reads such files'
_READERS = (
  (_CONVERT, '.mp3 .ogg .oga .opus .m4a .aac .wma .aif .aiff .caf .au .w64'),
  (_SOURCE.format('medical'), '.nii .dcm'),
  (_SOURCE.format('array_file'), '.h5 .hdf5 .hdf .he5 .mat .zarr .nc'),
  (_SOURCE.format('hugging_face'), '.parquet .arrow'),
  (_SOURCE.format('archive'), '.tar .zip'),
  ('unpack them first', '.tgz .7z .rar'),
  ('bioio reads them, and tifffile writes them as .tif', '.czi .nd2 .lif'),
  ('openslide reads them', '.svs .ndpi .mrxs'),
  ('OpenEXR reads them', '.exr'),
  ('rawpy develops them', '.cr2 .cr3 .nef .arw .dng .raf .orf'),
  ('ffmpeg extracts their frames', '.mp4 .avi .mov .mkv .webm'),
  ('astropy reads them', '.fits .fit'),
  ('mrcfile reads them', '.mrc'),
  ('SimpleITK reads them', '.mha .mhd .nrrd'),
  ('a pickle may run programs and is never loaded', '.pkl .pickle .pt .pth'),
)
_READER_OF = {
  suffix: reader for reader, names in _READERS for suffix in names.split()
}
_IMAGES = '.jpg .jpeg .jfif .png .webp .bmp .gif .avif .heic .jp2 .ppm .pgm'
_ARRAYS = '.npy .npz .wav .flac .aif .aiff .mp3 .ogg .oga .opus'
# By whether the folder is read as arrays.
_OTHER_NAME = {
  True: dict.fromkeys(
    _IMAGES.split(), '--config.data.name=image_folder reads them'
  ),
  False: dict.fromkeys(
    _ARRAYS.split(), '--config.data.name=array_folder reads them'
  ),
}


def count_others(
  root: pathlib.Path, known: Collection[str]
) -> collections.Counter:
  """Counts the files that are not in `known`, by suffix, except hidden ones."""
  others = list_files(root, lambda path: True).keys() - set(known)
  return collections.Counter(_suffix(name) for name in others)


def describe(counts: collections.Counter, holds_arrays: bool) -> str:
  """Returns "40 .mp3 (ffmpeg converts them to .wav) and 3 .txt", or ''."""
  readers = _READER_OF | _OTHER_NAME[holds_arrays]
  most = counts.most_common(_MAX_KINDS)
  named = []
  for suffix, number in most:
    reader = f' ({readers[suffix]})' if suffix in readers else ''
    named.append(f'{number:,} {suffix}{reader}')
  others = sum(counts.values()) - sum(number for _, number in most)
  if others:
    named.append(f'{others:,} others')
  if len(named) < 2:
    return ''.join(named)
  return f'{", ".join(named[:-1])} and {named[-1]}'


def of_data(counts: collections.Counter) -> collections.Counter:
  """Returns the counts of the suffixes that files of data have."""
  return collections.Counter(
    {suffix: n for suffix, n in counts.items() if suffix in _READER_OF}
  )


def _suffix(name: str) -> str:
  stem, suffix = os.path.splitext(name.lower())
  if suffix in ('.gz', '.bz2', '.xz', '.zst'):  # As in .nii.gz.
    suffix = os.path.splitext(stem)[1] or suffix
  return suffix or 'files without a suffix'
