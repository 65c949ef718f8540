"""Lists of the files in a user's folder, and of what reads the others."""

import collections
import os
import pathlib
from collections.abc import Callable, Collection

from absl import logging

from vaegan_jax.data import decode
from vaegan_jax.data.store import read_start, stat_of

# Files with these names are images, and damaged if their content is not.
_FIRST_SUFFIXES = (
  *('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.gif'),
  *('.tif', '.tiff', '.ppm', '.pgm'),
)
_SUFFIXES = (
  *_FIRST_SUFFIXES,
  *('.jfif', '.jpe', '.avif', '.heic', '.heif', '.hif', '.jxl'),
  *('.jp2', '.j2k', '.jpf', '.jpx'),
)
# Folders with thumbnails and notes, which a Synology and a Mac add.
_OTHER_FOLDERS = ('@eaDir', '__MACOSX')
_MAX_KINDS = 5  # The most that a message names.
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


def find_images(
  root: pathlib.Path, rules: int = 4
) -> dict[str, tuple[int, int]]:
  """Finds images by their names, and by content from rules 2 on."""
  if rules == 1:
    return list_files(root, _FIRST_SUFFIXES)
  return list_files(
    root,
    _SUFFIXES,
    lambda path: bool(decode.find_kind(read_start(path, 64))),
    _OTHER_FOLDERS,
  )


def list_files(
  root: pathlib.Path,
  suffixes: tuple[str, ...] = ('',),
  is_example: Callable[[pathlib.Path], bool] = lambda path: False,
  other_folders: Collection[str] = (),
) -> dict[str, tuple[int, int]]:
  """Finds files in a folder at any depth, except hidden ones.

  Args:
    root: the folder.
    suffixes: in lower case; files that end in one are found.
    is_example: whether any other file is found.
    other_folders: names of folders that are not entered.

  Returns:
    (bytes, nanoseconds of the last change) by name relative to the folder.
  """
  found, seen = {}, set()
  for folder, subfolders, files in os.walk(
    root, onerror=_warn_about_folder, followlinks=True
  ):
    status = os.stat(folder)
    if (status.st_dev, status.st_ino) in seen:  # A link up, or a second one.
      subfolders.clear()
      continue
    seen.add((status.st_dev, status.st_ino))
    subfolders[:] = sorted(
      s for s in subfolders if s[0] != '.' and s not in other_folders
    )
    for file in files:
      path = pathlib.Path(folder, file)
      is_named = file.lower().endswith(suffixes)
      if not file.startswith('.') and (is_named or is_example(path)):
        name = path.relative_to(root).as_posix()
        try:
          found[name] = stat_of(path)
        except OSError:  # A dangling link counts as a damaged file.
          found[name] = 0, 0
  return found


def _warn_about_folder(error: OSError) -> None:
  logging.warning('Skipped a folder that cannot be read: %s', error)


def count_others(
  root: pathlib.Path, known: Collection[str]
) -> collections.Counter:
  """Counts the files that are not in `known`, by suffix, except hidden ones."""
  others = list_files(root).keys() - set(known)
  return collections.Counter(_suffix(name) for name in others)


def describe_others(counts: collections.Counter, holds_arrays: bool) -> str:
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


def only_data(counts: collections.Counter) -> collections.Counter:
  """Returns the counts of the suffixes that files of data have."""
  return collections.Counter(
    {suffix: n for suffix, n in counts.items() if suffix in _READER_OF}
  )


def _suffix(name: str) -> str:
  stem, suffix = os.path.splitext(name.lower())
  if suffix in ('.gz', '.bz2', '.xz', '.zst'):  # As in .nii.gz.
    suffix = os.path.splitext(stem)[1] or suffix
  return suffix or 'files without a suffix'
