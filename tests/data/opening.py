"""Opens data sets in tests as a run does."""

from pathlib import Path

import numpy as np

from vaegan_jax.data import arrays, no_data, sources
from vaegan_jax.data.array_files import ArrayFiles
from vaegan_jax.data.data_config import DataConfig
from vaegan_jax.data.reading import Reading
from vaegan_jax.data.split import load_splits, open_split


class Examples:
  """The examples of a split, in memory."""

  def __init__(self, array):
    self.array, self.stored_dtype = array, array.dtype

  def __len__(self):
    return len(self.array)

  def __getitem__(self, indices):
    return self.array[indices]


def open_dataset(name, data_dir, **fields):
  """Opens a data set; `fields` are those of `config.data`."""
  fields = {'name': name, 'data_dir': str(data_dir), **fields}
  if 'path' in fields:
    fields['path'] = str(fields['path'])
  return sources.find(name).open(DataConfig(**fields))


def open_folder(folder, data_dir, **fields):
  """Opens a folder of images."""
  return open_dataset('image_folder', data_dir, path=folder, **fields)


def list_arrays(folder, **fields):
  """Lists the arrays of a folder; `fields` are those of `config.data`."""
  return ArrayFiles(str(folder), DataConfig('array_folder', **fields))


def open_splits(name, path, data_dir, *fields, **options):
  """Opens splits, both by default; returns also the lines that are printed."""
  lines = []
  data = DataConfig(name, path=str(path), data_dir=str(data_dir), **options)
  fields = fields or ('train_split', 'eval_split')
  return *load_splits(data, fields, report=lines.append), lines


def names_in(dataset, *splits):
  """Returns the relative names of the files in splits of a folder."""
  return {
    name for split in splits or dataset.counts for name in dataset._names[split]
  }


def stored(dataset, *splits):
  """Returns {description: what is stored} of all examples."""
  return {
    dataset.describe(split, index): dataset.read(split, [index])[0]
    for split in splits or dataset.counts
    for index in range(dataset.counts[split])
  }


def report(dataset):
  """Returns what a run prints about a data set."""
  return ' '.join(dataset.report(None))


def load(dataset, split='train', field='data.train_split', **options):
  """Opens a split of images of 8 x 8, unless `options` differ."""
  options = {'shape': (8, 8), 'channels': 3, **options}
  return open_split(dataset, DataConfig(dataset.name, **options), split, field)


def read_array(data):
  """Returns the values of a file as they are, also those of no data."""
  return arrays.read_stored(data, Reading(nodata=no_data.IGNORE)).values


def everything(images):
  """Returns all examples of a split."""
  return images[np.arange(len(images))]


def caches(data_dir):
  """Returns the decoded copies below a folder."""
  return sorted(Path(data_dir).rglob('decoded-*.npy*'))
