"""Tiles of GeoTIFF scenes in a folder, which may be larger than memory."""

import collections
import os
import pathlib

import numpy as np

from vaegan_jax.data import scene_files, tiff_files
from vaegan_jax.data.source_bases import StoreSource
from vaegan_jax.data.split_names import numbers_of, splits_of
from vaegan_jax.data.store import Parts, Recent, Store, hash_names, stat_of
from vaegan_jax.errors import UserError

_OPEN_AT_ONCE = 16  # Scenes.


class Scenes(Store):
  """The tiles of a grid over each scene."""

  noun = 'tiles'

  def __init__(self, path, data):
    self.location = path
    self._names = _find_scenes(self.location)
    self._tile = tuple(data.read_shape)
    if len(self._tile) != 2:
      raise UserError(
        f'data.shape={data.shape} must be the height and width of the tiles of '
        'data.path: for example, --config.data.shape="(64, 64)"'
      )
    self.options = (*self._tile, 'places')
    self._recent = Recent(_OPEN_AT_ONCE)

  def state(self):
    state = [(name, *stat_of(self._path(name))) for name in self._names]
    masked = [n for n in self._names if tiff_files.has_mask(self._path(n))]
    return state + masked

  def scan(self):
    scenes = [scene_files.Scene(self._path(name)) for name in self._names]
    where = [scene.place for scene in scenes]
    groups = scene_files.group_places(self._names, where)
    return [
      {
        'group': group,
        'shape': scene.shape,
        'scale': scene.pixel_scale,
        'place': scene.place,
        'is_mapped': scene.is_mapped,
        'segment': scene.segment,
      }
      for scene, group in zip(scenes, groups, strict=True)
    ]

  def load(self, found):
    self._found = found
    self.are_mapped = all(scene['is_mapped'] for scene in found)
    self._corners = [_order_tiles(scene, self._tile) for scene in found]
    counts = [len(corners) for corners in self._corners]
    self._tiles = Parts(counts)
    if not len(self._tiles):
      raise UserError(
        f'data.shape={list(self._tile)} is larger than each of the '
        f'{len(found):,} scenes of data.path={self.location!r}, such as '
        f'{list(found[0]["shape"])}: take smaller tiles'
      )
    of_tiles = np.repeat(splits_of(self._names), counts)
    self.splits = numbers_of(of_tiles)
    self._places = [scene['group'] for scene in found]
    grids = {(*scene['shape'][:2], *scene['place']) for scene in found}
    self._is_one_place = len(set(self._places)) == 1
    if self._is_one_place and len(grids) > 1 and len(self.splits) < 2:
      raise UserError(
        f'data.path={self.location!r} has {len(found):,} scenes that all '
        'overlap, some through others, so that none can be held out without '
        'its place: put them into folders "train" and "test", and leave out '
        'those that are in both'
      )

  def __len__(self):
    return len(self._tiles)

  def read(self, number):
    """Returns a tile [H, W, C]; see `Store.read`."""
    scene, top, left = self._find(number)
    path = self._path(self._names[scene])
    opened = self._recent.get(scene, lambda: scene_files.Scene(path))
    return opened.read(top, left, *self._tile)

  def close(self):
    self._recent.clear()

  def describe(self, number):
    scene, top, left = self._find(number)
    return f'{self._names[scene]!r} from [{top}, {left}]'

  def hashes(self):
    """Returns hashes of places; or of rows of tiles, if there is only one."""
    if self._is_one_place:
      rows = np.concatenate(self._corners)[:, 0] // self._tile[0]
      return hash_names([f'row {row}' for row in range(rows.max() + 1)])[rows]
    return np.repeat(
      hash_names(self._places), [len(corners) for corners in self._corners]
    )

  def report(self):
    height, width = self._tile
    number = len(set(self._places))
    split = 'Each scene is in one split'
    if self._is_one_place:
      split = 'It is split by rows of tiles, as there is only one scene'
    if number < len(self._names):
      split = f'Those that overlap are one place, and in one split: {number:,}'
      split += ' places'
      if self._is_one_place:
        split = 'All show one place, which is split by rows of tiles'
    lines = [
      f'{len(self._names):,} scenes are cut into tiles of {height} x {width}. '
      + ('' if self.splits else f'{split}.')
    ]
    if shared := self._count_shared():
      lines.append(
        f'{shared:,} of {number:,} places are in several splits, as their '
        'scenes overlap: move these into one folder.'
      )
    scales = collections.Counter(tuple(scene['scale']) for scene in self._found)
    if len(scales) > 1:
      listed = ', '.join(
        f'{" x ".join(f"{n:g}" for n in scale) or "unknown"} ({count:,})'
        for scale, count in scales.most_common(4)
      )
      lines.append(
        f'Sizes of pixels differ: {listed}; scenes are not resampled, so '
        'resample them.'
      )
    return lines

  def _count_shared(self):
    """Returns the number of places in several of the folders' splits."""
    splits = zip(self._places, splits_of(self._names), strict=True)
    found = {(place, split) for place, split in splits if split}
    return len(found) - len({place for place, _ in found})

  def _find(self, number):
    scene, tile = self._tiles.find(number)
    top, left = self._corners[scene][tile]
    return scene, int(top), int(left)

  def _path(self, name):
    return os.path.join(self.location, name) if name else self.location


def _order_tiles(scene, tile):
  """Returns the corners [N, 2] of tiles; neighbours share decoded parts."""
  counts = [scene['shape'][axis] // tile[axis] for axis in range(2)]
  corners = np.indices(counts, np.int32).reshape(2, -1)
  corners *= np.array(tile, np.int32)[:, None]
  segments = corners // np.array(scene['segment'], np.int32)[:, None]
  # The last key is the first to sort by.
  order = np.lexsort((*corners[::-1], *segments[::-1]))
  return corners[:, order].T


def _find_scenes(location):
  """Returns the relative names of scenes, sorted; '' for a single file."""
  if os.path.isfile(location):
    return ['']
  root = pathlib.Path(location)
  names = sorted(
    path.relative_to(root).as_posix()
    for path in root.rglob('*')
    if path.suffix.lower() in scene_files.SUFFIXES and path.name[0] != '.'
  )
  if not names:
    raise UserError(
      f'data.path={location!r} must be a GeoTIFF, or a folder of them, and has '
      'none: name another, such as "~/scenes"'
    )
  return names


class Source(StoreSource):
  """Tiles of the shape `data.shape`, with all bands."""

  store = Scenes
  holds_arrays = True
  path_is = 'a GeoTIFF, or a folder of them'
  has_crops = False

  @classmethod
  def open(cls, data, *, fill_bucket=False):
    dataset = super().open(data, fill_bucket=fill_bucket)
    if dataset.store.are_mapped:  # A copy would only take room.
      dataset.cache_dir = None
    return dataset
